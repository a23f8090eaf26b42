"""The types of the model, with each form of limit, with a rate, an order, keys or steps, and with none of them.

Each run reports its start, writes to a ledger, and ends as the dice say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from joblane import ArchivedTask, Grants, Payload, TaskContext
from joblane.names import Queue
from joblane.tasks.limit import Limit, Rate
from tests.faults.declared import declared, follow
from tests.faults.model.actors import Killed
from tests.faults.model.starts import LIMITS, RATE_BURST, RATE_STEP_SECONDS

if TYPE_CHECKING:
    from tests.faults.model.processes import Process
    from tests.faults.model.world import World

LEDGER = """
create table public.ledger (n bigserial, id text, generation int, run int, what text);
create table public.calls (id text, step text, key text)
"""
"""``ledger``: the effects of handlers, in their transactions. ``calls``: the calls of steps, which always commit."""
NOTE = text("insert into public.ledger (id, generation, run, what) values (:id, :generation, :run, :what)")
COMMITTED = "select 1 from public.ledger where id = $1 and what = $2"
CALLED = "insert into public.calls values ($1, $2, $3)"
MOST_ADDED = 8
ENDS: tuple[tuple[float, str, tuple[int, ...]], ...] = (
    (0.15, "fail", ()),
    (0.18, "skip", ()),
    (0.21, "snooze", (1, 50, 1000)),
    (0.24, "retry", (0, 5, 2000, 90_000)),
    (0.26, "revoke", ()),
    (0.28, "limited", (1, 30, 1200)),
)
"""A number up to which an end is drawn, its word, and the seconds of its wait."""


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
    for most, word, waits in ENDS:
        if drawn < most:
            follow(word, timedelta(seconds=dice.choice(waits)) if waits else timedelta(0))


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
        ctx.enqueue(world.tasks["m:keyed"], Work(number=dice.randint(0, 2)), task_id=first)
        if dice.random() < 0.5:
            seen.made_by[second := world.new_id()] = maker
            policy = dice.choice(("run", "cancel", "hold"))
            seen.parents[second] = [first], policy
            ctx.enqueue(world.tasks["m:plain"], Work(), task_id=second, after=[first], on_parent_dead=policy)
    if ctx.batch_id is not None and dice.random() < 0.3:
        batch = seen.batches[ctx.batch_id]
        if len(batch.added) < MOST_ADDED:
            seen.made_by[member := world.new_id()] = maker
            batch.added.add(member)
            ctx.batch.enqueue(world.tasks["m:plain"], Work(), task_id=member)
            world.counts["members added by members"] += 1


# --- The types -------------------------------------------------------------------------------------------------------

STEPS, ITEMS = 3, 4
SECOND = timedelta(seconds=1)
ALL = Grants(enqueue=("*",))
POOL = Limit("model-pool", total=LIMITS["model-pool"])


def steps(payload: Work, ctx: TaskContext) -> None:
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


def each(payload: Work, ctx: TaskContext) -> None:
    with running(ctx, payload) as process:
        for number in ctx.each(range(ITEMS)):
            ctx.session.execute(NOTE, note(ctx, f"step {number}"))
            process.rest(1)
            end(process, 0.06)
        ctx.session.execute(NOTE, note(ctx))


async def asynchronous(payload: Work, ctx: TaskContext) -> None:
    with running(ctx, payload) as process:
        if process.world.dice.random() < 0.7:
            await ctx.async_session.execute(NOTE, note(ctx))
        else:
            ctx.session.execute(NOTE, note(ctx))
        process.rest()
        await asyncio.sleep(0)
        if process.world.chance(0.1):
            process.world.seen.made_by[child := process.world.new_id()] = ctx.task_id, ctx._claim.generation
            await ctx.aenqueue(TASKS["m:plain"], Work(), task_id=child)
        end(process)


def alert(payload: ArchivedTask, ctx: TaskContext) -> None:
    with running(ctx, Work()):
        ctx.session.execute(NOTE, note(ctx))


TASKS = declared(
    work,
    {
        "m:plain": {
            "retry_delay": [SECOND, 1500 * SECOND],
            "also": [Queue.CRITICAL],
            "retention": timedelta(hours=1),
            "events": ("completed", "archived", "cancelled"),
            "grants": ALL,
        },
        "m:bulky": {"batch_size": 10, "retention": timedelta(0), "events": ("archived",)},
        "m:keyed": {
            "batch_size": 3,
            "key": "number",
            "max_per_key": LIMITS["m:keyed/"],
            "max_total": LIMITS["m:keyed"],
            "limit": POOL,
        },
        "m:share": {"limit": POOL},
        "m:order": {"retry_delay": 40 * SECOND, "key": "number", "order": "first-due"},
        "m:rated": {"rate": Rate(10, per=10 * RATE_STEP_SECONDS * SECOND, burst=RATE_BURST)},
        "m:only": {"unique_for": timedelta(hours=1)},
        "m:asked": {
            "max_retry": 1,
            "unique_for": timedelta(hours=2),
            "unique_until": "start",
            "events": ("completed",),
            "retention": timedelta(days=60),
        },
        "m:steps": {"handler": steps, "max_retry": 3},
        "m:each": {"handler": each, "max_retry": 3},
        "m:async": {
            "handler": asynchronous,
            "max_retry": 3,
            "events": ("completed",),
            "key": "number",
            "max_per_key": 1,
            "grants": ALL,
        },
        "m:alert": {"handler": alert, "max_retry": 1},
        "m:watch": {"max_retry": 1, "on_archived": "m:alert"},
        "m:timed": {"max_retry": 1, "overlap": "allow"},
    },
    max_retry=2,
    timeout=20 * SECOND,
    retry_delay=3 * SECOND,
)
