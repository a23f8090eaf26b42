"""The claim: one statement decides, for every message of a batch, whether its task runs now.

It returns one row per message. A decision is taken on the row as it is after its lock was taken, in
``on conflict do update``; the verdict is then read from the row that is returned. Times are the database's. Rows are
locked in the order of their ids, since two overlapping batches would otherwise deadlock. A row that stays locked for
half a second makes the whole statement fail with SQLSTATE 55P03, and nothing changes.

============================================  =====================================  ==================================
row found                                     message                                verdict
============================================  =====================================  ==================================
none                                          recorded                               ``gone``: rolled back, acknowledge
none                                          external, or a tick                    inserted, ``run``
none                                          the same, its unique key held          inserted as cancelled; ``done``
none                                          a tick of a paused schedule            inserted as cancelled; ``done``
none                                          the same, past its deadline            inserted as archived; ``archived``
``scheduled``, ``pending``, ``retry``, due    same type and payload                  ``run``
the same, not due yet                         any                                    ``wait``
the same, past its deadline                   any                                    archived; ``archived``
``active``, lease live                        any                                    ``leased``: no change
``active``, lease over, cancel requested      any                                    cancelled; ``done``
``active``, lease over, past its deadline     any                                    archived; ``archived``
``active``, lease over, attempts left         any                                    the last run was lost; ``run``
``active``, lease over, none left             any                                    archived; ``archived``
``active``, lease over, claimed in a batch    any                                    the loss is not counted;
                                                                                     ``claim_alone``
``active``, lease over, now in a batch        any                                    ``claim_alone``
``claim_alone`` is set, now in a batch        any                                    ``claim_alone``: claim it by itself
``completed``, ``cancelled``                  any                                    ``done``: acknowledge
``archived``, no dead letter yet              any                                    ``send_dead_letter``, acknowledge
``archived``                                  dead letter of this generation         revived, ``run``
the same, its unique key held                 the same                               ``taken``: dead letter again
``archived``                                  anything else                          ``leftover``: acknowledge
any                                           another type, or external with         ``conflict``: dead letter, the row
                                              another payload                        stays
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
from joblane.record.claim_steps import LATE, LEASE_SWEEP_SECONDS, OVERDUE, STEPS_TAKEN, UNRUN, WRITTEN
from joblane.record.states import ARCHIVED_RETENTION, LIVE_SQL, SWEEP_MARGIN_SECONDS, WAITING_SQL

if TYPE_CHECKING:
    from joblane.declaration import Task
    from joblane.queues import Queue
    from joblane.record.connection import Connection
    from joblane.sqs.message import Message


class Verdict(StrEnum):
    """The claim's answer for a message; the table above says when."""

    RUN = "run"
    CLAIM_ALONE = "claim_alone"
    WAIT = "wait"
    LEASED = "leased"
    PAUSED = "paused"
    GONE = "gone"
    DONE = "done"
    ARCHIVED = "archived"
    """Archived by this claim, so that no run reports it: as ``send_dead_letter``, and it is logged."""
    SEND_DEAD_LETTER = "send_dead_letter"
    LEFTOVER = "leftover"
    TAKEN = "taken"
    CONFLICT = "conflict"


@dataclass(slots=True)
class Claim:
    """The answer for one message. ``token`` fences the finish; counts are those of the run that begins."""

    id: str
    verdict: Verdict
    token: str
    run: int
    attempt: int
    max_attempts: int
    snoozes: int
    generation: int
    wait_seconds: int
    """Until the row is due, or its lease ends. Rounded up; 0 or more."""
    waited_ms: int
    """From the time it was due to now."""
    payload: Any
    schema: str | None
    headers: dict[str, str]
    options: dict[str, Any]
    deadline: float | None
    """By ``time.monotonic()``."""
    used_ms: int
    """Of this attempt's time, by runs before this one: a resumable task's."""
    reason: str | None
    mismatch_seconds: float | None


EARLY_SECONDS = 2
"""A message may be this early, as SQS counts whole seconds."""


PAUSED = """exists (select from joblane.pauses p
          where (p.until is null or p.until > now())
            and ((p.scope = 'type' and p.name = {row}.type)
              or (p.scope = 'queue' and p.name = {row}.queue and {row}.type not like 'jobs:%')
              or (p.scope = 'tenant' and p.name = {row}.tenant)))"""
"""Whether a row's type, queue or tenant is paused. Without the sweep and its kin nothing in any queue would go on, so
the pause of a queue leaves them out."""
PAUSED_SCHEDULE = """exists (select from joblane.pauses p
          where p.scope = 'schedule' and p.name = {row}.type || ':' || {row}.schedule
            and (p.until is null or p.until > now()))"""
HOLDER = f"""(select h.id from joblane.tasks h
          where h.unique_key = {{key}} and h.unique_key is not null and h.state in {LIVE_SQL} and h.id <> {{id}})"""
"""The id of the live task that holds a unique key."""
LIMITS = "limits as materialized (select set_config('lock_timeout', '500ms', true))"
"""For the statement it is part of."""

