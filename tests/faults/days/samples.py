"""The types of a day: with retries, long back-offs, each form of a limit, a rate, and none of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

from joblane import Grants, Payload, Rate, RetryAfter, TaskContext, task
from joblane.errors import RateLimited, Snooze
from joblane.names import Queue
from joblane.tasks.limit import Limit

PREFIX = "days"
POOL = Limit("day-pool", total=2)
OPTIONS: dict[str, Any] = {
    "max_retry": 3,
    "timeout": timedelta(minutes=10),
    "grants": Grants(enqueue=("day:plain", "day:one")),
}


class Step(Payload):
    """A run: it takes its time, enqueues so many tasks, and ends. ``seconds``: the wait that it asks for."""

    takes: float = 0
    enqueues: int = 0
    ends: Literal["well", "fails", "retries", "snoozes", "limited"] = "well"
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
        type_ = day_plain if child % 2 else day_one
        ctx.enqueue(type_, Work(), task_id=f"{ctx.task_id}-{number}-{child}")
    Surroundings.sleep(step.takes)
    wait = timedelta(seconds=step.seconds)
    match step.ends:
        case "fails":
            raise ValueError("failed")
        case "retries":
            raise RetryAfter(wait, "again")
        case "snoozes":
            raise Snooze(wait)
        case "limited":
            raise RateLimited(wait)


@task("day:plain", retry_delay=timedelta(minutes=2), **OPTIONS)
def day_plain(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("day:urgent", queue=Queue.CRITICAL, retry_delay=timedelta(seconds=20), **OPTIONS)
def day_urgent(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("day:slow", retry_delay=[timedelta(minutes=20), timedelta(hours=2)], **OPTIONS)
def day_slow(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("day:one", max_total=1, retry_delay=timedelta(minutes=5), **OPTIONS)
def day_one(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("day:key", key="key", max_per_key=1, limit=POOL, retry_delay=timedelta(minutes=30), **OPTIONS)
def day_key(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("day:order", key="key", order="first-due", limit=POOL, retry_delay=timedelta(minutes=1), **OPTIONS)
def day_order(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("day:rate", rate=Rate(3, timedelta(hours=1)), retry_delay=timedelta(minutes=3), **OPTIONS)
def day_rate(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("day:ticked", overlap="allow", retry_delay=timedelta(minutes=2), **OPTIONS)
def day_ticked(payload: Work, ctx: TaskContext) -> None:
    """A deploy gives it its schedules."""
    work(payload, ctx)


@task("day:timed", overlap="allow", retry_delay=timedelta(minutes=2), **OPTIONS)
def day_timed(payload: Work, ctx: TaskContext) -> None:
    """Programs put its schedules."""
    work(payload, ctx)


TASKS = {t.type: t for t in (day_plain, day_urgent, day_slow, day_one, day_key, day_order, day_rate)}
SCHEDULED = {t.type: t for t in (day_ticked, day_timed)}
"""Those that only schedules start."""
