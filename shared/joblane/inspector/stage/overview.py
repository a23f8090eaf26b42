"""Queues and lanes now: their tasks, their messages, and the runs of the last minutes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from joblane.inspector.filter import PauseScope
from joblane.inspector.scope import Scope
from joblane.inspector.stage import pauses
from joblane.inspector.stage.depths import depth_of, depths_by_name, total
from joblane.inspector.tasks.filter_sql import BOUND, check_number, reading
from joblane.inspector.views import Count, Depth, Lane, Minute, Overview, Pause, Paused, QueueView
from joblane.names import OWN_TYPES, WEIGHTS, Queue, dead_letter_name, front_door_name, lane_name
from joblane.record.driver.connection import Connection
from joblane.record.row.states import LIVE, State, as_read
from joblane.record.run_statistics import FAILED_OUTCOMES

MOST_MINUTES = 240
MOST_ARCHIVED = 1_000
"""Archived tasks are counted up to here: each is a page of the table, which nobody else reads."""

LIVE_TASKS = """
edge as materialized (
  select created_at, id from joblane.tasks where finished_at is null order by created_at, id offset $1::int - 1 limit 1
),
live as (
  (select queue, type, state, tenant, due_at, lease_until, wait_kind from joblane.tasks where finished_at is null
    order by created_at, id limit $1::int)
  union all
  (select queue, type, state, tenant, due_at, lease_until, wait_kind from joblane.tasks
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
        - extract(epoch from min(due_at) filter (where state not in ('active', 'held'))))::float8
  from live
 group by 1, 2, 3, 4
"""
"""Live tasks by lane, state and paused tenant ($2: the paused tenants).

The last columns: the number of tasks that are due and do not run, and the wait of the task that was due first, negative
if none is due yet. A held task is not late."""

STARTED = f"""
select queue, date_trunc('minute', started_at, 'UTC'), count(*), count(*) filter (where outcome = 'completed'),
       count(*) filter (where outcome in {FAILED_OUTCOMES}), avg(wait_ms)::float8
  from joblane.task_attempts
 where started_at >= $1 and queue is not null
 group by 1, 2
"""
ARCHIVED = f"""
select clock_timestamp(),
       (select count(*) from (select from joblane.tasks where (dead_sent_at is not null or dead_letter_unsent)
        and state = 'archived' and not cleared limit {MOST_ARCHIVED + 1}) as a)
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


def overview(scope: Scope, minutes: int) -> Overview:
    check_number("minutes", minutes, MOST_MINUTES)
    with reading(scope.connection) as connection:
        recorded = read(connection, minutes)
    declared = {(queue, task.type) for task in scope.tasks.values() for queue in task.lanes}
    with_tasks = {(as_read(Queue, queue), type_) for queue, type_ in recorded.tasks}  # includes types that are gone
    names = {lane: lane_name(scope.prefix, *lane) for lane in sorted(declared | with_tasks)}
    front_doors = {queue: front_door_name(scope.prefix, queue) for queue in Queue}
    sqs_queues = [*(names[lane] for lane in declared), *front_doors.values()]
    found = depths_by_name(scope.sqs, [*sqs_queues, *map(dead_letter_name, sqs_queues)])
    lanes = [_lane(recorded, *lane, name, depth_of(found, name)) for lane, name in names.items()]
    return Overview(
        at=recorded.at,
        queues=tuple(
            QueueView(
                queue=queue,
                weight=WEIGHTS[queue],
                front_door=depth_of(found, front_doors[queue]),
                depth=total(lane.depth for lane in lanes if lane.queue is queue and (queue, lane.type) in declared),
                pause=recorded.pauses.get((PauseScope.QUEUE, queue)),
                minutes=_minutes(recorded, queue, minutes),
                **_sums([lane for lane in lanes if lane.queue is queue]),
            )
            for queue in Queue
        ),
        archived=recorded.archived,
        live=Count(recorded.live, exact=recorded.live < 2 * BOUND),
        paused=tuple(
            Paused(pause, recorded.waiting[key])
            for key, pause in recorded.pauses.items()
            if pause.scope is not PauseScope.SCHEDULE
        ),
    )


def read(connection: Connection, minutes: int) -> Recorded:
    [[at, archived]] = connection.run(ARCHIVED)
    recorded = Recorded(at, Count(min(archived, MOST_ARCHIVED), exact=archived <= MOST_ARCHIVED))
    recorded.pauses = {(pause.scope, pause.name): pause for pause in pauses.current(connection)}
    tenants = [name for kind, name in recorded.pauses if kind is PauseScope.TENANT]
    for queue, type_, state, tenant, number, due, waited in connection.run(LIVE_ROWS, str(BOUND), tenants):
        recorded.live += number
        if state not in LIVE:  # ended by an update of its row, which the next sweep completes
            continue
        recorded.tasks.setdefault((queue, type_), Counter())[State(state)] += number
        found = [pause for pause in _pauses_of(queue, type_, tenant) if pause in recorded.pauses]
        recorded.waiting.update(dict.fromkeys(found, due))
        if waited is not None and waited >= 0 and not found:
            recorded.waits[queue, type_] = max(waited, recorded.waits.get((queue, type_), 0.0))
    for queue, minute, *numbers in connection.run(STARTED, _last_minutes(at, minutes)[0]):
        recorded.minutes[queue, minute] = numbers
    return recorded


def _pauses_of(queue: str, type_: str, tenant: str | None) -> list[tuple[PauseScope, str]]:
    """The pauses that would keep a task from running. A pause of a queue excludes Joblane's own types."""
    found = [(PauseScope.TYPE, type_)]
    found += [] if type_.startswith(OWN_TYPES) else [(PauseScope.QUEUE, queue)]
    return found if tenant is None else [*found, (PauseScope.TENANT, tenant)]


def _lane(recorded: Recorded, queue: Queue, type_: str, name: str, depth: Depth) -> Lane:
    return Lane(
        queue=queue,
        type=type_,
        name=name,
        depth=depth,
        tasks=dict(recorded.tasks.get((queue, type_), {})),
        oldest_wait_seconds=recorded.waits.get((queue, type_)),
        pause=recorded.pauses.get((PauseScope.TYPE, type_)),
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
