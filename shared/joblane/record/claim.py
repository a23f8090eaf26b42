"""The claim: one statement decides, for every message of a batch, whether its task runs now.

The statement returns one row per message. It locks each task's row in ``on conflict do update``, decides there, and
reads the verdict from the row that it returns. All times come from the database's clock. Rows are locked in the order
of their ids, because two overlapping batches would otherwise deadlock. If a row stays locked for half a second, the
whole statement fails with SQLSTATE 55P03 and changes nothing.

In the table, a waiting row is ``scheduled``, ``pending`` or ``retry``. A recorded message has ``rec``: its row was
written before the message was sent. An external message or a tick inserts its own row.

============================================  =====================================  ==================================
row                                           message                                verdict
============================================  =====================================  ==================================
none                                          recorded                               ``gone``: rolled back, acknowledge
none                                          external or tick                       inserted as active; ``run``
none                                          external or tick, unique key taken     inserted as cancelled; ``ended``
none                                          tick of a paused schedule              inserted as cancelled; ``ended``
none                                          external or tick, past its deadline    inserted as archived; ``archived``
waiting, due                                  same type and payload                  ``run``
waiting, not due yet                          any                                    ``wait``
waiting, past its deadline                    any                                    archived; ``archived``
waiting, ``claim_alone`` is set               in a batch                             ``claim_alone``
``active``, lease valid                       any                                    ``leased``: no change
``active``, lease over, cancel requested      any                                    cancelled; ``ended``
``active``, lease over, past its deadline     any                                    archived; ``archived``
``active``, lease over, attempts left         alone                                  the last run was lost; ``run``
``active``, lease over, attempts left         in a batch                             ``claim_alone``
``active``, lease over, no attempts left      any                                    archived; ``archived``
``active``, lease over, claimed in a batch    alone                                  the lost run is not counted;
                                                                                     ``run``
``active``, lease over, claimed in a batch    in a batch                             the lost run is not counted;
                                                                                     ``claim_alone``
``completed``, ``cancelled``                  any                                    ``ended``: acknowledge
``archived``, dead letter not sent            any                                    ``send_dead_letter``, acknowledge
``archived``, dead letter sent                dead letter of this generation         revived; ``run``
``archived``, unique key taken                dead letter of this generation         ``taken``: send it as dead letter
``archived``, dead letter sent                any other                              ``obsolete``: acknowledge
any                                           another type, or external with         ``conflict``: send as dead letter,
                                              another payload                        the row does not change
type, queue or tenant paused                  any                                    ``paused``: the row waits
============================================  =====================================  ==================================
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from joblane.json_values import digest
from joblane.limits import MAX_BATCH
from joblane.options import NONE
from joblane.record.claim_steps import (
    DEADLINE_ERROR,
    DEADLINE_FINGERPRINT,
    DEADLINE_REASON,
    LEASE_SWEEP_SECONDS,
    STEP_COLUMNS,
    STEP_VALUES,
)
from joblane.record.states import ARCHIVED_RETENTION, LIVE_SQL, SWEEP_MARGIN_SECONDS, WAITING_SQL

if TYPE_CHECKING:
    from joblane.declaration import Task
    from joblane.queues import Queue
    from joblane.record.connection import Connection
    from joblane.sqs.message import Message


class Verdict(StrEnum):
    """The claim's decision on a message. The table above lists the conditions."""

    RUN = "run"
    CLAIM_ALONE = "claim_alone"
    WAIT = "wait"
    LEASED = "leased"
    PAUSED = "paused"
    GONE = "gone"
    ENDED = "ended"
    """The task is completed or cancelled."""
    ARCHIVED = "archived"
    """This claim archived the task. Handled like ``send_dead_letter``, and logged here because no run logs it."""
    SEND_DEAD_LETTER = "send_dead_letter"
    OBSOLETE = "obsolete"
    """A copy of a message or dead letter of an archived task that does not bring the task back."""
    TAKEN = "taken"
    CONFLICT = "conflict"


@dataclass(slots=True)
class Claim:
    """The decision on one message. ``token`` fences the finish. The counts include the run that begins."""

    id: str
    verdict: Verdict
    token: str
    run: int
    attempt: int
    max_attempts: int
    snoozes: int
    generation: int
    wait_seconds: int
    """Seconds until the row is due or its lease ends, rounded up; 0 or more."""
    waited_ms: int
    """Milliseconds since the task was due."""
    payload: Any
    schema: str | None
    headers: dict[str, str]
    options: dict[str, Any]
    deadline: float | None
    """A time of ``time.monotonic()``."""
    used_ms: int
    """Milliseconds that earlier runs of this attempt of a resumable task used."""
    reason: str | None
    mismatch_seconds: float | None


