"""Queues, lanes and tenants now: their tasks, the messages of the lanes, and the runs of the last minutes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from threading import Event
from typing import TYPE_CHECKING, Any

from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import TROUBLE, PauseScope
from joblane.inspector.scope import Scope
from joblane.inspector.sentences.schedules import in_words
from joblane.inspector.stage import limits, pauses
from joblane.inspector.stage.glance import LIVE_TASKS, Glance, Recorded, glance, last_minutes
from joblane.inspector.tasks.filter_sql import BOUND, LARGEST_PAGE, check_number, reading
from joblane.inspector.views import Count, Depth, Lane, Minute, Overview, Paused, QueueView, TenantRow, TypeView
from joblane.names import WEIGHTS, Queue, dead_letter_name, front_door_name, lane_name
from joblane.record.row.states import State, as_read
from joblane.record.run_statistics import FAILED_OUTCOMES
from joblane.sqs.client import Sqs
from joblane.sqs.depth import QueueDepth, call_for_queues, queue_depth_if_exists
from joblane.tasks.redaction import shown_schema

if TYPE_CHECKING:
    from joblane.tasks.task import Task

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
select * from (
  select tenant, coalesce(due, 0) as due, coalesce(held, 0) as held, coalesce(active, 0) as active,
         coalesce(later, 0) as later, oldest, coalesce(started, 0) as started, coalesce(failed, 0) as failed
    from waiting full join runs using (tenant)) as x
 order by {{sort}}, due desc, held desc, started desc, tenant limit $2::int
"""
TENANT_SORTS = {
    TROUBLE: "failed + due + held desc",
    "tenant": "tenant",
    **{name: f"{name} desc nulls last" for name in ("due", "oldest", "active", "held", "later", "failed")},
    "runs": "started desc",
    "share": "failed::float8 / nullif(started, 0) desc nulls last",
}


def overview(scope: Scope, minutes: int) -> Overview:
    return of(glance(scope, minutes))


def of(scope: Glance) -> Overview:
    recorded, minutes = scope.recorded, scope.minutes
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
    for at in last_minutes(recorded.at, minutes):
        started, completed, failed, waits, wait_ms = recorded.minutes.get((queue, at), (0, 0, 0, 0, 0))
        found.append(Minute(at, started, completed, failed, round(wait_ms / waits) if waits else None))
    return tuple(found)


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


def tenants(scope: Scope, sort: str, limit: int) -> tuple[TenantRow, ...]:
    """Raises :class:`SelectionError`."""
    check_number("limit", limit, LARGEST_PAGE)
    if sort not in TENANT_SORTS:
        raise SelectionError("sort", f"{', '.join(TENANT_SORTS)} are valid, not {sort!r}")
    with reading(scope.connection) as connection:
        paused = {pause.name: pause for pause in pauses.current(connection) if pause.scope is PauseScope.TENANT}
        rows = connection.run(TENANTS.format(sort=TENANT_SORTS[sort]), str(BOUND), str(limit))
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
