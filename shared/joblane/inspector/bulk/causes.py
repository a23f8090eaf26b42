"""Acknowledged causes: an operator knows why tasks fail, until another task fails for the same cause."""

from __future__ import annotations

from joblane.inspector.actions import audit
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import Filter
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import checked
from joblane.inspector.views import ActionResult
from joblane.record.row.states import State

ACKNOWLEDGE = """
insert into joblane.causes (fingerprint, who, note) values ($1, $2, $3)
on conflict (fingerprint) do update set at = clock_timestamp(), who = excluded.who, note = excluded.note
"""
IS_CAUSE = """
select where exists (select from joblane.tasks where fingerprint = $1 and state = 'archived' and not cleared
                        and (dead_sent_at is not null or dead_letter_unsent))
"""


def acknowledge(scope: Scope, fingerprint: str, note: str) -> ActionResult:
    """Mark a cause as known, until another task fails with it. Raises :class:`SelectionError`."""
    fingerprint = checked(scope, Filter(fingerprint=fingerprint)).fingerprint or ""
    with audit.action(scope, "acknowledge", f"cause:{fingerprint}", note) as doing:
        said = audit.check_reason(note)
        if said is None:
            raise SelectionError("reason", "a note is required, for other operators")
        if not doing.connection.run(IS_CAUSE, fingerprint):
            raise SelectionError("filter", f"no archived task has the fingerprint {fingerprint}; see `joblane dead`")
        doing.connection.run(ACKNOWLEDGE, fingerprint, doing.who, said)
    return ActionResult(fingerprint, "acknowledge", State.ARCHIVED, State.ARCHIVED)
