"""The timeout of ``async def`` handlers: the cancellation, the alarm behind it, and what the next task finds."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text

from joblane import TaskContext, TaskTimeout
from joblane.errors import SkipRetry
from joblane.record.driver.event_loop import process_loop
from joblane.worker import blocked_loop
from joblane.worker import run as worker_run
from joblane.worker.run import REPEAT_SECONDS
from tests.builders.handlers import Handler, commit_slowly, write_async, written
from tests.integration.worker.test_async import effects, open_transactions, run, write_plainly
from tests.integration.worker.test_timeout import IN_A_CALLBACK
from tests.world import World

__all__ = ["effects"]
SOON = 3.2
"""Seconds left to the invocation: three are kept for Lambda's own kill, the handler has 0.2."""

pytestmark = pytest.mark.usefixtures("standing_clock")


@pytest.fixture(autouse=True)
def short_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The alarm fires a fifth of a second after the cancellation."""
    monkeypatch.setattr(worker_run, "LOOP_SECONDS", 0.2)


def run_out(world: World, handler: Handler, id_: str = "it") -> dict[str, Any]:
    """Deliver a task whose handler runs out of time. Return its row, and check what it has left."""
    row = run(world, handler, id_, seconds=SOON)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    return row


async def sleep(ctx: TaskContext) -> None:
    await asyncio.sleep(30)


async def query(ctx: TaskContext) -> None:
    await ctx.async_session.execute(text("select pg_sleep(30)"))


async def query_by_the_driver(ctx: TaskContext) -> None:
    connection = await (await ctx.async_session.connection()).get_raw_connection()
    assert connection.driver_connection is not None
    await connection.driver_connection.fetch("select 'secret of the first', pg_sleep(30)")


async def wait_in_a_group(ctx: TaskContext) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(asyncio.sleep(30))


async def block(ctx: TaskContext) -> None:
    time.sleep(30)


async def block_by_the_plain_session(ctx: TaskContext) -> None:
    ctx.session.execute(text("select pg_sleep(30)"))


async def query_in_a_thread(ctx: TaskContext) -> None:
    await asyncio.to_thread(ctx.session.execute, text("select pg_sleep(30)"))


async def block_in_a_group(ctx: TaskContext) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(sleep(ctx))
        group.create_task(block(ctx))


async def block_in_a_callback(ctx: TaskContext) -> None:
    asyncio.get_running_loop().call_soon(time.sleep, 30)
    await asyncio.sleep(30)


async def swallow(ctx: TaskContext) -> None:
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(30)


async def swallow_in_a_query(ctx: TaskContext) -> None:
    for _ in range(2):
        with suppress(asyncio.CancelledError):
            await ctx.async_session.execute(text("select pg_sleep(30)"))
    await asyncio.sleep(30)


async def block_the_clean_up(ctx: TaskContext) -> None:
    try:
        await asyncio.sleep(30)
    finally:
        time.sleep(30)


async def fail_the_clean_up(ctx: TaskContext) -> None:
    try:
        await asyncio.sleep(30)
    finally:
        assert ctx.task_id == "another"


@pytest.mark.parametrize(
    ("write", "wait"),
    [
        (write_async, sleep),
        (write_async, query),
        (write_async, query_by_the_driver),
        (write_async, wait_in_a_group),
        (write_async, block),
        (write_async, block_in_a_group),
        (write_async, block_in_a_callback),
        (write_async, swallow),
        (write_async, swallow_in_a_query),
        (write_async, block_the_clean_up),
        (write_async, fail_the_clean_up),
        (write_plainly, block_by_the_plain_session),
        (write_plainly, query_in_a_thread),
        (write_plainly, swallow),
    ],
)
def test_a_coroutine_that_outlives_its_timeout_ends_and_leaves_nothing_open(
    effects: World, wait: Handler, write: Any, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    effects.run("insert into effects values ('x', 'free')")

    pids: list[int] = []

    async def note_pid(ctx: TaskContext) -> None:
        pid = text("select pg_backend_pid()")
        found = ctx.session.execute(pid) if write is write_plainly else await ctx.async_session.execute(pid)
        pids.append(found.scalar_one())

    async def too_long(ctx: TaskContext) -> None:
        await write(ctx, "lost")
        await note_pid(ctx)
        update = text("update effects set what = 'locked' where task_id = 'x'")
        ctx.session.execute(update) if write is write_plainly else await ctx.async_session.execute(update)
        await wait(ctx)

    began = time.monotonic()
    row = run_out(effects, too_long)

    assert time.monotonic() - began < 15
    assert (row["kept"], row["state"], row["attempts"], row["error_type"]) == (True, "retry", 1, "TaskTimeout")
    assert effects.outcomes("it") == ["timeout"]

    async def next_one(ctx: TaskContext) -> list[Any]:
        await note_pid(ctx)
        own = text("select :id")
        if write is write_plainly:
            return [ctx.session.execute(own, {"id": ctx.task_id}).scalar()]
        return [(await ctx.async_session.execute(own, {"id": ctx.task_id})).scalar() for _ in range(3)]

    result = run(effects, next_one, "next")["result"]
    assert set(result) == {"next"}
    assert len(set(pids)) == len(pids)  # the connection was not used again
    wait_until(lambda: not open_transactions(effects))  # the server notices a lost client within 2 seconds
    assert effects.run("select what from effects for update skip locked") == [["free"]]
    assert not [task for task in _tasks() if "pg_sleep" in repr(task)]


def _tasks() -> set[asyncio.Task[Any]]:
    runner = process_loop._runner
    return asyncio.all_tasks(runner.get_loop()) if runner is not None else set()


def test_a_timeout_that_ends_by_the_cancellation_keeps_the_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[Any] = []
    monkeypatch.setattr(worker_run, "LOOP_SECONDS", 10)

    async def note(ctx: TaskContext) -> None:
        loops.append(asyncio.get_running_loop())
        if ctx.task_id == "it":
            await asyncio.sleep(30)
        if ctx.task_id == "third":
            time.sleep(30)

    run(world, note, "first")
    run_out(world, note)
    run(world, note, "second")
    monkeypatch.setattr(worker_run, "LOOP_SECONDS", 0.2)
    run_out(world, note, "third")
    run(world, note, "fourth")
    assert loops[0] is loops[1] is loops[2]
    assert loops[4] is not loops[3]
    assert loops[3].is_closed()


def test_a_coroutine_that_ignores_its_end_does_not_run_on(world: World) -> None:
    ignored: list[str] = []

    async def swallow_everything(ctx: TaskContext) -> None:
        while True:
            try:
                await asyncio.sleep(30)
            except BaseException as error:
                ignored.append(type(error).__name__)

    async def wait_for_it(ctx: TaskContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(swallow_everything(ctx))

    run_out(world, wait_for_it)
    gc.collect()
    assert len(ignored) < 10, ignored[:10]


def test_a_decision_of_the_handler_in_its_clean_up_counts(world: World) -> None:
    async def decide(ctx: TaskContext) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise SkipRetry("enough") from None

    assert run_out(world, decide)["reason"] == "SkipRetry: enough"


def test_the_alarm_is_seen_in_the_clean_up_of_a_swallowing_handler(world: World) -> None:
    seen: list[str] = []

    async def swallow_once(ctx: TaskContext) -> None:
        try:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(30)
            await asyncio.sleep(30)
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    run_out(world, swallow_once)
    assert seen == ["CancelledError"]  # of the loop that is discarded


def test_the_commit_of_an_item_is_not_cancelled_and_the_timeout_comes_after_it(effects: World) -> None:
    commit_slowly(effects, 0.5)

    async def item_by_item(ctx: TaskContext) -> None:
        async for item in ctx.aeach(["a", "b", "c"]):
            await write_async(ctx, item)
            if item == "a":  # both fire in the commit
                alarm = effects.workers["sample:async"].runner.alarm
                asyncio.get_running_loop().call_later(0.05, alarm.expire)
                signal.setitimer(signal.ITIMER_REAL, 0.1, 1)

    row = run(effects, item_by_item)

    assert row["error_type"] == "TaskTimeout"
    assert written(effects) == ["a"] == [key for (key,) in effects.run("select key from joblane.task_items")]


def test_the_commit_of_the_completion_is_not_cancelled(effects: World) -> None:
    commit_slowly(effects, 0.6)

    async def end_in_time(ctx: TaskContext) -> None:
        await write_async(ctx, "done")
        signal.setitimer(signal.ITIMER_REAL, 0.3, 1)

    assert run(effects, end_in_time)["state"] == "completed"
    assert written(effects) == ["done"]


def test_a_commit_that_is_not_answered_in_time_fails(effects: World, monkeypatch: pytest.MonkeyPatch) -> None:
    commit_slowly(effects, 30)

    async def wait_for_long(ctx: TaskContext) -> None:
        await write_async(ctx, "lost")
        connection = ctx._work.database._connection
        connection._answer = 0.2

    began = time.monotonic()
    row = run(effects, wait_for_long)
    assert (row["state"], row["error_type"]) == ("retry", "TimeoutError")
    assert time.monotonic() - began < 15


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@IN_A_CALLBACK
def test_an_alarm_at_any_moment_ends_a_coroutine_whole_or_not_at_all(
    effects: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    effects.run("create sequence moments")
    ends = {"completed": 0, "retry": 0}

    async def short_statements(ctx: TaskContext) -> str:
        signal.setitimer(signal.ITIMER_REAL, moments[ctx.task_id], REPEAT_SECONDS)
        await write_async(ctx, ctx.task_id)
        for number in range(4):
            found = await ctx.async_session.execute(text("select :n, :id"), {"n": str(number), "id": ctx.task_id})
            assert found.one() == (str(number), ctx.task_id)
        return ctx.task_id

    async def look(ctx: TaskContext) -> str:
        return str((await ctx.async_session.execute(text("select :id"), {"id": ctx.task_id})).scalar_one())

    moments = {f"it-{number}": 0.0001 + 0.0004 * number for number in range(40)} | {"late": 60}
    for id_ in moments:
        row = run(effects, short_statements, id_)
        ends[row["state"]] += 1
        assert (row["state"], row["error_type"]) in (("completed", None), ("retry", "TaskTimeout")), row
        assert effects.run("select what from effects where what = $1", id_) == [[id_]] * (row["state"] == "completed")
        assert run(effects, look, f"next-{id_}")["result"] == f"next-{id_}"
    assert min(ends.values()) > 0, ends


# --- A blocked loop ------------------------------------------------------------------------------------------------


def test_a_call_that_blocks_the_loop_is_logged_once_with_its_line(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(blocked_loop, "BLOCKED_SECONDS", 0.1)
    monkeypatch.setattr(blocked_loop, "BEAT_SECONDS", 0.05)

    async def blocks(ctx: TaskContext) -> None:
        main = threading.get_ident()

        def look() -> Any:
            time.sleep(0.05)
            return sys._current_frames()[main]

        frame = await asyncio.to_thread(look)
        assert blocked_loop.project_frame(frame) is None  # the loop waits
        time.sleep(0.5)

    for id_ in ("first", "second"):
        assert run(world, blocks, id_)["state"] == "completed"

    lines = [record.getMessage() for record in caplog.records if "blocks the event loop" in record.getMessage()]
    place = f"{__file__}:{blocks.__code__.co_firstlineno + 9}, in blocks, blocks the event loop for more than a second"
    assert [line.startswith(place) for line in lines] == [True], lines


def test_an_own_timeout_of_the_handler_is_not_the_tasks(effects: World) -> None:
    async def limits_a_query(ctx: TaskContext) -> str:
        try:
            async with asyncio.timeout(0.05):
                await query(ctx)
        except TimeoutError:
            await ctx.async_session.rollback()
        await write_async(ctx, "after")
        return "done"

    assert run(effects, limits_a_query)["result"] == "done"
    assert written(effects) == ["after"]
    assert not issubclass(TaskTimeout, Exception)
