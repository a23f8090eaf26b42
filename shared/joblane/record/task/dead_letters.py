"""Marking dead letters as sent, and inserting the successor task that ``on_archived`` declares."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from joblane.record.flow.free_slots import Turn
from joblane.record.row.states import SWEEP_MARGIN_SECONDS
from joblane.record.task.row_by_row import run_rows
from joblane.sqs.message import MAX_ID

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection

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
insert into joblane.tasks
       (id, type, queue, tenant, state, payload, payload_digest, headers, max_attempts, retention_seconds, sweep_at,
        total_limit, shared_limit, first_due_at, seq, depth, events)
select case when length(m.id) <= {MAX_ID - 20} then m.id else left(m.id, {MAX_ID - 53}) || '-' || md5(m.id) end
         || ':archived:' || m.generation::text,
       a.type, a.queue, m.tenant, 'pending',
       pg_catalog.jsonb_build_object(
           'task_id', m.id, 'task_type', m.type, 'queue', m.queue, 'tenant', m.tenant,
           'reason', coalesce(m.reason, 'archived'), 'error_type', m.error_type, 'runs', m.runs),
       '', m.headers, a.max_attempts, a.retention_seconds, clock_timestamp() + interval '{SWEEP_MARGIN_SECONDS} s',
       a.limits[2], a.limits[3], case when a.limits is not null then clock_timestamp() end,
       case when a.limits is not null then pg_catalog.nextval('joblane.tasks_seq'::regclass) end,
       m.depth, a.events
  from marked m, jsonb_to_record(m.on_archived)
                   as a(type text, queue text, max_attempts integer, retention_seconds bigint, limits text[],
                        events text[])
 where m.on_archived is not null
on conflict do nothing
returning id, type, queue, tenant
"""


def mark_dead_sent(connection: Connection, dead_letters: Iterable[tuple[str, int]]) -> list[Turn]:
    """Record that the dead letters of these task ids and generations were sent. Return the successors to send, which
    ``on_archived`` has inserted."""
    sent = [{"id": id_, "generation": generation} for id_, generation in sorted(dead_letters)]
    return [Turn(*row) for row in run_rows(connection, MARK_DEAD_SENT, sent)]
