"""Rows of new tasks: inserted, found in the way, or put in the place of a task that waits; and marked as sent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from joblane.json_values import digest
from joblane.limits import MAX_DELAY_SECONDS
from joblane.record.states import LIVE_SQL, SWEEP_MARGIN_SECONDS, WAITING_SQL, State
from joblane.record.transitions import FRESH, assignments

if TYPE_CHECKING:
    from joblane.declaration import Task
    from joblane.options import Options
    from joblane.queues import Queue
    from joblane.sqs.client import Entry
    from joblane.unique import OnConflict, Unique

NEW = """rows from (jsonb_to_recordset(cast($1 as jsonb)) as (
         id text, type text, queue text, tenant text, owner text, tags text[], payload jsonb, payload_digest text,
         schema text, headers jsonb, options jsonb, max_attempts integer, retention_seconds bigint,
         deadline timestamptz,
         unique_key text, unique_until text, unique_seconds float8, delay float8, at timestamptz, unsent boolean))
         with ordinality as x,
       lateral (select coalesce(x.at, clock_timestamp() + make_interval(secs => coalesce(x.delay, 0)))) as d(due_at)"""
DUE_STATE = "case when d.due_at > clock_timestamp() then 'scheduled' else 'pending' end"

# A row is looked at by the sweep a minute after it should have run; one that is further off than DelaySeconds reaches
# is sent by the sweep in the quarter of an hour before.
DUE_SWEEP = f"""case when d.due_at > clock_timestamp() + interval '{MAX_DELAY_SECONDS} s'
            then d.due_at - interval '{MAX_DELAY_SECONDS} s'
            when x.unsent then clock_timestamp()
            else greatest(d.due_at, clock_timestamp()) + interval '{SWEEP_MARGIN_SECONDS} s' end"""

# What exists, by its id or by the unique key it holds, is left out of what is returned. Keys are taken in order, so
# that two callers wait for each other and do not block each other; of those with the same key the first has it.
INSERT = f"""
insert into joblane.tasks
       (id, type, queue, tenant, owner, tags, state, payload, payload_digest, schema, headers, options,
        max_attempts, retention_seconds, deadline, unique_key, unique_until, unique_expires_at, due_at, sweep_at)
select x.id, x.type, x.queue, x.tenant, x.owner, coalesce(x.tags, '{{}}'), {DUE_STATE},
       x.payload, x.payload_digest, x.schema, coalesce(x.headers, '{{}}'), coalesce(x.options, '{{}}'),
       x.max_attempts, x.retention_seconds, x.deadline, x.unique_key, coalesce(x.unique_until, 'finish'),
       clock_timestamp() + make_interval(secs => x.unique_seconds), d.due_at, {DUE_SWEEP}
  from {NEW}
 order by x.unique_key nulls first, case when x.unique_key is null then x.id end collate "C", x.ordinality
on conflict do nothing
returning id, extract(epoch from due_at - clock_timestamp())::float8
"""

KNOWN = f"""
select t.id, t.queue, t.state, case when t.state in {LIVE_SQL} then t.unique_key end,
       extract(epoch from t.due_at - clock_timestamp())::float8,
       x.id = t.id, t.state = 'active' or (t.state = 'pending' and t.used_ms > 0)
  from jsonb_to_recordset(cast($1 as jsonb)) as x(id text, unique_key text)
  join joblane.tasks t on t.id = x.id or (t.unique_key = x.unique_key and t.state in {LIVE_SQL})
"""
"""What stood in the way of rows that were not inserted: by their id, or by the key that they hold. The last column:
an attempt of it is under way, in an invocation or between two."""

# `payload_digest` stays: by it the message of an external sender is known as the row's own.
REPLACE = f"""
with waiting as (
  select id, unique_key from joblane.tasks
   where unique_key in (select unique_key from jsonb_to_recordset(cast($1 as jsonb)) as x(unique_key text))
     and state in {WAITING_SQL} and (state <> 'pending' or used_ms = 0)
   order by unique_key for no key update
),
replaced as (
  update joblane.tasks t set
    queue = x.queue, tenant = x.tenant, owner = x.owner, tags = coalesce(x.tags, '{{}}'), state = {DUE_STATE},
    payload = x.payload, schema = x.schema, headers = coalesce(x.headers, '{{}}'),
    options = coalesce(x.options, '{{}}'), max_attempts = x.max_attempts, {assignments(FRESH)},
    retention_seconds = x.retention_seconds, deadline = x.deadline,
    unique_until = coalesce(x.unique_until, 'finish'),
    unique_expires_at = clock_timestamp() + make_interval(secs => x.unique_seconds),
    due_at = d.due_at, sent_at = null, sweep_at = {DUE_SWEEP}
    from {NEW}, waiting
   where t.id = waiting.id and waiting.unique_key = x.unique_key
  returning t.id, t.unique_key, t.due_at
),
items as (delete from joblane.task_items where task_id in (select id from replaced)),
cursors as (delete from joblane.task_cursors where task_id in (select id from replaced)),
progress as (delete from joblane.task_progress where task_id in (select id from replaced))
select id, extract(epoch from due_at - clock_timestamp())::float8, unique_key from replaced
"""
"""Give the waiting holders of keys, one each, what the new tasks would have had, a fresh start included. They are
locked in the order of keys. Nothing where an attempt is under way, or the holder has ended."""


@dataclass(slots=True)
class NewTask:
    """A task on its way into the record: checked, with its message.

    ``delay`` in seconds from the database's now, or ``at`` as an aware moment; neither: now. ``unsent``: its message
    is left to the sweep. The last three say how it went: ``due_seconds`` from now, ``created``: False for a holder of
    the unique key, and ``state``: that of a holder which stays as it is; None for a row whose message is to be sent.
    """

    id: str
    task: Task[Any, Any]
    queue: Queue
    payload: Mapping[str, Any]
    headers: Mapping[str, str]
    owner: str | None
    options: Options
    unique: Unique | None
    on_conflict: OnConflict
    delay: float | None
    at: datetime | None
    entry: Entry
    unsent: bool = False
    due_seconds: float = 0.0
    created: bool = True
    state: State | None = None

    def row(self) -> dict[str, Any]:
        task, options, unique = self.task, self.options, self.unique
        found = {
            "id": self.id,
            "type": task.type,
            "queue": self.queue,
            "tenant": self.entry.group,
            "owner": self.owner,
            "tags": options.tags,
            "payload": self.payload,
            "payload_digest": digest(self.payload),
            "schema": task.schema_digest,
            "headers": self.headers,
            "options": options.row(task),
            "max_attempts": options.max_attempts(task),
            "retention_seconds": options.retention_seconds(task),
            "deadline": options.deadline and options.deadline.isoformat(),
            "delay": self.delay,
            "at": self.at and self.at.isoformat(),
            "unsent": self.unsent,
        }
        if unique is not None:
            found |= {"unique_key": unique.key, "unique_until": unique.until, "unique_seconds": unique.seconds}
        return found


def document(new: Iterable[NewTask]) -> str:
    """The parameter of :data:`INSERT` and :data:`REPLACE`."""
    return json.dumps([task.row() for task in new], ensure_ascii=False)


MARK_SENT = f"""
update joblane.tasks t set sent_at = clock_timestamp(), sends = t.sends + 1
  from (select id from joblane.tasks
         where id in (select jsonb_array_elements_text(cast($1 as jsonb)))
           and state in {WAITING_SQL}
         order by id for no key update skip locked) as waiting
 where t.id = waiting.id
"""
