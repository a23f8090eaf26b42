"""Marking dead letters as sent, and inserting the successor task that ``on_archived`` declares."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from joblane.record.flow.free_slots import Turn
from joblane.record.row.new import FIELDS, INSERTED, defined
from joblane.record.row.states import SWEEP_MARGIN_SECONDS
from joblane.record.row.transitions import NOW, Columns
from joblane.record.task.row_by_row import run_rows
from joblane.sqs.message import MAX_ID

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection

DECLARED = {name: FIELDS[name] for name in ("type", "queue", "max_attempts", "retention_seconds", "limits")}
DECLARED["events"] = "text[]"
"""The fields of the column ``on_archived``, each with its type."""
OF_A_NEW_ROW = (
    "type", "queue", "max_attempts", "retention_seconds", "total_limit", "shared_limit", "first_due_at", "seq",
)  # fmt: skip
SUCCESSOR: Columns = {
    **{name: INSERTED[name] for name in OF_A_NEW_ROW},
    **{name: f"m.{name}" for name in ("tenant", "headers", "depth")},
    "id": f"case when length(m.id) <= {MAX_ID - 20} then m.id"
    f" else left(m.id, {MAX_ID - 53}) || '-' || md5(m.id) end || ':archived:' || m.generation::text",
    "state": "'pending'",
    "payload": "pg_catalog.jsonb_build_object('task_id', m.id, 'task_type', m.type, 'queue', m.queue,"
    " 'tenant', m.tenant, 'reason', coalesce(m.reason, 'archived'), 'error_type', m.error_type, 'runs', m.runs)",
    "payload_digest": "''",
    "events": "x.events",
    "sweep_at": f"{NOW} + interval '{SWEEP_MARGIN_SECONDS} s'",
}
"""The columns of a successor, from the declared fields ``x`` and the row ``m`` of the archived task."""

# If the type declares `on_archived`, the same statement inserts the successor. Its id derives from the task's id and
# generation, so a repeated call inserts nothing. Its depth is that of the task: what it enqueues continues the chain.
MARK_DEAD_SENT = f"""
with unmarked as materialized (
  select r.id from (select * from jsonb_to_recordset($1::jsonb) as x(id text, generation integer)
                     order by id collate "C") as x,
         lateral (select t.id from joblane.tasks t
                   where t.id = x.id and t.generation = x.generation
                     and t.state = 'archived' and t.dead_sent_at is null for no key update) as r
),
marked as (
  update joblane.tasks t set dead_sent_at = clock_timestamp(), dead_letter_unsent = false, sweep_at = null
   where t.id = any(array(select id from unmarked))
  returning t.*
)
insert into joblane.tasks ({", ".join(SUCCESSOR)})
select {", ".join(SUCCESSOR.values())}
  from marked m, jsonb_to_record(m.on_archived) as x({defined(DECLARED)}), lateral (select {NOW}) as d(due_at)
 where m.on_archived is not null
on conflict do nothing
returning id, type, queue, tenant
"""


def mark_dead_sent(connection: Connection, dead_letters: Iterable[tuple[str, int]]) -> list[Turn]:
    """Record that the dead letters of these task ids and generations were sent. Return the successors to send, which
    ``on_archived`` has inserted."""
    sent = [{"id": id_, "generation": generation} for id_, generation in sorted(dead_letters)]
    return [Turn(*row) for row in run_rows(connection, MARK_DEAD_SENT, sent)]
