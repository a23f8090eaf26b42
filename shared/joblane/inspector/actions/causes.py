"""The marks of operators on causes of failures: known, resolved, ignored, and open again."""

from __future__ import annotations

from collections.abc import Sequence

from joblane.inspector.actions import audit
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import Filter
from joblane.inspector.scope import Scope
from joblane.inspector.stage import causes
from joblane.inspector.tasks.filter_sql import LONGEST_WITHIN, checked
from joblane.inspector.views import CauseState, MarkedCauses
from joblane.record import audit as entries
from joblane.sweep.causes import write_causes

ACTION = "mark_errors"
MOST_MARKED = 100
"""Causes that are marked at once."""
MARKS = (CauseState.KNOWN, CauseState.RESOLVED, CauseState.IGNORED, CauseState.OPEN)

KEPT = "select fingerprint, coalesce(mark, 'open') from joblane.causes where fingerprint = any($1::text[])"
MARK = """
update joblane.causes
   set mark = $2::text, marked_at = clock_timestamp(), marked_by = $3::text, note = $4::text
 where fingerprint = any($1::text[])
"""
OPEN = """
update joblane.causes set mark = null, marked_at = null, marked_by = null, note = null
 where fingerprint = any($1::text[])
"""
BEFORE = """
select jsonb_build_object('fingerprint', fingerprint, 'type', type, 'mark', mark, 'marked_at', marked_at,
                          'marked_by', marked_by, 'note', note)
  from joblane.causes where fingerprint = any($1::text[])
"""
RESTORE = """
update joblane.causes c set mark = r.mark, marked_at = r.marked_at, marked_by = r.marked_by, note = r.note
  from jsonb_to_recordset($1::jsonb)
       as r(fingerprint text, type text, mark text, marked_at timestamptz, marked_by text, note text)
 where c.fingerprint = r.fingerprint and c.type = r.type
"""


def mark(scope: Scope, fingerprints: Sequence[str], state: CauseState, reason: str | None) -> MarkedCauses:
    """Mark causes, all of them or none. Each has an audit entry. Raises :class:`SelectionError`."""
    wanted = list(dict.fromkeys(fingerprints))
    if isinstance(fingerprints, str) or not 1 <= len(wanted) <= MOST_MARKED:
        raise SelectionError("fingerprints", f"a list of 1 to {MOST_MARKED} fingerprints is required")
    if state not in MARKS:
        raise SelectionError("state", f"{', '.join(MARKS)} are the states that an operator sets")
    for fingerprint in wanted:
        checked(scope, Filter(fingerprint=fingerprint))
    if state is not CauseState.OPEN and audit.check_reason(reason) is None:
        raise SelectionError("reason", "a note is required, for other operators")
    found = causes.read(scope, Filter(), within=LONGEST_WITHIN, fingerprints=wanted, limit=causes.MOST_CAUSES).causes
    before = {fingerprint: CauseState(kept) for fingerprint, kept in scope.connection.run(KEPT, wanted)}
    before |= {cause.fingerprint: cause.state for cause in found}
    if unknown := [fingerprint for fingerprint in wanted if fingerprint not in before]:
        raise SelectionError("filter", f"no failure has the fingerprint {unknown[0]}; `joblane errors` lists them")
    with audit.action(scope, ACTION, f"cause:{wanted[0]}", reason) as doing:
        rows = [(one.fingerprint, one.type, one.error_type, one.message, one.first_at, one.last_at) for one in found]
        write_causes(doing.connection, [(*row, None) for row in rows])
        doing.details["before"] = [row for (row,) in doing.connection.run(BEFORE, wanted)]
        if state is CauseState.OPEN:
            doing.connection.run(OPEN, wanted)
        else:
            doing.connection.run(MARK, wanted, str(state), doing.who, doing.reason)
        doing.details["state"] = state
        for fingerprint in wanted[1:]:
            entries.write(
                doing.connection, doing.who, ACTION, f"cause:{fingerprint}", reason=doing.reason, details=doing.details
            )
    return MarkedCauses(state, {fingerprint: before[fingerprint] for fingerprint in wanted})