EARLY_SECONDS = 2
"""A message may arrive this early, because SQS delays are whole seconds."""


PAUSED = """exists (select from joblane.pauses p
          where (p.until is null or p.until > now())
            and ((p.scope = 'type' and p.name = {row}.type)
              or (p.scope = 'queue' and p.name = {row}.queue and {row}.type not like 'jobs:%')
              or (p.scope = 'tenant' and p.name = {row}.tenant)))"""
"""True if the type, queue or tenant of a row is paused. The pause of a queue does not apply to Joblane's own ``jobs:``
types, because every queue depends on the sweep."""
PAUSED_SCHEDULE = """exists (select from joblane.pauses p
          where p.scope = 'schedule' and p.name = {row}.type || ':' || {row}.schedule
            and (p.until is null or p.until > now()))"""
HOLDER = """(select h.id from joblane.tasks h
          where h.unique_key = {key} and h.unique_key is not null and h.finished_at is null and h.id <> {id})"""
"""The id of the live task that holds a unique key."""
LIMITS = "limits as materialized (select set_config('lock_timeout', '500ms', true))"
"""Sets the lock timeout of the statement that contains it."""

CLAIM = f"""
with {LIMITS},
messages as materialized (
  select item.*, $2::uuid as token, clock_timestamp() + make_interval(secs => $3::float8) as lease_until,
         $4::text as request_id,
         jsonb_array_length($1::jsonb) > 1 as in_batch, jsonb_array_length($1::jsonb) as batch_size,
         {PAUSED.format(row="stored")} as paused,
         case when item.schedule is not null and {PAUSED_SCHEDULE.format(row="item")}
              then 'SchedulePaused: its schedule is paused'
              when item.unique_key is not null
              then 'DuplicateTask: its unique key is held by ' || {HOLDER.format(key="item.unique_key", id="item.id")}
              end as skip_reason
    from limits, jsonb_to_recordset($1::jsonb) as item(
           id text, type text, queue text, tenant text, tags text[], payload jsonb, payload_digest text, schema text,
           headers jsonb, options jsonb, tick text, schedule text, max_attempts integer, retention_seconds bigint,
           deadline timestamptz, unique_key text, unique_until text, unique_seconds float8, rec boolean,
           dead_generation integer),
         lateral (select item.type,  -- the row's queue and tenant: a message may be outdated or have lost its group
                         coalesce((select r.queue from joblane.tasks r where r.id = item.id), item.queue) as queue,
                         coalesce((select r.tenant from joblane.tasks r where r.id = item.id), item.tenant) as tenant
                 ) as stored
   limit {MAX_BATCH}  -- shows the planner how few there are
),
claimed as (
  insert into joblane.tasks as t
        (id, type, queue, tenant, tags, payload, payload_digest, schema, headers, options, tick, max_attempts,
         retention_seconds, deadline, unique_key, unique_until, unique_expires_at,
         state, attempts, runs, generation, batch_size, lease_token, lease_until, sent_at, sweep_at,
         finished_at, expire_at, dead_letter_unsent, reason, error_type, error_message, fingerprint)
  select m.id, m.type, m.queue, m.tenant, m.tags, m.payload, m.payload_digest, m.schema, m.headers, m.options, m.tick,
         m.max_attempts, m.retention_seconds, m.deadline,
         case when initial.state <> 'active' or m.unique_until = 'finish' then m.unique_key end,
         coalesce(m.unique_until, 'finish'),
         now() + make_interval(secs => m.unique_seconds),
         initial.state, initial.runs, initial.runs,
         coalesce(m.dead_generation, 0),
         case when initial.state = 'active' then m.batch_size else 0 end,
         case when initial.state = 'active' then m.token end,
         case when initial.state = 'active' then m.lease_until end,
         case when initial.state <> 'pending' then now() end,
         case initial.state when 'active' then m.lease_until + interval '{LEASE_SWEEP_SECONDS} s'
                            when 'archived' then now() + interval '{SWEEP_MARGIN_SECONDS} s'
                            when 'pending' then now() end,
         case when initial.state in ('cancelled', 'archived') then now() end,
         case initial.state when 'cancelled' then now() + make_interval(secs => m.retention_seconds)
                            when 'archived' then now() + interval '{ARCHIVED_RETENTION.days} days' end,
         initial.state = 'archived',
         case initial.state when 'cancelled' then m.skip_reason
                            when 'archived' then {DEADLINE_REASON.format(row="m")} end,
         case when initial.state = 'archived' then 'DeadlinePassed' end,
         case when initial.state = 'archived' then '{DEADLINE_ERROR}' end,
         case when initial.state = 'archived' then {DEADLINE_FINGERPRINT.format(row="m")} end
    from messages m,
         lateral (select case when m.skip_reason is not null then 'cancelled' when m.paused then 'pending'
                              when m.deadline <= clock_timestamp() then 'archived'
                              else 'active' end as state) as chosen,
         lateral (select chosen.state, (chosen.state = 'active')::int as runs) as initial
   where not m.rec or (select r.id from joblane.tasks r where r.id = m.id) is not null  -- an index lookup, never a scan
   order by m.id collate "C"
  on conflict (id) do update set
    ({", ".join(STEP_COLUMNS)}) = (
      select {STEP_VALUES}
        from (select m.*, (t.state = 'active' and t.batch_size > 1)::int as uncounted,
                case
                when t.type <> m.type or (not m.rec and t.payload_digest <> m.payload_digest) then 'keep'
                when t.state = 'archived' and t.dead_sent_at is not null and t.generation = m.dead_generation
                  then case when {HOLDER.format(key="t.unique_key", id="t.id")} is not null then 'keep'
                            when m.paused then 'revive_paused' else 'revive' end
                when t.state in {WAITING_SQL} and m.paused then 'park'
                when t.state in {WAITING_SQL} and t.deadline <= clock_timestamp() then 'overdue'
                when t.state in {WAITING_SQL}
                 and t.due_at <= clock_timestamp() + interval '{EARLY_SECONDS} s'
                 and not (t.claim_alone and m.in_batch) then 'run'
                when t.state = 'active' and t.lease_until <= clock_timestamp()
                  then case when t.cancel_requested_at is not null then 'cancel'
                            when t.batch_size <= 1 and t.attempts >= t.max_attempts then 'exhaust'
                            when t.deadline <= clock_timestamp() then 'overdue'
                            when m.in_batch or (t.batch_size > 1 and m.paused) then 'release'
                            when m.paused then 'keep'
                            else 'run' end
                else 'keep' end as step
                from messages m where m.id = t.id) decision)
  returning id, type, queue, tenant, state, payload, payload_digest, schema, headers, attempts, runs, max_attempts,
            snoozes, generation, claim_alone, lease_token, lease_until, due_at, finished_at, dead_sent_at, reason,
            mismatch_since, options, deadline, used_ms, unique_key
),
lost as (
  update joblane.task_attempts a
     set outcome = 'lost', finished_at = now()
    from claimed c
   where a.task_id = c.id and a.outcome is null and (a.run < c.runs or c.state <> 'active')
),
started as (
  insert into joblane.task_attempts (task_id, run, attempt, generation, request_id, type, queue, tenant, wait_ms)
  select c.id, c.runs, c.attempts, c.generation, $4::text, c.type, c.queue, c.tenant,
         greatest(0, extract(epoch from clock_timestamp() - c.due_at) * 1000)
    from claimed c where c.state = 'active' and c.lease_token = $2::uuid
)
select m.id,
       case
       when c.id is null then 'gone'
       when c.state = 'active' and c.lease_token = m.token then 'run'
       when c.type <> m.type or (not m.rec and c.payload_digest <> m.payload_digest) then 'conflict'
       when c.state in ('completed', 'cancelled') then 'ended'
       when c.state = 'archived' and c.dead_sent_at is null
         then case when c.finished_at = now() then 'archived' else 'send_dead_letter' end
       when c.state = 'archived' then case when c.generation = m.dead_generation then 'taken' else 'obsolete' end
       when c.state = 'active' then case when m.paused and c.lease_until <= clock_timestamp() then 'paused'
                                         else 'leased' end
       when m.paused then 'paused'
       when c.claim_alone and c.due_at <= clock_timestamp() + interval '{EARLY_SECONDS} s' then 'claim_alone'
       else 'wait' end,
       c.runs, c.attempts, c.max_attempts, c.snoozes, c.generation,
       extract(epoch from
         case when c.state = 'active' then c.lease_until else c.due_at end - clock_timestamp())::float8,
       c.payload, c.schema, c.headers, c.options, extract(epoch from c.deadline - clock_timestamp())::float8, c.used_ms,
       case when c.state = 'archived' and c.dead_sent_at is not null and c.generation = m.dead_generation
            then 'DuplicateTask: its unique key is held by ' || {HOLDER.format(key="c.unique_key", id="c.id")}
            else c.reason end,
       extract(epoch from clock_timestamp() - c.due_at)::float8,
       extract(epoch from clock_timestamp() - c.mismatch_since)::float8
  from messages m left join claimed c on c.id = m.id
"""