CLAIM = f"""
with {LIMITS},
m as materialized (
  select x.*, $2::uuid as token, clock_timestamp() + make_interval(secs => $3::float8) as lease_until,
         $4::text as request_id,
         jsonb_array_length($1::jsonb) > 1 as in_batch, jsonb_array_length($1::jsonb) as batch_size,
         {PAUSED.format(row="w")} as paused,
         case when x.schedule is not null and {PAUSED_SCHEDULE.format(row="x")}
              then 'SchedulePaused: its schedule is paused'
              when x.unique_key is not null
              then 'DuplicateTask: its unique key is held by ' || {HOLDER.format(key="x.unique_key", id="x.id")}
              end as skipped
    from limits, jsonb_to_recordset($1::jsonb) as x(
           id text, type text, queue text, tenant text, tags text[], payload jsonb, payload_digest text, schema text,
           headers jsonb, options jsonb, tick text, schedule text, max_attempts integer, retention_seconds bigint,
           deadline timestamptz, unique_key text, unique_until text, unique_seconds float8, rec boolean, dead integer),
         lateral (select x.type,  -- as its row has them: a message may be older, or have lost its group on its way
                         coalesce((select r.queue from joblane.tasks r where r.id = x.id), x.queue) as queue,
                         coalesce((select r.tenant from joblane.tasks r where r.id = x.id), x.tenant) as tenant) as w
   limit {MAX_BATCH}  -- which tells the planner how few they are
),
claimed as (
  insert into joblane.tasks as t
        (id, type, queue, tenant, tags, payload, payload_digest, schema, headers, options, tick, max_attempts,
         retention_seconds, deadline, unique_key, unique_until, unique_expires_at,
         state, attempts, runs, generation, batch_size, lease_token, lease_until, sent_at, sweep_at,
         finished_at, expire_at, reason, error_type, error_message, fingerprint)
  select m.id, m.type, m.queue, m.tenant, m.tags, m.payload, m.payload_digest, m.schema, m.headers, m.options, m.tick,
         m.max_attempts, m.retention_seconds, m.deadline,
         case when s.first <> 'active' or m.unique_until = 'finish' then m.unique_key end,
         coalesce(m.unique_until, 'finish'),
         now() + make_interval(secs => m.unique_seconds),
         s.first, s.runs, s.runs,
         coalesce(m.dead, 0),
         case when s.first = 'active' then m.batch_size else 0 end,
         case when s.first = 'active' then m.token end,
         case when s.first = 'active' then m.lease_until end,
         case when s.first <> 'pending' then now() end,
         case s.first when 'active' then m.lease_until + interval '{LEASE_SWEEP_SECONDS} s'
                      when 'archived' then now() + interval '{SWEEP_MARGIN_SECONDS} s'
                      when 'pending' then now() end,
         case when s.first in ('cancelled', 'archived') then now() end,
         case s.first when 'cancelled' then now() + make_interval(secs => m.retention_seconds)
                      when 'archived' then now() + interval '{ARCHIVED_RETENTION.days} days' end,
         case s.first when 'cancelled' then m.skipped
                      when 'archived' then {OVERDUE.format(row="m")} end,
         case when s.first = 'archived' then 'DeadlinePassed' end,
         case when s.first = 'archived' then '{UNRUN}' end,
         case when s.first = 'archived' then {LATE.format(row="m")} end
    from m, lateral (select case when m.skipped is not null then 'cancelled' when m.paused then 'pending'
                                 when m.deadline <= clock_timestamp() then 'archived'
                                 else 'active' end as first) as f,
         lateral (select f.first, (f.first = 'active')::int as runs) as s
   where not m.rec or (select r.id from joblane.tasks r where r.id = m.id) is not null  -- a lookup each, never a scan
   order by m.id collate "C"
  on conflict (id) do update set
    ({", ".join(WRITTEN)}) = (
      select {STEPS_TAKEN}
        from (select m.*, (t.state = 'active' and t.batch_size > 1)::int as uncounted,
                case
                when t.type <> m.type or (not m.rec and t.payload_digest <> m.payload_digest) then 'keep'
                when t.state = 'archived' and t.dead_sent_at is not null and t.generation = m.dead
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
                from m where m.id = t.id) d)
  returning id, type, queue, tenant, state, payload, payload_digest, schema, headers, attempts, runs, max_attempts,
            snoozes,
            generation, claim_alone, lease_token, lease_until, due_at, finished_at, dead_sent_at, reason,
            mismatch_since, options, deadline, used_ms, unique_key
),
lost as (
  update joblane.task_attempts a
     set outcome = 'lost', finished_at = now()
    from claimed r
   where a.task_id = r.id and a.outcome is null and (a.run < r.runs or r.state <> 'active')
),
started as (
  insert into joblane.task_attempts (task_id, run, attempt, generation, request_id, type, queue, tenant, wait_ms)
  select r.id, r.runs, r.attempts, r.generation, $4::text, r.type, r.queue, r.tenant,
         greatest(0, extract(epoch from clock_timestamp() - r.due_at) * 1000)
    from claimed r where r.state = 'active' and r.lease_token = $2::uuid
)
select m.id,
       case
       when r.id is null then 'gone'
       when r.state = 'active' and r.lease_token = m.token then 'run'
       when r.type <> m.type or (not m.rec and r.payload_digest <> m.payload_digest) then 'conflict'
       when r.state in ('completed', 'cancelled') then 'done'
       when r.state = 'archived' and r.dead_sent_at is null
         then case when r.finished_at = now() then 'archived' else 'send_dead_letter' end
       when r.state = 'archived' then case when r.generation = m.dead then 'taken' else 'leftover' end
       when r.state = 'active' then case when m.paused and r.lease_until <= clock_timestamp() then 'paused'
                                         else 'leased' end
       when m.paused then 'paused'
       when r.claim_alone and r.due_at <= clock_timestamp() + interval '{EARLY_SECONDS} s' then 'claim_alone'
       else 'wait' end,
       r.runs, r.attempts, r.max_attempts, r.snoozes, r.generation,
       extract(epoch from
         case when r.state = 'active' then r.lease_until else r.due_at end - clock_timestamp())::float8,
       r.payload, r.schema, r.headers, r.options, extract(epoch from r.deadline - clock_timestamp())::float8, r.used_ms,
       case when r.state = 'archived' and r.dead_sent_at is not null and r.generation = m.dead
            then 'DuplicateTask: its unique key is held by ' || {HOLDER.format(key="r.unique_key", id="r.id")}
            else r.reason end,
       extract(epoch from clock_timestamp() - r.due_at)::float8,
       extract(epoch from clock_timestamp() - r.mismatch_since)::float8
  from m left join claimed r on r.id = m.id
"""


