"""Handlers of one test, and the rows that they write, to see which of them were committed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from joblane import TaskContext
from joblane.errors import LeaseLostError
from joblane.record.row.transitions import CANCEL
from joblane.tasks.task import Task
from tests.builders.events import message
from tests.samples import behaviours, sample_one
from tests.world import World

Handler = Callable[[TaskContext], Any]
INSERT = text("insert into effects values (:id, :what)")


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.perf_counter() + self.ahead


def run(
    world: World, handler: Handler, id_: str = "it", *, task: Task[Any, Any] = sample_one, seconds: float = 60.0
) -> dict[str, Any]:
    """Deliver a task whose handler is the function, due now. Return its row, and ``kept``: if its message stays."""
    behaviours["handler_of_the_test"] = lambda _, ctx: handler(ctx)
    world.run("update joblane.tasks set due_at = clock_timestamp() where id = $1", id_)
    kept = world.deliver(task, message("handler_of_the_test", id_, type_=task.type), seconds=seconds)
    return world.row(id_) | {"kept": bool(kept)}


def write(ctx: TaskContext, what: str = "done") -> None:
    ctx.session.execute(INSERT, {"id": ctx.task_id, "what": what})


async def write_async(ctx: TaskContext, what: str) -> str:
    await ctx.async_session.execute(INSERT, {"id": ctx.task_id, "what": what})
    return what


def written(world: World) -> list[str]:
    """Return the effects that were committed, in their order."""
    return [what for (what,) in world.run("select what from effects order by what")]


def commit_slowly(world: World, seconds: float) -> None:
    """Let a commit of an effect take some time."""
    world.run(
        "create function slowly() returns trigger language plpgsql as"
        f" $$begin perform pg_sleep({seconds}); return null; end$$"
    )
    world.run(
        "create constraint trigger slow after insert on effects deferrable initially deferred"
        " for each row execute function slowly()"
    )


def cancels(ctx: TaskContext) -> None:
    """Be cancelled by an operator."""
    ctx._work._own.get().run(CANCEL, ctx.task_id)
    ctx.check()


def loses(ctx: TaskContext) -> None:
    raise LeaseLostError("another run has it")


def hangs(ctx: TaskContext) -> None:
    time.sleep(30)