def arrival(
    task: Task[Any, Any],
    message: Message,
    id_: str,
    queue: Queue,
    *,
    tenant: str | None = None,
    dead_generation: int | None = None,
    unique: bool = True,
) -> dict[str, Any]:
    """Return the claim's input for one message. For an external message or a tick it holds all columns of a new row.

    ``dead_generation``: the generation on a dead letter; None for any other message. ``unique``: False to take no
    unique key, even if the type declares one.
    """
    options = message.options.within(task) if message.options and not message.rec else NONE
    plain = options is NONE and task.archived_to is None
    item: dict[str, Any] = {
        "id": id_,
        "type": message.type,
        "queue": queue,
        "tenant": tenant,
        "tags": options.tags,
        "payload": None if message.rec else message.payload,  # a recorded task has its payload in its row
        "payload_digest": "" if message.rec else digest(message.payload or {}),
        "schema": message.schema,
        "headers": message.headers,
        "options": {} if plain else options.row(task),
        "max_attempts": task.max_attempts if options is NONE else options.max_attempts(task),
        "retention_seconds": int(task.retention.total_seconds()) if plain else options.retention_seconds(task),
        "rec": message.rec,
        "dead_generation": dead_generation,
    }
    if message.tick is not None:
        item |= {"tick": id_, "schedule": message.tick["schedule"]}
    if options.deadline is not None:
        item["deadline"] = options.deadline.isoformat()
    if unique and not message.rec:
        schedule = message.tick["schedule"] if message.tick else None
        if (key := task.key_of_message(queue, message.payload or {}, schedule)) is not None:
            item |= {"unique_key": key.key, "unique_until": key.until, "unique_seconds": key.seconds}
    return item