def arrival(
    task: Task[Any, Any],
    message: Message,
    id_: str,
    queue: Queue,
    *,
    tenant: str | None = None,
    dead: int | None = None,
    unique: bool = True,
) -> dict[str, Any]:
    """One message as the claim takes it. A message without a row brings all that its row will hold.

    ``dead``: the redrive count on a dead letter, None on any other message. ``unique``: False for a task that holds no
    key, whatever its type declares.
    """
    options = message.options.within(task) if message.options and not message.rec else NONE
    plain = options is NONE and task.archived_to is None
    found: dict[str, Any] = {
        "id": id_,
        "type": message.type,
        "queue": queue,
        "tenant": tenant,
        "tags": options.tags,
        "payload": None if message.rec else message.payload,  # the row's counts
        "payload_digest": "" if message.rec else digest(message.payload or {}),  # of the row, which has its own
        "schema": message.schema,
        "headers": message.headers,
        "options": {} if plain else options.row(task),
        "max_attempts": task.max_attempts if options is NONE else options.max_attempts(task),
        "retention_seconds": int(task.retention.total_seconds()) if plain else options.retention_seconds(task),
        "rec": message.rec,
        "dead": dead,
    }
    if message.tick is not None:
        found |= {"tick": id_, "schedule": message.tick["schedule"]}
    if options.deadline is not None:
        found["deadline"] = options.deadline.isoformat()
    if unique and not message.rec:
        schedule = message.tick["schedule"] if message.tick else None
        if (key := task.key_of_message(queue, message.payload or {}, schedule)) is not None:
            found |= {"unique_key": key.key, "unique_until": key.until, "unique_seconds": key.seconds}
    return found


FREE_EXPIRED = f"""
update joblane.tasks t set unique_key = null
  from (select id from joblane.tasks
         where unique_key in (select jsonb_array_elements_text(cast($1 as jsonb))) and state in {LIVE_SQL}
           and unique_expires_at <= clock_timestamp()
         order by id for no key update) as expired
 where t.id = expired.id
returning t.id
"""
"""Take keys from holders that have had them for ``unique_for``."""
FREE_EXPIRED_SOON = f"with {LIMITS}{FREE_EXPIRED.replace('from joblane.tasks', 'from limits, joblane.tasks')}"
"""The same, with the claim's short patience for locked rows."""


def claim(
    connection: Connection, arrivals: Sequence[Mapping[str, Any]], lease: timedelta, request_id: str
) -> dict[str, Claim]:
    """Decide on at most 10 messages of one type, one per id; one round trip, and one more where keys are wanted.

    ``arrivals``: as :func:`arrival` makes them. Returns a claim per id. Raises pg8000's ``DatabaseError``; 55P03 says
    that a row stayed locked, 23505 that a unique key was taken at the same moment.
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
        deadline,
        used_ms, reason, late, off,
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
        waited_ms=max(0, int((late or 0) * 1000)),
        payload=payload,
        schema=schema,
        headers=headers or {},
        options=options or {},
        deadline=None if deadline is None else time.monotonic() + deadline,
        used_ms=used_ms or 0,
        reason=reason,
        mismatch_seconds=off,
    )
