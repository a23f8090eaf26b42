"""The types of the model. Each handler reports its start, writes to a ledger, and ends as the dice say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from joblane import ArchivedTask, Grants, Payload, RateLimited, RetryAfter, RevokeTask, SkipRetry, Snooze, TaskContext
from joblane.decorator import task
from joblane.flow import Limit, Rate
from joblane.queues import Queue
from tests.faults.model.actors import Killed
from tests.faults.model.seen import LIMITS, RATE_BURST, RATE_STEP_SECONDS

if TYPE_CHECKING:
    from tests.faults.model.processes import Process
    from tests.faults.model.world import World

LEDGER = """
create table public.ledger (n bigserial, id text, generation int, run int, what text);
create table public.calls (id text, step text, key text)
"""
"""``ledger``: the effects of handlers, in their transactions. ``calls``: the calls of steps, which always commit."""
NOTE = text("insert into public.ledger (id, generation, run, what) values (:id, :generation, :run, :what)")
CALLED = "insert into public.calls values ($1, $2, $3)"
STEPS, ITEMS, MOST_MEMBERS = 3, 4, 12
SECOND = timedelta(seconds=1)
ALL = Grants(enqueue=("*",))
POOL = Limit("model-pool", total=LIMITS["model-pool"])
USUAL: dict[str, Any] = {"max_retry": 2, "timeout": 20 * SECOND, "retry_delay": 3 * SECOND}


class Work(Payload):
    """``number``: the key. ``n``: of a debounced task, the number of the ask."""

    n: int = 0
    number: int = 0


class Here:
    """The world in which the handlers run."""

    world: World


@contextmanager
def running(ctx: TaskContext, payload: Work) -> Iterator[Process]:
    """Report the start and the end of a handler's call."""
    world = Here.world
    actor = world.actors.current
    assert actor is not None
    start = world.starts.begin(ctx, payload, actor)
    try:
        yield actor.process
    except Killed:
        raise
    except BaseException:
        world.starts.end(start)
        raise
    world.starts.end(start)


def note(ctx: TaskContext, what: str = "done") -> dict[str, Any]:
    return {"id": ctx.task_id, "generation": ctx._claim.generation, "run": ctx._claim.run, "what": what}


def end(process: Process, share: float = 1.0) -> None:
    """End a run as the dice say. ``share``: of the runs for which they are thrown."""
    dice, world = process.world.dice, process.world
    if not world.faults.on or dice.random() >= share:
        return
    drawn = dice.random()
    if drawn < 0.03 and not world.faults.is_calm:
        process.kill()
        raise Killed
    if drawn < 0.15:
        raise ValueError("by the dice")
    if drawn < 0.18:
        raise SkipRetry("by the dice")
    if drawn < 0.21:
        raise Snooze(timedelta(seconds=dice.choice((1, 50, 1000))))
    if drawn < 0.24:
        raise RetryAfter(timedelta(seconds=dice.choice((0, 5, 2000, 90_000))))
    if drawn < 0.26:
        raise RevokeTask("by the dice")
    if drawn < 0.28:
        raise RateLimited(timedelta(seconds=dice.choice((1, 30, 1200))))


def work(payload: Work, ctx: TaskContext) -> None:
    with running(ctx, payload) as process:
        if process.world.dice.random() < 0.5:
            ctx.session.execute(text("select 1"))
        ctx.session.execute(NOTE, note(ctx))
        process.rest()
        if process.world.faults.on:
            enqueue_more(ctx, process.world)
        process.rest()
        end(process)


def enqueue_more(ctx: TaskContext, world: World) -> None:
    """Enqueue children in the run's transaction, or a further member of its batch."""
    dice, seen, maker = world.dice, world.seen, (ctx.task_id, ctx._claim.generation)
    if ctx.type == "m:plain" and dice.random() < 0.12:
        seen.made_by[first := world.new_id()] = maker
        ctx.enqueue(m_keyed, Work(number=dice.randint(0, 2)), task_id=first)
        if dice.random() < 0.5:
            seen.made_by[second := world.new_id()] = maker
            policy = dice.choice(("run", "cancel", "hold"))
            seen.parents[second] = [first], policy
            ctx.enqueue(m_plain, Work(), task_id=second, after=[first], on_parent_dead=policy)
    if ctx.batch is not None and dice.random() < 0.3:
        batch = seen.batches[ctx.batch.id]
        if len(batch.members) < MOST_MEMBERS:
            seen.made_by[member := world.new_id()] = maker
            ctx.batch.enqueue(m_plain, Work(), task_id=member)
            world.counts["members added by members"] += 1


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
                process.world.observer.run(CALLED, ctx.task_id, name, key)
                ctx.session.execute(NOTE, note(ctx, f"step {name}"))
                process.rest(2)
                return {"step": name}

            assert ctx.step(str(number), call) == {"step": str(number)}
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
