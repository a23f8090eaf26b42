"""The record after the claim: enqueue, finish, dead letters. Every statement takes many rows and is one round trip.

Rows arrive as one JSON document, so ten thousand of them are one parameter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from shared.jobs.claim import ARCHIVED_RETENTION, LIVE, SWEEP_MARGIN_SECONDS
from shared.jobs.message import MAX_ID
from shared.jobs.queues import CONTENT_KEPT_FOR_MESSAGES, MAX_BATCH, MAX_DELAY_SECONDS

if TYPE_CHECKING:
    from shared.db import Connection
    from shared.jobs.unique import Unique


REFUSED_CLASSES = ("22", "54")
"""SQLSTATEs of what the database cannot hold: data exceptions and program limits."""


class State(StrEnum):
    """States of a task, as asynq names them, and ``cancelled``, which it lacks."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    ACTIVE = "active"
    RETRY = "retry"
    COMPLETED = "completed"
    ARCHIVED = "archived"
    CANCELLED = "cancelled"


# --- Enqueue -------------------------------------------------------------------------------------------------------

NEW = """rows from (jsonb_to_recordset(cast($1 as jsonb)) as (
         id text, type text, queue text, tenant text, owner text, tags text[], payload jsonb, payload_digest text,
         schema text, headers jsonb, options jsonb, allowed integer, retention_seconds bigint, deadline timestamptz,
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
insert into tasks (id, type, queue, tenant, owner, tags, state, payload, payload_digest, schema, headers, options,
                   allowed, retention_seconds, deadline, unique_key, unique_until, unique_expires_at, due_at, sweep_at)
select x.id, x.type, x.queue, x.tenant, x.owner, coalesce(x.tags, '{{}}'), {DUE_STATE},
       x.payload, x.payload_digest, x.schema, coalesce(x.headers, '{{}}'), coalesce(x.options, '{{}}'),
       x.allowed, x.retention_seconds, x.deadline, x.unique_key, coalesce(x.unique_until, 'finish'),
       clock_timestamp() + make_interval(secs => x.unique_seconds), d.due_at, {DUE_SWEEP}
  from {NEW}
 order by x.unique_key nulls first, case when x.unique_key is null then x.id end collate "C", x.ordinality
on conflict do nothing
returning id, extract(epoch from due_at - clock_timestamp())::float8
"""

KNOWN = f"""
select t.id, t.queue, t.state, case when t.state in {LIVE} then t.unique_key end,
       extract(epoch from t.due_at - clock_timestamp())::float8,
       x.id = t.id, t.state = 'active' or (t.state = 'pending' and t.used_ms > 0)
  from jsonb_to_recordset(cast($1 as jsonb)) as x(id text, unique_key text)
  join tasks t on t.id = x.id or (t.unique_key = x.unique_key and t.state in {LIVE})
"""
"""What stood in the way of rows that were not inserted: by their id, or by the key that they hold. The last column:
an attempt of it is under way, in an invocation or between two."""

# `payload_digest` stays: by it the message of a foreign sender is known as the row's own.
REPLACE = f"""
with waiting as (
  select id, unique_key from tasks
   where unique_key in (select unique_key from jsonb_to_recordset(cast($1 as jsonb)) as x(unique_key text))
     and (state in ('scheduled', 'retry') or (state = 'pending' and used_ms = 0))
   order by unique_key for no key update
),
replaced as (
  update tasks t set
    queue = x.queue, tenant = x.tenant, owner = x.owner, tags = coalesce(x.tags, '{{}}'), state = {DUE_STATE},
    payload = x.payload, schema = x.schema, headers = coalesce(x.headers, '{{}}'),
    options = coalesce(x.options, '{{}}'), allowed = x.allowed, attempts = 0, snoozes = 0, used_ms = 0,
    company = 0, suspect = false, mismatch_since = null, reason = null, error_type = null, error_message = null,
    fingerprint = null,
    retention_seconds = x.retention_seconds, deadline = x.deadline,
    unique_until = coalesce(x.unique_until, 'finish'),
    unique_expires_at = clock_timestamp() + make_interval(secs => x.unique_seconds),
    due_at = d.due_at, sent_at = null, sends = 0, sweep_at = {DUE_SWEEP}
    from {NEW}, waiting
   where t.id = waiting.id and waiting.unique_key = x.unique_key
  returning t.id, t.unique_key, t.due_at
),
items as (delete from task_items where task_id in (select id from replaced)),
cursors as (delete from task_cursors where task_id in (select id from replaced)),
progress as (delete from task_progress where task_id in (select id from replaced))
select id, extract(epoch from due_at - clock_timestamp())::float8, unique_key from replaced
"""
"""Give the waiting holders of keys, one each, what the new tasks would have had, a fresh start included. They are
locked in the order of keys. Nothing where an attempt is under way, or the holder has ended."""


