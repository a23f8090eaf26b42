"""Queues, lanes and tenants now: their tasks, the messages of the lanes, and the runs of the last minutes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Any

from joblane.inspector.filter import PauseScope
from joblane.inspector.schedule_words import in_words
from joblane.inspector.scope import Scope
from joblane.inspector.stage import limits, pauses
from joblane.inspector.tasks.filter_sql import BOUND, LARGEST_PAGE, check_number, reading
from joblane.inspector.tasks.listing import MOST_MINUTES
from joblane.inspector.views import Count, Depth, Lane, Minute, Overview, Pause, Paused, QueueView, TenantRow, TypeView
from joblane.names import OWN_TYPES, WEIGHTS, Queue, dead_letter_name, front_door_name, lane_name
from joblane.record.driver.connection import Connection
from joblane.record.row.states import LIVE, State, as_read
from joblane.record.run_statistics import FAILED_OUTCOMES
from joblane.sqs.client import Sqs
from joblane.sqs.depth import QueueDepth, call_for_queues, queue_depth_if_exists
from joblane.tasks.redaction import shown_schema

if TYPE_CHECKING:
    from joblane.tasks.task import Task

MOST_ARCHIVED = 1_000
"""Archived tasks are counted up to here: each is a page of the table, which nothing else reads."""

STUCK = "5 min"
"""A lease is stuck this long after its end: until then the message, or the next sweep, finds it."""

LIVE_TASKS = """
edge as materialized (
  select created_at, id from joblane.tasks where finished_at is null order by created_at, id offset $1::int - 1 limit 1
),
live as (
  (select id, queue, type, state, tenant, due_at, lease_until, wait_kind from joblane.tasks where finished_at is null
    order by created_at, id limit $1::int)
  union all
  (select id, queue, type, state, tenant, due_at, lease_until, wait_kind from joblane.tasks
    where finished_at is null and (created_at, id) > ((select created_at from edge), (select id from edge))
    order by created_at desc, id desc limit $1::int)
)"""
"""Live tasks: the $1 oldest, which wait longest, and the $1 newest.

So neither a backlog nor tasks that are due in months hide the others."""
LIVE_ROWS = f"""
with {LIVE_TASKS}
select queue, type, state, case when tenant = any($2::text[]) then tenant end, count(*),
       count(*) filter (where state not in ('active', 'held') and due_at <= clock_timestamp()),
       (extract(epoch from clock_timestamp())
        - extract(epoch from min(due_at) filter (where state <> 'active'
                                                   and (state <> 'held' or wait_kind = 'limit'))))::float8,
       count(*) filter (where state = 'active' and lease_until < clock_timestamp() - interval '{STUCK}'),
       min(id) filter (where state = 'active' and lease_until < clock_timestamp() - interval '{STUCK}'),
       count(*) filter (where state = 'held' and wait_kind = 'limit')
  from live
 group by 1, 2, 3, 4
"""
"""Live tasks by lane, state and paused tenant ($2: the paused tenants).

Then: the number of tasks that are due and do not run; the wait of the task that was due first, negative if none is due
yet, of held tasks only of those that wait for a limit; the number of runs whose lease ended long ago, with the id of
one; the number of tasks that wait for a limit."""

STARTED = f"""
select queue, date_trunc('minute', started_at, 'UTC'), count(*), count(*) filter (where outcome = 'completed'),
       count(*) filter (where outcome in {FAILED_OUTCOMES}), avg(wait_ms)::float8
  from joblane.runs
 where started_at >= $1 and queue is not null
 group by 1, 2
"""
ARCHIVED = f"""
select clock_timestamp(),
       (select count(*) from (select from joblane.tasks where (dead_sent_at is not null or dead_letter_unsent)
        and state = 'archived' and not cleared limit {MOST_ARCHIVED + 1}) as a)
