"""The types of a day: with retries, long back-offs, each form of a limit, a rate, and none of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Literal

from joblane import Grants, Payload, Rate, TaskContext
from joblane.names import Queue
from joblane.tasks.limit import Limit
from tests.faults.declared import declared, follow

PREFIX = "days"
POOL = Limit("day-pool", total=2)


class Step(Payload):
    """A run: it takes its time, enqueues so many tasks, and ends. ``seconds``: the wait that it asks for."""

    takes: float = 0
    enqueues: int = 0
    ends: Literal["well", "fail", "retry", "snooze", "limited"] = "well"
    seconds: float = 0


class Work(Payload):
    """``steps``: of the runs, one after the other; later runs end well."""

    key: int | None = None
    steps: tuple[Step, ...] = ()


class Surroundings:
    """The things around the handlers. ``sleep``: lets virtual time pass."""

    sleep: Callable[[float], None]
    started: Callable[[str], int]
    """Counts a start of a task, and returns the number of earlier ones."""


def work(payload: Work, ctx: TaskContext) -> None:
    number = Surroundings.started(ctx.task_id)
    step = payload.steps[number] if number < len(payload.steps) else Step()
    for child in range(step.enqueues):
        type_ = TASKS["day:plain" if child % 2 else "day:one"]
        ctx.enqueue(type_, Work(), task_id=f"{ctx.task_id}-{number}-{child}")
    Surroundings.sleep(step.takes)
    follow(step.ends, timedelta(seconds=step.seconds))


MINUTE = timedelta(minutes=1)
ALL_TYPES = declared(
    work,
    {
        "day:plain": {"retry_delay": 2 * MINUTE},
        "day:urgent": {"queue": Queue.CRITICAL, "retry_delay": MINUTE / 3},
        "day:slow": {"retry_delay": [20 * MINUTE, 120 * MINUTE]},
        "day:one": {"max_total": 1, "retry_delay": 5 * MINUTE},
        "day:key": {"key": "key", "max_per_key": 1, "limit": POOL, "retry_delay": 30 * MINUTE},
        "day:order": {"key": "key", "order": "first-due", "limit": POOL, "retry_delay": MINUTE},
        "day:rate": {"rate": Rate(3, 60 * MINUTE), "retry_delay": 3 * MINUTE},
        "day:ticked": {"overlap": "allow", "retry_delay": 2 * MINUTE},
        "day:timed": {"overlap": "allow", "retry_delay": 2 * MINUTE},
    },
    max_retry=3,
    timeout=10 * MINUTE,
    grants=Grants(enqueue=("day:plain", "day:one")),
)
DAY_PLAIN = ALL_TYPES["day:plain"]
DAY_TICKED, DAY_TIMED = ALL_TYPES["day:ticked"], ALL_TYPES["day:timed"]
"""A deploy gives the first one its schedules, and programs put schedules of the second."""
SCHEDULED = {task.type: task for task in (DAY_TICKED, DAY_TIMED)}
"""Those that only schedules start."""
TASKS = {type_: task for type_, task in ALL_TYPES.items() if type_ not in SCHEDULED}