@dataclass(slots=True)
class NewTask:
    """A row to be. ``delay`` in seconds from the database's now, or ``at`` as an aware moment; neither: now.

    ``unsent``: its message is left to the sweep.
    """

    id: str
    type: str
    queue: str
    tenant: str | None
    payload: Mapping[str, Any]
    payload_digest: str
    schema: str
    headers: Mapping[str, str]
    allowed: int
    retention_seconds: int
    delay: float | None
    at: datetime | None
    owner: str | None = None
    tags: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    deadline: datetime | None = None
    unique: Unique | None = None
    unsent: bool = False

    def record(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__slots__}
        unique = fields.pop("unique")
        if unique is not None:
            fields |= {
                "unique_key": unique.key,
                "unique_until": unique.until,
                "unique_seconds": unique.seconds,
            }
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in fields.items()
            if value is not None
        }


def document(new: Iterable[NewTask]) -> str:
    """The parameter of :data:`INSERT` and :data:`REPLACE`."""
    return json.dumps([task.record() for task in new], ensure_ascii=False)


CANCELLED = """
    state = case when t.state = 'active' then t.state else 'cancelled' end,
    cancel_requested_at = coalesce(t.cancel_requested_at, clock_timestamp()),
    reason = case when t.state = 'active' then t.reason when t.runs = 0 then 'cancelled before it ran'
                  else 'cancelled while it waited' end,
    finished_at = case when t.state = 'active' then null else clock_timestamp() end,
    sweep_at = case when t.state = 'active' then t.sweep_at end,
    expire_at = case when t.state <> 'active'
                     then clock_timestamp() + make_interval(secs => t.retention_seconds) end
"""
"""What becomes of a live row: a task that waits never runs; one that runs is told at its next check, or at its end."""

CANCEL = f"update tasks t set {CANCELLED} where id = $1 and state in {LIVE} returning state"


MARK_SENT = """
update tasks t set sent_at = clock_timestamp(), sends = t.sends + 1
  from (select id from tasks
         where id in (select jsonb_array_elements_text(cast($1 as jsonb)))
           and state in ('scheduled', 'pending', 'retry')
         order by id for no key update skip locked) as waiting
 where t.id = waiting.id
"""


