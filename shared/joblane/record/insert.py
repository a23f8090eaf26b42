"""Statements for the rows of new tasks: insert, find conflicting tasks, replace waiting tasks, mark as sent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from joblane.json_values import digest
from joblane.limits import MAX_DELAY_SECONDS
from joblane.record.states import LIVE_SQL, SWEEP_MARGIN_SECONDS, WAITING_SQL, State
from joblane.record.transitions import RESET, assignments

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

# The sweep checks a row a minute after the task should have run. A task that is due later than DelaySeconds can express
# is sent by the sweep in the 15 minutes before it is due.
DUE_SWEEP = f"""case when d.due_at > clock_timestamp() + interval '{MAX_DELAY_SECONDS} s'
            then d.due_at - interval '{MAX_DELAY_SECONDS} s'
            when x.unsent then clock_timestamp()
            else greatest(d.due_at, clock_timestamp()) + interval '{SWEEP_MARGIN_SECONDS} s' end"""

# A task whose id or unique key already exists is not inserted and not returned. Keys are taken in order, so that two
# callers wait for each other without a deadlock. Of two new tasks with the same key, the first is inserted.
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

FREE_EXPIRED = f"""
update joblane.tasks t set unique_key = null
  from (select id from joblane.tasks
         where unique_key in (select jsonb_array_elements_text(cast($1 as jsonb))) and state in {LIVE_SQL}
           and unique_expires_at <= clock_timestamp()
         order by id for no key update) as expired
 where t.id = expired.id
returning t.id
"""
"""Free the keys whose holders have held them for ``unique_for``."""
EXISTING = f"""
select t.id, t.queue, t.state, case when t.state in {LIVE_SQL} then t.unique_key end,
       extract(epoch from t.due_at - clock_timestamp())::float8,
       x.id = t.id, t.state = 'active' or (t.state = 'pending' and t.used_ms > 0)
  from jsonb_to_recordset(cast($1 as jsonb)) as x(id text, unique_key text)
  join joblane.tasks t on t.id = x.id or (t.unique_key = x.unique_key and t.state in {LIVE_SQL})
"""
"""The existing tasks that kept rows from being inserted, by id or by unique key. The last column is true if an attempt
is under way, in an invocation or between two."""

# `payload_digest` stays: it identifies the message of an external producer as the row's own.
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
    options = coalesce(x.options, '{{}}'), max_attempts = x.max_attempts, {assignments(RESET)},
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
"""Replace each waiting task that holds a unique key by the new task with that key, and reset its counts. Rows are
locked in the order of keys. A task stays unchanged if an attempt is under way or the task has ended."""


@dataclass(slots=True)
class NewTask:
    """A new task: checked, with its message.

    ``delay``: seconds from the database's now; ``at``: an aware time; neither: due now. ``unsent``: the sweep sends the
    message. The last three fields hold the result of the insert. ``due_seconds``: from now. ``created``: False if an
    existing task holds the unique key. ``state``: the state of an existing task that stays unchanged, or None if the
    message must be sent.
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
        row = {
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
            row |= {"unique_key": unique.key, "unique_until": unique.until, "unique_seconds": unique.seconds}
        return row


def document(new: Iterable[NewTask]) -> str:
    """Return the parameter of :data:`INSERT` and :data:`REPLACE`."""
    return json.dumps([task.row() for task in new], ensure_ascii=False)


MARK_SENT = f"""
update joblane.tasks t set sent_at = clock_timestamp(), sends = t.sends + 1
  from (select id from joblane.tasks
         where id in (select jsonb_array_elements_text(cast($1 as jsonb)))
           and state in {WAITING_SQL}
         order by id for no key update skip locked) as waiting
 where t.id = waiting.id
"""