"""
TENANT_MINUTES = 60

TENANTS = f"""
with {LIVE_TASKS},
waiting as (
  select coalesce(tenant, '') as tenant,
         count(*) filter (where state in ('pending', 'retry', 'scheduled') and due_at <= clock_timestamp()) as due,
         count(*) filter (where state = 'held') as held, count(*) filter (where state = 'active') as active,
         count(*) filter (where state in ('pending', 'retry', 'scheduled') and due_at > clock_timestamp()) as later,
         (extract(epoch from clock_timestamp()) - extract(epoch from min(due_at) filter (
            where state in ('pending', 'retry', 'scheduled') and due_at <= clock_timestamp())))::float8 as oldest
    from live group by 1
),
runs as (
  select coalesce(tenant, '') as tenant, count(*) as started,
         count(*) filter (where outcome in {FAILED_OUTCOMES}) as failed
    from joblane.runs where started_at >= now() - interval '{TENANT_MINUTES} min' group by 1
)
select tenant, coalesce(due, 0), coalesce(held, 0), coalesce(active, 0), coalesce(later, 0), oldest,
       coalesce(started, 0), coalesce(failed, 0)
  from waiting full join runs using (tenant)
 order by 2 desc, 3 desc, 7 desc, 1 limit $2::int
"""


@dataclass(slots=True)
class Recorded:
    """The part of the overview that the database holds. ``tasks``, ``waits``: by queue and type."""

    at: datetime
    archived: Count
    live: int = 0
    tasks: dict[tuple[str, str], Counter[State]] = field(default_factory=dict)
    waits: dict[tuple[str, str], float] = field(default_factory=dict)
    minutes: dict[tuple[str, datetime], list[Any]] = field(default_factory=dict)
    pauses: dict[tuple[str, str], Pause] = field(default_factory=dict)
    waiting: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Tasks that are due and wait, by the pause that keeps them."""
    paused_waits: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    """The longest waits in seconds, by the pause that keeps the tasks, and by type."""
    held: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)
    """Tasks that wait for a limit, and the longest wait in seconds, by queue and type."""
    stuck: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Runs whose lease ended long ago, and the id of one, by type."""


@dataclass(frozen=True)
class Glance(Scope):
    """A scope in one operation, whose checks read the live tasks once. ``minutes``: of the runs."""

    minutes: int = 1

    @cached_property
    def recorded(self) -> Recorded:
        with reading(self.connection) as connection:
            return read(connection, self.minutes)

    def is_late(self, type_: str, seconds: float) -> bool:
        """True if tasks of a type wait longer than its ``target_wait``. False for a type that no code declares."""
        task = self.task(type_)
        return task is not None and seconds > task.target_wait.total_seconds()


def glance(scope: Scope, minutes: int = 1) -> Glance:
    return Glance(**{each.name: getattr(scope, each.name) for each in fields(Scope)}, minutes=minutes)


def overview(scope: Scope, minutes: int) -> Overview:
    check_number("minutes", minutes, MOST_MINUTES)
    with reading(scope.connection) as connection:
        recorded = read(connection, minutes)
    declared = {(queue, task.type) for task in scope.tasks.values() for queue in task.lanes}
    with_tasks = {(as_read(Queue, queue), type_) for queue, type_ in recorded.tasks}  # includes types that are gone
    names = {lane: lane_name(scope.prefix, *lane) for lane in sorted(declared | with_tasks)}
    front_doors = {queue: front_door_name(scope.prefix, queue) for queue in Queue}
    own = {queue: sorted({names[lane] for lane in declared if lane[0] is queue}) for queue in Queue}
    sqs_queues = [*(name for some in own.values() for name in some), *front_doors.values()]
    found = depths_by_name(scope.sqs, [*sqs_queues, *map(dead_letter_name, sqs_queues)])
    places = {type_: task.place.name for task in scope.tasks.values() if task.place for type_ in task.types}
    lanes = [
        _lane(recorded, *lane, name, depth=depth_of(found, name), place=places.get(lane[1]))
        for lane, name in names.items()
    ]
    return Overview(
        at=recorded.at,
        queues=tuple(
            QueueView(
                queue=queue,
                weight=WEIGHTS[queue],
                front_door=depth_of(found, front_doors[queue]),
                depth=total(depth_of(found, name) for name in own[queue]),
                pause=recorded.pauses.get((PauseScope.QUEUE, queue)),
                minutes=_minutes(recorded, queue, minutes),
                **_sums([lane for lane in lanes if lane.queue is queue]),
            )
            for queue in Queue
        ),
        archived=recorded.archived,
        live=Count(recorded.live, exact=recorded.live < 2 * BOUND),
        paused=tuple(Paused(pause, recorded.waiting[key]) for key, pause in recorded.pauses.items()),
    )


def read(connection: Connection, minutes: int) -> Recorded:
    [[at, archived]] = connection.run(ARCHIVED)
    recorded = Recorded(at, Count(min(archived, MOST_ARCHIVED), exact=archived <= MOST_ARCHIVED))
    recorded.pauses = {(pause.scope, pause.name): pause for pause in pauses.current(connection)}
    tenants = [name for kind, name in recorded.pauses if kind is PauseScope.TENANT]
    for queue, type_, state, tenant, number, *numbers in connection.run(LIVE_ROWS, str(BOUND), tenants):
        recorded.live += number
        if state in LIVE:  # or ended by an update of its row, which the next sweep completes
            recorded.tasks.setdefault((queue, type_), Counter())[State(state)] += number
            _add(recorded, (queue, type_), tenant, numbers)
    for queue, minute, *numbers in connection.run(STARTED, _last_minutes(at, minutes)[0]):
        recorded.minutes[queue, minute] = numbers
    return recorded


def _add(recorded: Recorded, lane: tuple[str, str], tenant: str | None, numbers: Sequence[Any]) -> None:
    """Add a row of :data:`LIVE_ROWS`. A held task is not late by itself: its limit decides."""
    due, waited, stuck, example, held = numbers
    number, one = recorded.stuck.get(lane[1], (0, ""))
    if example is not None:
        recorded.stuck[lane[1]] = (number + stuck, one or example)
    if waited is None:
        return
    number, longest = recorded.held.get(lane, (0, 0.0))
    if held:
        recorded.held[lane] = (number + held, max(waited, longest))
        return
    found = [pause for pause in _pauses_of(*lane, tenant) if pause in recorded.pauses]
    recorded.waiting.update(dict.fromkeys(found, due))
    for waits, key in [(recorded.paused_waits.setdefault(each, {}), lane[1]) for each in found]:
        waits[key] = max(waited, waits.get(key, 0.0))
    if waited >= 0 and not found:
        recorded.waits[lane] = max(waited, recorded.waits.get(lane, 0.0))


def _pauses_of(queue: str, type_: str, tenant: str | None) -> list[tuple[PauseScope, str]]:
    """The pauses that would keep a task from running. A pause of a queue excludes Joblane's own types."""
    found = [(PauseScope.TYPE, type_)]
    found += [] if type_.startswith(OWN_TYPES) else [(PauseScope.QUEUE, queue)]
    return found if tenant is None else [*found, (PauseScope.TENANT, tenant)]


