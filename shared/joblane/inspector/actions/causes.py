"""The marks of operators on causes of failures: known, resolved, ignored, and open again."""

from __future__ import annotations

from collections.abc import Sequence

from joblane.inspector.actions import audit
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import Filter
from joblane.inspector.scope import Scope
from joblane.inspector.stage.trends import causes
from joblane.inspector.tasks.filter_sql import LONGEST_WITHIN, checked
from joblane.inspector.views import CauseState, MarkedCauses
from joblane.record import audit as entries
from joblane.sweep.causes import write_causes

ACTION = "mark_errors"
MOST_MARKED = 100
"""Causes that are marked at once."""
MARKS = (CauseState.KNOWN, CauseState.RESOLVED, CauseState.IGNORED, CauseState.OPEN)

KEPT = """
select coalesce(mark, 'open'), fingerprint, type, error_type, message, first_at, last_at
  from joblane.causes where fingerprint = any($1::text[])
"""
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
with old as (
  select c.fingerprint, c.type, r.mark, r.marked_at, r.marked_by, r.note
    from joblane.causes c
         join jsonb_to_recordset($1::jsonb)
              as r(fingerprint text, type text, mark text, marked_at timestamptz, marked_by text, note text)
         using (fingerprint, type)
   order by c.fingerprint, c.type for no key update of c
)
update joblane.causes c set mark = o.mark, marked_at = o.marked_at, marked_by = o.marked_by, note = o.note
  from old o where c.fingerprint = o.fingerprint and c.type = o.type
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
    kept = scope.connection.run(KEPT, wanted)
    before = {row[1]: CauseState(row[0]) for row in kept}
    before |= {cause.fingerprint: cause.state for cause in found}
    if unknown := [fingerprint for fingerprint in wanted if fingerprint not in before]:
        raise SelectionError("filter", f"no failure has the fingerprint {unknown[0]}; `joblane errors` lists them")
    with audit.action(scope, ACTION, f"cause:{wanted[0]}", reason) as doing:
        rows = {(one[1], one[2]): one[1:] for one in kept}
        for one in found:
            rows[one.fingerprint, one.type] = [
                one.fingerprint,
                one.type,
                one.error_type,
                one.message,
                one.first_at,
                one.last_at,
            ]
        # all of them, so that their rows are locked in order
        write_causes(doing.connection, [(*row, None) for row in rows.values()])
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