# --- Finish --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Finish:
    """The end of one run: what the row and its attempt become.

    ``outcome``: a word for the attempt. ``delay_seconds``: for states that wait. ``counted``: whether it spent an
    attempt. ``mismatch``: it waits for code that knows its payload's schema. ``continued``: the attempt goes on in the
    next invocation. ``billed_ms``, ``memory_mb``, ``cost_usd``: see :mod:`shared.jobs.cost`.
    """

    id: str
    token: str
    run: int
    outcome: str
    state: State
    delay_seconds: float = 0
    counted: bool = True
    snoozed: bool = False
    mismatch: bool = False
    continued: bool = False
    result: Any = None
    reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    fingerprint: str | None = None
    traceback: str | None = None
    duration_ms: int = 0
    billed_ms: int | None = None
    memory_mb: int | None = None
    cost_usd: float | None = None

    def record(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def waits_long(self) -> bool:
        """Further off than SQS can hold: the row alone waits and the message is acknowledged."""
        return self.state in (State.RETRY, State.PENDING) and self.delay_seconds > MAX_DELAY_SECONDS

    @property
    def visibility_seconds(self) -> int:
        return math.ceil(self.delay_seconds)


# Only the holder of the lease finishes: the token decides, not the clock. A task that was asked to stop does not
# complete, is not tried again and is no dead letter; its run comes back here as cancelled.
FINISH = f"""
with f as materialized (
  select * from jsonb_to_recordset($1::jsonb) as f(
    id text, token uuid, run integer, outcome text, state text, delay_seconds float8, counted boolean, snoozed boolean,
    mismatch boolean, continued boolean,
    result jsonb, reason text, error_type text, error_message text, fingerprint text, traceback text,
    duration_ms integer, billed_ms integer, memory_mb integer, cost_usd float8)
  limit {MAX_BATCH}
),
held as materialized (
  select t.id, t.retention_seconds from tasks t join f on f.id = t.id
   where t.state = 'active' and t.lease_token = f.token
     and (t.cancel_requested_at is null or f.state = 'cancelled')
   order by t.id for no key update of t
),
done as (
  update tasks t set
    state = f.state, lease_token = null, lease_until = null, company = 0, suspect = false,
    attempts = t.attempts - (not f.counted)::int,
    snoozes = t.snoozes + f.snoozed::int,
    continuations = t.continuations + f.continued::int,
    used_ms = case when f.continued then t.used_ms + f.duration_ms else 0 end,
    mismatch_since = case when f.mismatch then coalesce(t.mismatch_since, now()) end,
    due_at = case when f.state in ('retry', 'pending') then w.due_at else t.due_at end,
    sent_at = case when w.long then null else t.sent_at end,
    sends = 0,
    sweep_at = case when w.long then w.due_at - interval '{MAX_DELAY_SECONDS} s'
                    when f.state in ('retry', 'pending') then w.due_at + interval '{SWEEP_MARGIN_SECONDS} s'
                    when f.state = 'archived' then clock_timestamp() + interval '{SWEEP_MARGIN_SECONDS} s' end,
    finished_at = case when w.ended then clock_timestamp() end,
    payload = case when w.cleared then null else t.payload end,
    result = case when not w.cleared then f.result end,
    headers = case when w.cleared then '{{}}' else t.headers end,
    cleared = w.cleared,
    expire_at = case when w.cleared then clock_timestamp() + interval '{CONTENT_KEPT_FOR_MESSAGES.days} days'
                     when f.state = 'archived' then clock_timestamp() + interval '{ARCHIVED_RETENTION.days} days'
                     when w.ended then clock_timestamp() + make_interval(secs => t.retention_seconds) end,
    reason = f.reason, error_type = f.error_type, error_message = f.error_message, fingerprint = f.fingerprint
   from f join held using (id),
        lateral (select clock_timestamp() + make_interval(secs => f.delay_seconds) as due_at,
                        f.state in ('retry', 'pending') and f.delay_seconds > {MAX_DELAY_SECONDS} as long,
                        f.state in ('completed', 'cancelled', 'archived') as ended) as n,
        lateral (select n.*, n.ended and f.state <> 'archived' and held.retention_seconds = 0 as cleared) as w
  where t.id = f.id
  returning t.id
),
closed as (
  update task_attempts a set
    finished_at = clock_timestamp(), outcome = f.outcome, duration_ms = f.duration_ms,
    billed_ms = f.billed_ms, memory_mb = f.memory_mb, cost_usd = f.cost_usd,
    error_type = f.error_type, error_message = f.error_message, fingerprint = f.fingerprint, traceback = f.traceback
   from f join held using (id)
  where a.task_id = f.id and a.run = f.run
)
select id from done
"""


def finish(connection: Connection, runs: Sequence[Finish]) -> set[str]:
    """End at most 10 runs in the transaction that is open, or in one of its own. Returns the ids that were still held.

    An id that is missing was claimed by another run meanwhile, or was asked to stop: see :func:`cancel_requested`.
    """
    if not runs:
        return set()
    rows = connection.run(FINISH, json.dumps([run.record() for run in runs], ensure_ascii=False))
    return {row[0] for row in rows}


def cancel_requested(connection: Connection, id_: str, token: str) -> bool:
    """Whether the run still holds the task and was asked to stop."""
    rows = connection.run(
        "select cancel_requested_at is not null from tasks"
        " where id = $1 and state = 'active' and lease_token = $2::uuid",
        id_,
        token,
    )
    return bool(rows and rows[0][0])


# --- Dead letters --------------------------------------------------------------------------------------------------

# A task whose type declares `on_archived` gets its successor in the same statement, under an id that makes twice once.
MARK_DEAD_SENT = f"""
with marked as (
  update tasks t set dead_sent_at = clock_timestamp(), sweep_at = null
    from (select r.id from tasks r join jsonb_to_recordset($1::jsonb) as x(id text, generation integer)
              on r.id = x.id and r.generation = x.generation
           where r.state = 'archived' and r.dead_sent_at is null
           order by r.id for no key update of r) as owed
   where t.id = owed.id
  returning t.*
)
insert into tasks (id, type, queue, tenant, state, payload, payload_digest, headers, allowed, retention_seconds,
                   sweep_at)
select case when length(m.id) <= {MAX_ID - 20} then m.id else left(m.id, {MAX_ID - 53}) || '-' || md5(m.id) end
         || ':archived:' || m.generation,
       a.type, a.queue, m.tenant, 'pending',
       jsonb_build_object('task_id', m.id, 'task_type', m.type, 'queue', m.queue, 'tenant', m.tenant,
                          'reason', coalesce(m.reason, 'archived'), 'error_type', m.error_type, 'runs', m.runs),
       '', m.headers, a.allowed, a.retention_seconds, clock_timestamp() + interval '{SWEEP_MARGIN_SECONDS} s'
  from marked m, jsonb_to_record(m.options -> 'on_archived')
                   as a(type text, queue text, allowed integer, retention_seconds bigint)
 where m.options ? 'on_archived'
on conflict do nothing
returning id, type, queue, tenant
"""


@dataclass(slots=True)
class Successor:
    """The task that a type's ``on_archived`` asks for; its row is there, its message is to be sent."""

    id: str
    type: str
    queue: str
    tenant: str | None


def mark_dead_sent(connection: Connection, letters: Iterable[tuple[str, int]]) -> list[Successor]:
    """Record that the dead letters of these ids and generations are in their queues. Returns what follows them."""
    records = [{"id": id_, "generation": generation} for id_, generation in sorted(letters)]
    return [Successor(*row) for row in connection.run(MARK_DEAD_SENT, json.dumps(records))] if records else []


# --- Items of one task ---------------------------------------------------------------------------------------------


def done_items(connection: Connection, id_: str) -> set[str]:
    """Keys that an earlier attempt, or this one, has finished."""
    return {row[0] for row in connection.run("select key from task_items where task_id = $1", id_)}


# The lock on the task's row lasts to the commit that follows at once; a claim waits half a second for it.
MARK_ITEM = """
insert into task_items (task_id, key)
select id, $3 from tasks where id = $1 and lease_token = $2::uuid and state = 'active' for share
on conflict do nothing
returning key
"""


def mark_item(connection: Connection, id_: str, token: str, key: str) -> bool:
    """Mark an item in the transaction that is open. False: the lease is lost, or the key was marked before."""
    return bool(connection.run(MARK_ITEM, id_, token, key))


# --- Where a resumable task goes on -----------------------------------------------------------------------------------


def read_cursor(connection: Connection, id_: str) -> tuple[Any, int]:
    """The cursor and how many items were done up to it; None and 0 where there is none yet."""
    rows = connection.run("select cursor, done from task_cursors where task_id = $1", id_)
    return (rows[0][0], rows[0][1]) if rows else (None, 0)


# Locked like MARK_ITEM.
MOVE_CURSOR = """
insert into task_cursors (task_id, cursor, done)
select id, $3::jsonb, $4::bigint from tasks where id = $1 and lease_token = $2::uuid and state = 'active' for share
on conflict (task_id) do update set cursor = excluded.cursor, done = excluded.done, at = clock_timestamp()
returning task_id
"""


def move_cursor(connection: Connection, id_: str, token: str, cursor: str, done: int) -> bool:
    """Move the cursor (JSON text) in the transaction that is open. False: the lease is lost."""
    return bool(connection.run(MOVE_CURSOR, id_, token, cursor, str(done)))


# --- What a run tells of itself ------------------------------------------------------------------------------------

TELL = """
with held as (
  select id, cancel_requested_at is not null as cancelled from tasks
   where id = $1 and lease_token = $2::uuid and state = 'active'
),
told as (
  insert into task_progress (task_id, done, total, note)
  select id, $3::bigint, $4::bigint, $5::text from held where $3::bigint is not null
  on conflict (task_id) do update
     set done = excluded.done, total = excluded.total, note = excluded.note, at = clock_timestamp()
)
select cancelled from held
"""


def tell(
    connection: Connection, id_: str, token: str, *, done: int | None, total: int | None, note: str | None
) -> bool | None:
    """Note progress (none where ``done`` is None). Whether the run was asked to stop; None where it holds no lease.

    No lock is taken on the task's row, which the run's own transaction may have locked.
    """
    as_text = [None if number is None else str(number) for number in (done, total)]
    rows = connection.run(TELL, id_, token, *as_text, note)
    return bool(rows[0][0]) if rows else None
