"""The types of the storm of limits: each form of a tree of limits, and one without limits."""

from __future__ import annotations

import random
import time
from datetime import timedelta
from typing import Any

from joblane import Payload, RetryAfter, Snooze, TaskContext, task
from joblane.tasks.limit import Limit

POOL = Limit("pool", total=5)
OPTIONS: dict[str, Any] = {"max_retry": 3, "retry_delay": timedelta(0), "timeout": timedelta(seconds=30)}
TOUCHED = 0.2
"""The share of runs that write to the row of a task that waits, and so lock it until their commit."""
REPEATABLE = 0.2
"""The share of runs in the isolation level repeatable read."""


class Work(Payload):
    """``key``: of the limits. ``script``: what the runs do, one after the other; after them the task completes."""

    key: int | None = None
    script: tuple[str, ...] = ()


def work(payload: Work, ctx: TaskContext) -> None:
    from sqlalchemy import text

    if random.random() < REPEATABLE:
        ctx.session.execute(text("set transaction isolation level repeatable read"))
    time.sleep(random.random() * 0.02)
    if random.random() < TOUCHED:
        ctx.session.execute(
            text(
                "update joblane.tasks set tags = tags where id = (select id from joblane.tasks"
                " where wait_kind is not null and id <> :id limit 1 offset :number for no key update skip locked)"
            ),
            {"id": ctx.task_id, "number": random.randrange(8)},
        )
    steps = payload.script[ctx.attempt - 1 :]
    match steps[0] if steps else "":
        case "retry":
            raise RetryAfter(timedelta(milliseconds=200), "again")
        case "fail":
            raise ValueError("failed")
        case "snooze" if random.random() < 0.5:
            raise Snooze(timedelta(milliseconds=100))
    ctx.session.execute(text("insert into public.effects values (:id)"), {"id": ctx.task_id})


@task("flow:tree", key="key", max_per_key=2, max_total=6, limit=POOL, batch_size=4, **OPTIONS)
def flow_tree(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("flow:shared", key="key", max_per_key=1, limit=POOL, **OPTIONS)
def flow_shared(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("flow:total", max_total=3, batch_size=4, **OPTIONS)
def flow_total(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("flow:key", key="tenant,key", max_per_key=3, **OPTIONS)
def flow_key(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("flow:order", key="key", order="first-due", **OPTIONS)
def flow_order(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("flow:queue", key="key", max_total=4, limit=POOL, order="first-due", **OPTIONS)
def flow_queue(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("flow:free", batch_size=4, **OPTIONS)
def flow_free(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


TASKS = {t.type: t for t in (flow_tree, flow_shared, flow_total, flow_key, flow_order, flow_queue, flow_free)}