FREE_EXPIRED = f"""
update joblane.tasks t set unique_key = null
  from (select id from joblane.tasks
         where unique_key = any(array(select jsonb_array_elements_text(cast($1 as jsonb)))) and finished_at is null
           and (unique_expires_at <= clock_timestamp() or state not in {LIVE_SQL})
         order by id for no key update) as expired
 where t.id = expired.id
returning t.id
"""
"""Free the keys whose holders have held them for ``unique_for``, or were ended by SQL without ``finished_at``."""
FREE_EXPIRED_SOON = f"with {LIMITS}{FREE_EXPIRED.replace('from joblane.tasks', 'from limits, joblane.tasks')}"
"""The same statement with the claim's lock timeout."""


def claim(
    connection: Connection, arrivals: Sequence[Mapping[str, Any]], lease: timedelta, request_id: str
) -> dict[str, Claim]:
    """Decide on at most 10 messages of one type, one per id, and return a claim for each id.

    It takes one round trip, and a second one if a message asks for a unique key. ``arrivals``: values of
    :func:`arrival`. Raises pg8000's ``DatabaseError``: 55P03 if a row stayed locked, 23505 if another statement took
    a unique key at the same moment.
    """
    token = str(uuid.uuid4())
    if keys := [item["unique_key"] for item in arrivals if "unique_key" in item]:
        connection.run(FREE_EXPIRED_SOON, json.dumps(keys))
    document = json.dumps(arrivals, ensure_ascii=False)
    rows = connection.run(CLAIM, document, token, str(lease.total_seconds()), request_id)
    return {row[0]: _claim(row, token) for row in rows}


def _claim(row: list[Any], token: str) -> Claim:
    (
        id_, verdict, runs, attempts, max_attempts, snoozes, generation, wait, payload, schema, headers, options,
        deadline_seconds, used_ms, reason, late_seconds, mismatch_seconds,
    ) = row  # fmt: skip
    return Claim(
        id=id_,
        verdict=Verdict(verdict),
        token=token,
        run=runs or 0,
        attempt=attempts or 0,
        max_attempts=max_attempts or 0,
        snoozes=snoozes or 0,
        generation=generation or 0,
        wait_seconds=max(0, math.ceil(wait or 0)),
        waited_ms=max(0, int((late_seconds or 0) * 1000)),
        payload=payload,
        schema=schema,
        headers=headers or {},
        options=options or {},
        deadline=None if deadline_seconds is None else time.monotonic() + deadline_seconds,
        used_ms=used_ms or 0,
        reason=reason,
        mismatch_seconds=mismatch_seconds,
    )
