"""The runs of handlers: each reports its start, writes to a ledger, and ends as the dice say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from joblane import Payload, RateLimited, RetryAfter, RevokeTask, SkipRetry, Snooze, TaskContext
from tests.faults.model.actors import Killed

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
        ctx.enqueue(world.tasks["m:keyed"], Work(number=dice.randint(0, 2)), task_id=first)
        if dice.random() < 0.5:
            seen.made_by[second := world.new_id()] = maker
            policy = dice.choice(("run", "cancel", "hold"))
            seen.parents[second] = [first], policy
            ctx.enqueue(world.tasks["m:plain"], Work(), task_id=second, after=[first], on_parent_dead=policy)
    if ctx.batch is not None and dice.random() < 0.3:
        batch = seen.batches[ctx.batch.id]
        if len(batch.added) < MOST_ADDED:
            seen.made_by[member := world.new_id()] = maker
            batch.added.add(member)
            ctx.batch.enqueue(world.tasks["m:plain"], Work(), task_id=member)
            world.counts["members added by members"] += 1