def _lane(recorded: Recorded, queue: Queue, type_: str, name: str, *, depth: Depth, place: str | None) -> Lane:
    return Lane(
        queue=queue,
        type=type_,
        name=name,
        depth=depth,
        tasks=dict(recorded.tasks.get((queue, type_), {})),
        oldest_wait_seconds=recorded.waits.get((queue, type_)),
        pause=recorded.pauses.get((PauseScope.TYPE, type_)),
        place=place,
    )


def _sums(lanes: Sequence[Lane]) -> dict[str, Any]:
    tasks: Counter[State] = Counter()
    for lane in lanes:
        tasks.update(lane.tasks)
    waits = [lane.oldest_wait_seconds for lane in lanes if lane.oldest_wait_seconds is not None]
    return {"lanes": tuple(lanes), "tasks": dict(tasks), "oldest_wait_seconds": max(waits, default=None)}


def _minutes(recorded: Recorded, queue: Queue, minutes: int) -> tuple[Minute, ...]:
    """The last minutes, including those in which no run started."""
    found = []
    for at in _last_minutes(recorded.at, minutes):
        started, completed, failed, wait_ms = recorded.minutes.get((queue, at), (0, 0, 0, None))
        found.append(Minute(at, started, completed, failed, None if wait_ms is None else round(wait_ms)))
    return tuple(found)


