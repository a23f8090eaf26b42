"""The types of the model: with each form of limit, with a rate, an order, keys or steps, and with none of them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from joblane import ArchivedTask, Grants, TaskContext
from joblane.names import Queue
from joblane.tasks.decorator import task
from joblane.tasks.limit import Limit, Rate
from tests.faults.model.runs import CALLED, COMMITTED, NOTE, Work, end, note, running, work
from tests.faults.model.seen import LIMITS, RATE_BURST, RATE_STEP_SECONDS

if TYPE_CHECKING:
    pass

STEPS, ITEMS = 3, 4
SECOND = timedelta(seconds=1)
ALL = Grants(enqueue=("*",))
POOL = Limit("model-pool", total=LIMITS["model-pool"])
USUAL: dict[str, Any] = {"max_retry": 2, "timeout": 20 * SECOND, "retry_delay": 3 * SECOND}


@task(
    "m:plain",
    **USUAL | {"retry_delay": [SECOND, 1500 * SECOND]},
    also=[Queue.CRITICAL],
    retention=timedelta(hours=1),
    events=("completed", "archived", "cancelled"),
    grants=ALL,
)
def m_plain(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("m:bulky", **USUAL, batch_size=10, retention=timedelta(0), events=("archived",))
def m_bulky(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task(
    "m:keyed",
    **USUAL,
    batch_size=3,
    key="number",
    max_per_key=LIMITS["m:keyed/"],
    max_total=LIMITS["m:keyed"],
    limit=POOL,
)
def m_keyed(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("m:share", **USUAL, limit=POOL)
def m_share(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("m:order", **USUAL | {"retry_delay": 40 * SECOND}, key="number", order="first-due")
def m_order(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("m:rated", **USUAL, rate=Rate(10, per=10 * RATE_STEP_SECONDS * SECOND, burst=RATE_BURST))
def m_rated(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("m:only", **USUAL, unique_for=timedelta(hours=1))
def m_only(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task(
    "m:asked",
    **USUAL | {"max_retry": 1},
    unique_for=timedelta(hours=2),
    unique_until="start",
    events=("completed",),
    retention=timedelta(days=60),
)
def m_asked(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("m:steps", **USUAL | {"max_retry": 3})
def m_steps(payload: Work, ctx: TaskContext) -> None:
    with running(ctx, payload) as process:
        for number in range(STEPS):

            def call(key: str, name: str = str(number)) -> dict[str, str]:
                if process.world.observer.run(COMMITTED, ctx.task_id, f"step {name}"):
                    process.world.wrong("a step was called after its commit", ctx.task_id, name)
                process.world.observer.run(CALLED, ctx.task_id, name, key)
                ctx.session.execute(NOTE, note(ctx, f"step {name}"))
                process.rest(2)
                return {"step": name}

            if ctx.step(str(number), call) != {"step": str(number)}:
                process.world.wrong("a step has another value", ctx.task_id, number)
            end(process, 0.08)
        ctx.session.execute(NOTE, note(ctx))
        end(process)


@task("m:each", **USUAL | {"max_retry": 3})
def m_each(payload: Work, ctx: TaskContext) -> None:
    with running(ctx, payload) as process:
        for number in ctx.each(range(ITEMS)):
            ctx.session.execute(NOTE, note(ctx, f"step {number}"))
            process.rest(1)
            end(process, 0.06)
        ctx.session.execute(NOTE, note(ctx))


@task("m:async", **USUAL | {"max_retry": 3}, events=("completed",), key="number", max_per_key=1, grants=ALL)
async def m_async(payload: Work, ctx: TaskContext) -> None:
    with running(ctx, payload) as process:
        if process.world.dice.random() < 0.7:
            await ctx.async_session.execute(NOTE, note(ctx))
        else:
            ctx.session.execute(NOTE, note(ctx))
        process.rest()
        await asyncio.sleep(0)
        if process.world.chance(0.1):
            process.world.seen.made_by[child := process.world.new_id()] = ctx.task_id, ctx._claim.generation
            await ctx.aenqueue(m_plain, Work(), task_id=child)
        end(process)


@task("m:alert", **USUAL | {"max_retry": 1})
def m_alert(payload: ArchivedTask, ctx: TaskContext) -> None:
    with running(ctx, Work()):
        ctx.session.execute(NOTE, note(ctx))


@task("m:watch", **USUAL | {"max_retry": 1}, on_archived=m_alert)
def m_watch(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("m:timed", **USUAL | {"max_retry": 1}, overlap="allow")
def m_timed(payload: Work, ctx: TaskContext) -> None:
    work(payload, ctx)


TASKS = {
    each.type: each
    for each in (
        m_plain, m_bulky, m_keyed, m_share, m_order, m_rated, m_only, m_asked, m_steps, m_each, m_async, m_alert,
        m_watch, m_timed,
    )
}  # fmt: skip
