"""The types of the storm of graphs: tasks that look at their parents, alone and in batches."""

from __future__ import annotations

import random
import time
from datetime import timedelta
from typing import Any

from joblane import Grants, Job, Payload, RetryAfter, TaskContext, task

OPTIONS: dict[str, Any] = {
    "max_retry": 2,
    "retry_delay": timedelta(0),
    "timeout": timedelta(seconds=30),
    "grants": Grants(enqueue=("graph:one",)),
}
REPEATABLE = 0.3
"""The share of runs in the isolation level repeatable read."""


class Node(Payload):
    """A task of a graph.

    ``needs``: tasks that have to be completed before it, ``follows``: those that have to have ended. ``script``: what
    the runs do, one after the other; then the task completes. ``adds``: a member that it adds to its batch.
    """

    needs: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    script: tuple[str, ...] = ()
    adds: str | None = None


EARLY = """
insert into public.early
select :id, p.id from joblane.tasks p
 where (p.id = any(:needs) and p.state <> 'completed')
    or (p.id = any(:follows) and p.finished_at is null and p.generation = 0)
"""


def node(payload: Node, ctx: TaskContext) -> None:
    from sqlalchemy import text

    if random.random() < REPEATABLE:
        ctx.session.execute(text("set transaction isolation level repeatable read"))
    ctx.session.execute(
        text(EARLY), {"id": ctx.task_id, "needs": list(payload.needs), "follows": list(payload.follows)}
    )
    time.sleep(random.random() * 0.02)
    steps = payload.script[ctx.attempt - 1 :]
    match steps[0] if steps else "":
        case "retry":
            raise RetryAfter(timedelta(milliseconds=100), "again")
        case "fail":
            raise ValueError("failed")
    if payload.adds is not None and ctx.batch is not None:
        ctx.batch.enqueue_many([Job(graph_one, Node(), task_id=payload.adds)])
    ctx.session.execute(text("insert into public.effects values (:id)"), {"id": ctx.task_id})


@task("graph:one", **OPTIONS)
def graph_one(payload: Node, ctx: TaskContext) -> None:
    node(payload, ctx)


@task("graph:many", batch_size=4, **OPTIONS)
def graph_many(payload: Node, ctx: TaskContext) -> None:
    node(payload, ctx)


@task("graph:limited", max_total=3, **OPTIONS)
def graph_limited(payload: Node, ctx: TaskContext) -> None:
    node(payload, ctx)


TASKS = {t.type: t for t in (graph_one, graph_many, graph_limited)}
