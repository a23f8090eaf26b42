"""The record after the claim: enqueue, finish, dead letters. Every statement takes many rows and is one round trip.

Rows arrive as one JSON document, so ten thousand of them are one parameter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from shared.jobs.claim import ARCHIVED_RETENTION, SWEEP_MARGIN_SECONDS
from shared.jobs.queues import CONTENT_KEPT_FOR_MESSAGES, MAX_BATCH, MAX_DELAY_SECONDS

if TYPE_CHECKING:
    from shared.db import Connection


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

# A row is looked at by the sweep a minute after it should have run; one that is further off than DelaySeconds reaches
# is sent by the sweep in the quarter of an hour before. Ids that exist are left out of what is returned.
INSERT = f"""
insert into tasks (id, type, queue, tenant, state, payload, payload_digest, schema, headers, allowed,
                   retention_seconds, due_at, sweep_at)
select x.id, x.type, x.queue, x.tenant,
       case when d.due_at > clock_timestamp() then 'scheduled' else 'pending' end,
       x.payload, x.payload_digest, x.schema, coalesce(x.headers, '{{}}'), x.allowed, x.retention_seconds, d.due_at,
       case when d.due_at > clock_timestamp() + interval '{MAX_DELAY_SECONDS} s'
            then d.due_at - interval '{MAX_DELAY_SECONDS} s'
            when x.unsent then clock_timestamp()
            else greatest(d.due_at, clock_timestamp()) + interval '{SWEEP_MARGIN_SECONDS} s' end
  from jsonb_to_recordset(cast($1 as jsonb)) as x(
         id text, type text, queue text, tenant text, payload jsonb, payload_digest text, schema text, headers jsonb,
         allowed integer, retention_seconds bigint, delay float8, at timestamptz, unsent boolean),
       lateral (select coalesce(x.at, clock_timestamp() + make_interval(secs => coalesce(x.delay, 0)))) as d(due_at)
 order by x.id collate "C"
on conflict (id) do nothing
returning id, extract(epoch from due_at - clock_timestamp())::float8
"""


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
    unsent: bool = False

    def record(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"at": self.at.isoformat() if self.at else None}


def document(new: Iterable[NewTask]) -> str:
    """The parameter of :data:`INSERT`."""
    return json.dumps([task.record() for task in new], ensure_ascii=False)


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
    attempt. ``mismatch``: it waits for code that knows its payload's schema.
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
    result: Any = None
    reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    fingerprint: str | None = None
    traceback: str | None = None
    duration_ms: int = 0

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
# complete and is not tried again; its run comes back here as cancelled.
FINISH = f"""
with f as materialized (
  select * from jsonb_to_recordset($1::jsonb) as f(
    id text, token uuid, run integer, outcome text, state text, delay_seconds float8, counted boolean, snoozed boolean,
    mismatch boolean, result jsonb, reason text, error_type text, error_message text, fingerprint text, traceback text,
    duration_ms integer)
  limit {MAX_BATCH}
),
held as materialized (
  select t.id, t.retention_seconds from tasks t join f on f.id = t.id
   where t.state = 'active' and t.lease_token = f.token
     and (t.cancel_requested_at is null or f.state in ('cancelled', 'archived'))
   order by t.id for no key update of t
),
done as (
  update tasks t set
    state = f.state, lease_token = null, lease_until = null, company = 0, suspect = false,
    attempts = t.attempts - (not f.counted)::int,
    snoozes = t.snoozes + f.snoozed::int,
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
    reason = f.reason, error_type = f.error_type, error_message = f.error_message
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

MARK_DEAD_SENT = """
update tasks t set dead_sent_at = clock_timestamp(), sweep_at = null
  from (select r.id from tasks r join jsonb_to_recordset($1::jsonb) as x(id text, generation integer)
            on r.id = x.id and r.generation = x.generation
         where r.state = 'archived' and r.dead_sent_at is null
         order by r.id for no key update of r) as owed
 where t.id = owed.id
"""


def mark_dead_sent(connection: Connection, letters: Iterable[tuple[str, int]]) -> None:
    """Record that the dead letters of these ids and generations are in their queues."""
    records = [{"id": id_, "generation": generation} for id_, generation in sorted(letters)]
    if records:
        connection.run(MARK_DEAD_SENT, json.dumps(records))


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
