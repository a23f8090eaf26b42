"""The saving of a larger ``batch_size`` of a type, and how much later its jobs would start, from its runs.

A mapping has no batching window, so Lambda invokes a function with the messages that it finds: a batch holds more than
one message only if messages wait in the lane. Source: Lambda, *How Lambda processes records from stream and queue-based
event sources*, batching behavior. A window would make a message of a quiet lane wait for up to 20 seconds. Source:
Lambda, *Using Lambda with Amazon SQS*, polling and batching streams.

The jobs of a batch run one after the other (:mod:`joblane.worker.worker`): each waits for those before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from joblane.errors import DeclarationError
from joblane.inspector.scope import Scope
from joblane.inspector.views import Batching, Obstacle
from joblane.names import OWN_TYPES
from joblane.prices import MONTH, PRICES, invocation_dollars
from joblane.quotas import MAX_BATCH, Numbers
from joblane.tasks.task import Task

PERIOD = timedelta(days=7)
HOUR_MS = 3_600_000
UNTIL_CLAIM_MS = 200
"""Assumed for a message that meets an empty lane, from its due time to the claim: sent, polled, invoked. Not measured
on AWS. Any longer wait is counted as a wait for other messages."""
LEAST_SHARE = 0.05
"""A share of the estimated cost of the runs. A smaller saving is not worth the waits."""
MOST_LOST = 0.001
"""Share of lost runs. A lost run loses its whole batch, whose jobs then run alone."""
MEASURED_US: Mapping[int, tuple[int, int]] = {1: (140, 160), MAX_BATCH: (70, 40)}
"""Batch → µs of a job that does nothing: of PostgreSQL for claim and finish, and of the function. Source:
``tests/bench/delivering.py``, on the machine of ``docs/how-to/size.md``, which has the same table."""
DATABASE_US, FUNCTION_US = (
    (alone - full) / (1 - 1 / MAX_BATCH) for alone, full in zip(MEASURED_US[1], MEASURED_US[MAX_BATCH], strict=True)
)
"""µs that each invocation costs in addition to its jobs."""
PROCESSOR_MB = 1769
"""Memory with which a function has a whole processor. Source: Lambda, *Configure Lambda function memory*."""

# Waiting messages are counted by Little's law, as a mean of the hour: a burst that waits for a part of it counts less.
RUNS = f"""
select n.name, x.* from unnest($1::text[]) as n(name), lateral (
  select least({MAX_BATCH}, greatest(1, (wait_ms - {UNTIL_CLAIM_MS} * runs) / {HOUR_MS}))::int as messages,
         sum(runs)::bigint, sum(lost)::bigint, sum(timed)::bigint, sum(duration_ms)::bigint, sum(cost_usd)::float8
    from (select completed + failed + archived + lost + others as runs, lost, completed + failed + archived as timed,
                 wait_ms, duration_ms, cost_usd
            from joblane.run_statistics
           where kind = 'type' and name = n.name and seconds = 3600 and cost_usd < 'infinity'
             and at >= now() - interval '{PERIOD.days} days') as hours
   group by 1 having sum(runs) > 0) as x
"""
"""The runs of types ($1), added up by the number of messages that waited at the same time, in each lane and hour."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs that started while ``messages`` waited at the same time, 1 to 10. ``timed``: the number
    of runs that ``duration_ms`` adds up."""

    messages: int
    number: int
    lost: int
    timed: int
    duration_ms: int
    cost_usd: float


def batching(scope: Scope, types: Sequence[str]) -> tuple[Batching, ...]:
    tasks = [
        task
        for task in scope.tasks.values()
        if not task.type.startswith(OWN_TYPES) and (not types or task.type in types)
    ]
    rows: defaultdict[str, list[Runs]] = defaultdict(list)
    for name, *numbers in scope.connection.run(RUNS, [name for task in tasks for name in task.types]):
        rows[name].append(Runs(*numbers))
    runs = {task: [row for name in task.types for row in rows[name]] for task in tasks}
    found = [advice(task, rows) for task, rows in runs.items() if rows]
    return tuple(sorted(found, key=lambda one: (-one.usd_a_month, one.type)))


def advice(task: Task[Any, Any], rows: Iterable[Runs]) -> Batching:
    """``rows``: the runs of :data:`PERIOD`, at least one."""
    rows = list(rows)
    runs, timed = sum(row.number for row in rows), sum(row.timed for row in rows)
    mean_ms = sum(row.duration_ms for row in rows) / timed if timed else 0.0
    size, obstacle = _largest(task, mean_ms, sum(row.lost for row in rows) / runs)
    spared = (_invocations(rows, task.batch_size) - _invocations(rows, size)) / runs
    dollars, cost = spared * _dollars_of_invocation(task.memory_mb), sum(row.cost_usd for row in rows) / runs
    share = dollars / cost if cost else 0.0
    if obstacle is None and share < LEAST_SHARE:
        obstacle = Obstacle.LITTLE if spared else Obstacle.ALONE
    before = sum(row.number * (min(size, row.messages) - min(task.batch_size, row.messages)) for row in rows) / runs / 2
    return Batching(
        type=task.type,
        runs=runs,
        batch_size=task.batch_size,
        advised=None if obstacle else size,
        obstacle=obstacle,
        messages=runs / _invocations(rows, size),
        usd_a_month=dollars * runs * (MONTH / PERIOD),
        usd_per_million=dollars * 1e6,
        share=share,
        database_seconds_per_million=spared * DATABASE_US,
        later_ms=round(before * mean_ms),
        latest_ms=round((size - task.batch_size) * mean_ms),
    )


def _largest(task: Task[Any, Any], mean_ms: float, lost: float) -> tuple[int, Obstacle | None]:
    """Return the largest batch that the task allows; if none is larger than its own, its own and the reason."""
    own, target_ms = task.batch_size, task.target_wait / timedelta(milliseconds=1)
    fitting = [size for size in range(own + 1, MAX_BATCH + 1) if _fits(task, size)]
    quick = [size for size in fitting if (size - 1) * mean_ms <= target_ms]
    obstacles = {
        Obstacle.PLACE: task.place is not None,  # the messages of its other types are in the same batches
        Obstacle.FULL: own == MAX_BATCH,
        Obstacle.RESUMABLE: task.resumable,
        Obstacle.LIMITED: task.flow is not None,  # a batch keeps the slots of the jobs that wait in it
        Obstacle.LOST: lost > MOST_LOST,
        Obstacle.TIMEOUT: not fitting,
        Obstacle.WAITS: not quick,
    }
    found = next((obstacle for obstacle, applies in obstacles.items() if applies), None)
    return own if found else quick[-1], found


def _fits(task: Task[Any, Any], size: int) -> bool:
    """True if a declaration with this batch would be accepted: the function's timeout covers the whole batch."""
    try:
        Numbers.of(timeout=task.timeout, batch_size=size, max_retry=task.max_retry, what=task.type)
    except DeclarationError:
        return False
    return True


def _invocations(rows: Iterable[Runs], size: int) -> float:
    return sum(row.number / min(size, row.messages) for row in rows)


def _dollars_of_invocation(memory_mb: int) -> float:
    """A function with less memory has a smaller part of the processor, and takes longer."""
    gb_seconds = FUNCTION_US / 1e6 * max(memory_mb, PROCESSOR_MB) / 1024
    return invocation_dollars() + gb_seconds * PRICES["Lambda GB-second"].each