def _last_minutes(at: datetime, minutes: int) -> list[datetime]:
    """The start of each minute, oldest first, up to the current minute."""
    last = at.replace(second=0, microsecond=0)
    return [last - timedelta(minutes=back) for back in reversed(range(minutes))]


class Missing:
    """Stands for the depth of a queue that does not exist."""


def depths_by_name(sqs: Sqs, names: Iterable[str]) -> Mapping[str, QueueDepth | Missing | None]:
    """The depth of each queue; None if SQS does not answer for it.

    Once SQS cannot be reached, no further queue is asked for: each request would take as long as the first.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    unavailable = Event()

    def ask(name: str) -> QueueDepth | Missing | None:
        if unavailable.is_set():
            return None
        try:
            return queue_depth_if_exists(sqs, name) or Missing()
        except ClientError:
            return None
        except BotoCoreError:  # no response at all
            unavailable.set()
            return None

    return call_for_queues(sqs, ask, list(dict.fromkeys(names)))


def depth_of(found: Mapping[str, QueueDepth | Missing | None], queue: str) -> Depth:
    """The depth of a lane or front door, with its dead letters."""
    names = (queue, dead_letter_name(queue))
    own, dead = (each if isinstance(each := found.get(name), QueueDepth) else None for name in names)
    return Depth(
        waiting=own.waiting if own else None,
        in_flight=own.in_flight if own else None,
        delayed=own.delayed if own else None,
        dead=dead.all if dead else None,
        missing=tuple(name for name in names if isinstance(found.get(name), Missing)),
    )


def total(depths: Iterable[Depth]) -> Depth:
    """The sum of depths. A number is None if it is not known for all parts: the sum of the rest would be too small."""
    every = list(depths)

    def add(name: str) -> int | None:
        numbers = [getattr(depth, name) for depth in every]
        return None if None in numbers else sum(numbers)

    missing = tuple(name for depth in every for name in depth.missing)
    return Depth(**{each.name: add(each.name) for each in fields(Depth) if each.name != "missing"}, missing=missing)


def tenants(scope: Scope, limit: int) -> tuple[TenantRow, ...]:
    """Return the tenants, with the most due tasks first, with the runs of the last hour."""
    check_number("limit", limit, LARGEST_PAGE)
    with reading(scope.connection) as connection:
        paused = {pause.name: pause for pause in pauses.current(connection) if pause.scope is PauseScope.TENANT}
        rows = connection.run(TENANTS, str(BOUND), str(limit))
    return tuple(
        TenantRow(tenant, due, held, active, later, oldest, started, failed, paused.get(tenant))
        for tenant, due, held, active, later, oldest, started, failed in rows
    )


# --- Types ------------------------------------------------------------------------------------------------------------


def types(tasks: Mapping[str, Task[Any, Any]]) -> tuple[TypeView, ...]:
    numbers = Counter(task.place for task in tasks.values() if task.place)
    return tuple(
        TypeView(
            type=task.type,
            queues=task.lanes,
            max_retry=task.max_retry,
            timeout_seconds=task.timeout.total_seconds(),
            retention_seconds=task.retention.total_seconds(),
            batch_size=task.batch_size,
            memory_mb=task.memory_mb,
            schedules=tuple(in_words(schedule.text, schedule.timezone) for schedule in task.schedules),
            ordered=task.flow is not None and task.flow.ordered,
            schema=shown_schema(task.payload, task.schema),
            target_wait_seconds=task.target_wait.total_seconds(),
            max_concurrency=task.max_concurrency,
            key=task.flow.key if task.flow else (),
            limits=limits.limits_of(task),
            place=task.place.name if task.place else None,
            others=numbers[task.place] - 1 if task.place else 0,
        )
        for task in sorted(tasks.values(), key=lambda task: task.type)
    )
