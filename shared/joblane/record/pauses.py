"""Writing pauses: of an operator, and of a deploy that points the stage to another copy of its database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pg8000.exceptions import DatabaseError

from joblane.names import BULK, Queue
from joblane.record.audit import write

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection

# A pause that has expired starts anew. No row is returned if the end is not in the future.
PAUSE = """
with before as (
  select since, paused_by from joblane.pauses
   where scope = $1 and name = $2 and (until is null or until > clock_timestamp()) for update
)
insert into joblane.pauses (scope, name, reason, paused_by, until)
select $1, $2, $3::text, $4::text, $5::timestamptz
 where $5::timestamptz is null or $5::timestamptz > clock_timestamp()
on conflict (scope, name) do update set
  reason = excluded.reason, paused_by = excluded.paused_by, until = excluded.until,
  since = coalesce((select since from before), clock_timestamp())
returning scope, name, reason, paused_by, since, until, exists (select from before), (select paused_by from before)
"""
# Of two concurrent pauses of the same thing, the second must see the first. Readers are not blocked.
ONE_AT_A_TIME = "lock table joblane.pauses in share row exclusive mode"
EVERYTHING = (*(("queue", str(queue)) for queue in Queue), ("type", BULK))
"""The pauses after which nothing runs but the sweep. The pause of a queue leaves out ``jobs:*``, and an action on many
tasks would continue on tasks and dead letters that are not those for which it was started."""
LOOK = ". Check what will run again, then resume each queue: docs/how-to/restore.md"
BEFORE = ". It was paused before"
# Of the pause of an earlier move, only the pause before that move is kept: a reason does not grow with each move.
REASON_WITH_BEFORE = f"""
select $3 || case
    when p.name is null then ''
    when strpos(p.reason, '{LOOK}') > 0
      then coalesce(substr(p.reason, nullif(strpos(p.reason, '{LOOK}{BEFORE}'), 0) + {len(LOOK)}), '')
    else '{BEFORE}' || coalesce(', by ' || p.paused_by, '')
      || coalesce(' until ' || to_char(p.until at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'), '')
      || coalesce(': ' || p.reason, '') end
  from (select) as one left join joblane.pauses p
    on p.scope = $1 and p.name = $2 and (p.until is null or p.until > clock_timestamp())
"""


def pause_everything(connection: Connection, reason: str, by: str) -> None:
    """Pause every queue, and actions on many tasks, in one transaction with the entries of the audit.

    ``reason`` gets :data:`LOOK` at its end. The reason of a pause that is replaced follows, since a resume ends both.
    After an error no transaction is open, so that the call can be repeated.
    """
    reason += LOOK
    try:
        connection.execute_simple("begin")
        connection.run(ONE_AT_A_TIME)
        for scope, name in EVERYTHING:
            [[why]] = connection.run(REASON_WITH_BEFORE, scope, name, reason)
            [[*_, replaced, _]] = connection.run(PAUSE, scope, name, why, by, None)
            details: dict[str, Any] = {"until": None, "replaced": replaced}
            write(connection, by, "pause", f"{scope}:{name}", reason=reason, details=details)
        connection.commit()
    except DatabaseError:  # after any other error the connection is unusable
        connection.rollback()
        raise
