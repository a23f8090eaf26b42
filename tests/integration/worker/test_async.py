"""``async def`` handlers: either session commits with the completion, and the loops commit step by step."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from joblane import SkipRetry, Snooze, TaskContext, task
from joblane.client.client import JobClient
from joblane.errors import CursorError, JobError
from joblane.record.driver.connection import is_unavailable
from joblane.record.driver.event_loop import process_loop
from tests.builders import handlers
from tests.builders.events import message
from tests.builders.handlers import INSERT, Handler, write_async, written
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, behaviour, sample_async, sample_one
from tests.world import World

Write = Callable[[TaskContext, str], Awaitable[object]]
run = partial(handlers.run, task=sample_async)


@pytest.fixture
def effects(world: World) -> World:
    world.run("create table effects (task_id text, what text unique)")
    return world


async def write_plainly(ctx: TaskContext, what: str) -> None:
    handlers.write(ctx, what)


@pytest.fixture(params=[write_plainly, write_async])
def write(request: pytest.FixtureRequest) -> Write:
    """Write an effect through either session."""
    return request.param  # type: ignore[no-any-return]


def open_transactions(world: World) -> list[list[Any]]:
    return world.run(
        "select state, query from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and xact_start is not null"
    )


# --- The end of a run ----------------------------------------------------------------------------------------------


def test_the_work_of_a_coroutine_commits_with_its_completion(effects: World, write: Write) -> None:
    async def returns(ctx: TaskContext) -> dict[str, int]:
        await write(ctx, "a")
        await asyncio.sleep(0)
        await write(ctx, "b")
        assert written(effects) == []
        return {"number": 7}

    row = run(effects, returns)

    assert (row["state"], row["result"], row["attempts"]) == ("completed", {"number": 7}, 1)
    assert written(effects) == ["a", "b"]
    assert open_transactions(effects) == []
    assert run(effects, returns)["runs"] == 1  # delivered twice


@pytest.mark.parametrize("ends", [True, False])
def test_a_batch_in_the_session_of_a_run_commits_with_its_completion(effects: World, *, ends: bool) -> None:
    async def creates_a_batch(ctx: TaskContext) -> None:
        async with effects.client.abatch("import", session=ctx.async_session) as batch:
            await batch.enqueue(sample_one, Sample(), task_id="member")
        if not ends:
            raise SkipRetry("no")

    row = run(effects, creates_a_batch)

    assert row["state"] == ("completed" if ends else "archived")
    members = effects.run("select id from joblane.tasks where id <> 'it' order by id")
    assert members == ([["member"]] if ends else [])
    assert open_transactions(effects) == []


async def fails(ctx: TaskContext) -> None:
    raise ValueError("no")


async def cancels_itself(ctx: TaskContext) -> None:
    raise asyncio.CancelledError


async def snoozes(ctx: TaskContext) -> None:
    raise Snooze(timedelta(seconds=5))


async def returns_an_object(ctx: TaskContext) -> object:
    return object()


async def is_cancelled(ctx: TaskContext) -> None:
    with ctx._producer.database().another() as other:
        other.get().run("update joblane.tasks set cancel_requested_at = now() where id = $1", ctx.task_id)


async def loses_its_lease(ctx: TaskContext) -> None:
    with ctx._producer.database().another() as other:
        other.get().run("update joblane.tasks set lease_token = gen_random_uuid() where id = $1", ctx.task_id)


async def violates(ctx: TaskContext) -> None:
    if ctx._work.is_async:
        await write_async(ctx, "half")
    else:
        await write_plainly(ctx, "half")


async def commits(ctx: TaskContext) -> None:
    await ctx.async_session.commit() if ctx._work.is_async else ctx.session.commit()


async def loses_its_connection(ctx: TaskContext) -> None:
    kill = text("select pg_terminate_backend(pg_backend_pid())")
    await ctx.async_session.execute(kill) if ctx._work.is_async else ctx.session.execute(kill)


async def swallows_the_loss(ctx: TaskContext) -> None:
    with pytest.raises(Exception, match=r"terminat|closed|connection") as caught:
        await loses_its_connection(ctx)
    assert is_unavailable(caught.value)


async def closes_its_session(ctx: TaskContext) -> None:
    if ctx._work.is_async:
        async with ctx.async_session as session:
            session.add_all([])
    else:
        ctx.session.close()


CLOSED = r"use it without `async with`|ctx.session was closed by the end of its run, or by the handler"


@pytest.mark.parametrize(
    ("end", "state", "error_type", "says"),
    [
        (fails, "retry", "ValueError", ""),
        (cancels_itself, "retry", "CancelledError", ""),
        (snoozes, "pending", None, ""),
        (returns_an_object, "retry", "TypeError", ""),
        (is_cancelled, "cancelled", None, ""),
        (loses_its_lease, "active", None, ""),
        (violates, "retry", "any", ""),
        (commits, "retry", "JobError", ""),
        (closes_its_session, "retry", "any", CLOSED),
        (loses_its_connection, "retry", "any", ""),
        (swallows_the_loss, "retry", "JobError", ""),
    ],
)
def test_a_coroutine_that_does_not_complete_leaves_no_effect(
    effects: World, write: Write, end: Handler, state: str, error_type: str | None, says: str
) -> None:
    async def ends(ctx: TaskContext) -> Any:
        await write(ctx, "half")
        return await end(ctx)

    row = run(effects, ends)

    assert row["state"] == state, row
    assert error_type in (row["error_type"], "any"), row
    assert re.search(says, str(row["error_message"])), row
    traceback = effects.run("select coalesce(traceback, '') from joblane.runs where task_id = 'it'")
    assert "=(half)" not in f"{row['error_message']} {traceback}"  # the driver's text has the value of the row
    assert written(effects) == []
    assert open_transactions(effects) == []

    async def next_one(ctx: TaskContext) -> str:
        await write(ctx, "next")
        return ctx.task_id

    assert run(effects, next_one, "next")["result"] == "next"
    assert written(effects) == ["next"]


class Go:
    """Lets what a run has left continue in the next run."""

    def __init__(self) -> None:
        self.event, self.for_threads = asyncio.Event(), threading.Event()

    def set(self) -> None:
        self.event.set()
        self.for_threads.set()


async def late(ctx: TaskContext, go: Go) -> None:
    session = ctx.async_session
    await go.event.wait()
    await session.execute(INSERT, LATE)


async def asks_late(ctx: TaskContext, go: Go) -> None:
    await go.event.wait()
    await ctx.async_session.execute(INSERT, LATE)


async def keeps_the_drivers_connection(ctx: TaskContext, go: Go) -> None:
    connection: Any = (await (await ctx.async_session.connection()).get_raw_connection()).driver_connection
    await go.event.wait()
    await connection.execute("insert into effects values ('it', 'late')")


async def late_plainly(ctx: TaskContext, go: Go) -> None:
    session = ctx.session
    await go.event.wait()
    session.execute(INSERT, LATE)


async def asks_late_plainly(ctx: TaskContext, go: Go) -> None:
    await go.event.wait()
    ctx.session.execute(INSERT, LATE)


async def enqueues_late(ctx: TaskContext, go: Go) -> None:
    await go.event.wait()
    await ctx.aenqueue(sample_one, Sample())


async def late_in_a_thread(ctx: TaskContext, go: Go) -> None:
    session = ctx.session

    def use_the_session() -> None:
        go.for_threads.wait(PATIENCE_SECONDS)
        session.execute(INSERT, LATE)

    await asyncio.to_thread(use_the_session)


async def late_step(ctx: TaskContext, go: Go) -> None:
    await ctx.astep("late", lambda _: go.event.wait())


async def late_item(ctx: TaskContext, go: Go) -> None:
    async for _ in ctx.aeach(["late"]):
        await go.event.wait()


LATE = {"id": "it", "what": "late"}
LEFT = [
    (write_async, late, "closed by the end of its run|permanently closed"),
    (write_async, asks_late, "the run has ended"),
    (write_async, keeps_the_drivers_connection, "connection is closed"),
    (write_plainly, late_plainly, "was closed by the end of its run|permanently closed"),
    (write_plainly, asks_late_plainly, "the run has ended"),
    (write_plainly, enqueues_late, "the run has ended"),
    (write_plainly, late_in_a_thread, "was closed by the end of its run|permanently closed"),
    (write_plainly, late_step, "the run has ended"),
    (write_plainly, late_item, "the run has ended"),
]
"""The second words are those of SQLAlchemy before 2.1."""


@pytest.mark.parametrize(("write", "job", "says"), LEFT)
def test_what_a_run_has_left_takes_no_part_in_the_next_run(
    effects: World, caplog: pytest.LogCaptureFixture, write: Write, job: Callable[..., Any], says: str
) -> None:
    left: list[asyncio.Task[None]] = []
    go = Go()

    async def leave(ctx: TaskContext) -> None:
        await write(ctx, "in time")
        left.append(asyncio.create_task(job(ctx, go)))
        for _ in range(10):  # until it waits
            await asyncio.sleep(0)

    async def next_one(ctx: TaskContext) -> None:
        await write(ctx, "next")
        go.set()
        await asyncio.wait(left)

    assert run(effects, leave)["state"] == "completed"
    assert "the handler has ended before its asyncio task" in caplog.text
    assert run(effects, next_one, "next")["state"] == "completed"
    assert written(effects) == ["in time", "next"]
    assert re.search(says, str(left[0].exception()))


@pytest.mark.parametrize("how", ["stops the loop", "exits in a task"])
def test_a_coroutine_that_ends_its_loop_does_not_continue_in_the_next_run(
    effects: World, write: Write, how: str
) -> None:
    async def exits() -> None:
        sys.exit(3)

    async def ends_the_loop(ctx: TaskContext) -> None:
        await write(ctx, "half")
        if how == "stops the loop":
            asyncio.get_running_loop().stop()
        else:
            with suppress(BaseException):
                await asyncio.create_task(exits())
        for _ in range(100):
            await asyncio.sleep(0)
        await write(ctx, "late")

    async def next_one(ctx: TaskContext) -> None:
        await write(ctx, "next")
        await asyncio.sleep(0.01)

    row = run(effects, ends_the_loop)
    assert (row["state"], row["error_type"]) == ("retry", "RuntimeError" if "stop" in how else "SystemExit")
    assert run(effects, next_one, "next")["state"] == "completed"
    assert written(effects) == ["next"]


def test_a_loop_that_was_interrupted_at_its_end_is_not_taken_for_a_running_one(world: World) -> None:
    async def completes(ctx: TaskContext) -> None: ...

    run(world, completes)
    assert process_loop._runner is not None
    asyncio._set_running_loop(process_loop._runner.get_loop())
    process_loop.discard()
    assert run(world, completes, "next")["state"] == "completed"


@pytest.mark.parametrize("fails_after", [True, False])
def test_what_the_drivers_connection_writes_first_commits_with_the_completion(
    effects: World, fails_after: bool
) -> None:
    async def copies(ctx: TaskContext) -> None:
        connection: Any = await (await ctx.async_session.connection()).get_raw_connection()
        await connection.driver_connection.copy_records_to_table("effects", records=[("it", "copied")])
        assert written(effects) == []
        if fails_after:
            raise ValueError

    assert run(effects, copies)["state"] == ("retry" if fails_after else "completed")
    assert written(effects) == ([] if fails_after else ["copied"])


@pytest.mark.parametrize("is_async", [False, True])
def test_a_session_in_autocommit_is_refused_and_the_next_run_has_a_transaction(effects: World, is_async: bool) -> None:
    # given a handler whose statements would commit by themselves
    async def handler(ctx: TaskContext) -> None:
        options = {"execution_options": {"isolation_level": "AUTOCOMMIT"}}
        if is_async:
            await ctx.async_session.connection(**options)
            await write_async(ctx, "early")
        else:
            ctx.session.connection(**options)
            await write_plainly(ctx, "early")

    # when
    row = run(effects, handler)
    # then
    assert (row["state"], effects.run("select what from effects")) == ("retry", [])
    assert "AUTOCOMMIT" in row["error_message"]

    # and the next run on the connection rolls its work back
    async def fails(ctx: TaskContext) -> None:
        await (write_async if is_async else write_plainly)(ctx, "undone")
        raise ValueError

    assert run(effects, fails, "next")["state"] == "retry"
    assert effects.run("select what from effects") == []


def test_a_session_that_another_task_still_uses_does_not_commit(effects: World) -> None:
    async def leave_a_query(ctx: TaskContext) -> None:
        await write_async(ctx, "half")
        asyncio.create_task(ctx.async_session.execute(text("select pg_sleep(10)")))  # noqa: RUF006
        await asyncio.sleep(0.05)

    row = run(effects, leave_a_query)
    assert row["state"] == "retry"
    assert "in use by another asyncio task" in row["error_message"], row["error_message"]
    assert run(effects, lambda ctx: write_async(ctx, "next"), "next")["state"] == "completed"
    assert written(effects) == ["next"]


def test_settings_and_locks_of_a_session_are_gone_before_the_next_task(effects: World) -> None:
    see = text(
        "select coalesce(current_setting('app.tenant', true), ''), current_setting('search_path'),"
        " (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),"
        " to_regclass('pg_temp.mine')::text, current_user = session_user, pg_backend_pid()"
    )

    async def look(ctx: TaskContext) -> list[Any]:
        return list((await ctx.async_session.execute(see)).one())

    async def leave_things(ctx: TaskContext) -> None:
        for statement in (
            "set app.tenant = 'acme'",
            "set search_path = acme, public",
            "select pg_advisory_lock(7)",
            "create temp table mine (n int)",
        ):
            await ctx.async_session.execute(text(statement))

    before = run(effects, look, "before")["result"]
    assert run(effects, leave_things)["state"] == "completed"
    assert run(effects, look, "after")["result"] == before  # on the same connection


def test_a_database_of_another_stage_gets_no_session(effects: World) -> None:
    effects.database._prefix = "jobs"

    async def starts(ctx: TaskContext) -> None:
        effects.run("update joblane.stage set prefix = 'other'")
        await write_async(ctx, "a")

    effects.run("insert into joblane.stage (prefix) values ('jobs')")
    row = run(effects, starts)
    assert (row["state"], row["error_type"]) == ("retry", "WrongStageError")


# --- One session ---------------------------------------------------------------------------------------------------


async def use_session(ctx: TaskContext) -> None:
    ctx.session.execute(text("select 1"))


async def use_connection(ctx: TaskContext) -> None:
    ctx.connection().run("select 1")


async def use_enqueue(ctx: TaskContext) -> None:
    ctx.enqueue(sample_one, Sample())


async def use_each(ctx: TaskContext) -> None:
    for _ in ctx.each(["a"]):
        ctx.async_session.add_all([])


async def use_resume(ctx: TaskContext) -> None:
    for _ in ctx.resume(["a"]):
        pass


async def use_async_session(ctx: TaskContext) -> None:
    await ctx.async_session.execute(text("select 1"))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (use_session, use_async_session, "ctx.async_session: a run has one session"),
        (use_connection, use_async_session, "ctx.async_session: a run has one session"),
        (use_enqueue, use_async_session, "ctx.async_session: a run has one session"),
        (use_each, use_async_session, r"use ctx.aeach\(…\) or ctx.astep\(…\)"),
        (use_async_session, use_session, "ctx.session: a run has one session.* use await ctx.async_session.execute"),
        (use_async_session, use_connection, r"ctx.connection\(\): a run has one session"),
        (use_async_session, use_enqueue, r"use await ctx.aenqueue\(…\)"),
        (use_async_session, use_each, r"use async for … in ctx.aeach\(…\)"),
        (use_async_session, use_resume, r"use async for … in ctx.aresume\(…\)"),
    ],
)
def test_a_run_has_one_session(world: World, first: Handler, second: Handler, message: str) -> None:
    world.lane(sample_one)

    async def both(ctx: TaskContext) -> None:
        await first(ctx)
        await second(ctx)

    async def use_both(ctx: TaskContext) -> None:
        with pytest.raises(JobError, match=message):
            await both(ctx)

    row = run(world, use_both)
    assert row["state"] == "completed", row


def test_a_plain_handler_has_no_asynchronous_session(world: World) -> None:
    @behaviour
    def wants_async_session(payload: Sample, ctx: TaskContext) -> None:
        assert ctx.async_session

    world.deliver(sample_one, message("wants_async_session"))
    assert "is for an `async def` handler" in world.row("it")["error_message"]


def test_missing_packages_are_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblane.record.task.run_session.find_spec", lambda name: None)
    world.lane(sample_one)

    async def enqueue_and_want(ctx: TaskContext) -> None:
        with pytest.raises(
            JobError, match=r"needs sqlalchemy\[asyncio\] and asyncpg: add them to the function's own packages"
        ):
            assert ctx.async_session
        await ctx.aenqueue(sample_one, Sample())  # by ctx.session

    assert run(world, enqueue_and_want)["state"] == "completed"
    assert len(world.take(sample_one)) == 1


def test_a_plain_handlers_process_imports_neither_asyncio_nor_greenlet() -> None:
    code = (
        "import sys; from joblane.worker.worker import Worker; from tests.samples import sample_one;"
        " names = {'asyncio', 'greenlet', 'asyncpg', 'joblane.handler.async_loops', 'joblane.worker.async_call'};"
        " print(*names & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout == "\n"


def test_no_timeout_interrupts_the_import_of_the_driver(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncpg cannot be imported a second time in a process, if an exception has ended the first."""
    seen: list[int] = []

    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "joblane.record.driver.handler_session":
                seen.append(world.worker(sample_async).runner.alarm.deferred.active)

    monkeypatch.delitem(sys.modules, "joblane.record.driver.handler_session")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert run(world, use_async_session)["state"] == "completed"
    assert seen == [1]


# --- Enqueueing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails_first", [False, True])
def test_a_task_is_enqueued_exactly_when_the_work_commits(effects: World, write: Write, fails_first: bool) -> None:
    effects.lane(sample_one)

    async def enqueue(ctx: TaskContext) -> None:
        await write(ctx, "a")
        await ctx.aenqueue(sample_one, Sample(), task_id="one")
        await ctx.aenqueue_many([])
        assert effects.run("select from joblane.tasks where id = 'one'") == []
        assert effects.received(effects.lane(sample_one)) == []
        if fails_first:
            raise ValueError

    run(effects, enqueue)

    assert len(effects.take(sample_one)) == len(written(effects)) == int(not fails_first)
    if not fails_first:
        assert effects.row("one")["enqueued_by"] == "it"


# --- Loops ---------------------------------------------------------------------------------------------------------


async def numbers() -> AsyncIterator[str]:
    for item in ("a", "b", "c"):
        await asyncio.sleep(0)
        yield item


@pytest.mark.parametrize("items", [lambda: ["a", "b", "c"], numbers], ids=["plain", "asynchronous"])
def test_a_retry_continues_the_loop_after_the_items_that_are_done(
    effects: World, write: Write, items: Callable[[], Any]
) -> None:
    async def item_by_item(ctx: TaskContext) -> None:
        async for item in ctx.aeach(items()):
            await write(ctx, item)
            await ctx.aprogress(1)
            if item == "c" and ctx.attempt == 1:
                raise ValueError

    assert run(effects, item_by_item)["state"] == "retry"
    assert written(effects) == ["a", "b"]
    effects.later("it")
    assert run(effects, item_by_item)["state"] == "completed"
    assert written(effects) == ["a", "b", "c"]


def test_an_item_that_fails_alone_does_not_stop_the_others(effects: World, write: Write) -> None:
    async def isolate(ctx: TaskContext) -> None:
        async for item in ctx.aeach(["a", "b", "c", "d"]):
            async with ctx.aisolated():
                await write(ctx, item)
                if item == "b":
                    raise ValueError
                if item == "c" and ctx._work.is_async:
                    async with asyncio.timeout(0.02):  # ends the query, and the connection with it
                        await ctx.async_session.execute(text("select pg_sleep(10)"))

    row = run(effects, isolate)

    assert row["error_type"] == "PartialFailure"
    assert written(effects) == (["a", "d"] if write is write_async else ["a", "c", "d"])


def test_a_loop_that_was_left_is_closed(effects: World, write: Write) -> None:
    async def leave_and_begin_another(ctx: TaskContext) -> None:
        async for _ in ctx.aeach(["a", "b"]):
            await write(ctx, "first")
            with pytest.raises(JobError, match="cannot be inside another such loop"):
                async for _ in ctx.aeach(["c"]):
                    pass
            break
        async for item in ctx.aeach(["c"]):
            await write(ctx, item)

    row = run(effects, leave_and_begin_another)
    assert row["state"] == "completed", row
    assert written(effects) == ["c", "first"]
    assert effects.run("select key from joblane.task_items") == [["c"]]


async def returned(after: int | None) -> list[int]:
    return list(range((after or 0) + 1, 6))


async def yielded(after: int | None) -> AsyncIterator[int]:
    for number in range((after or 0) + 1, 6):
        yield number


@pytest.mark.parametrize("source", [returned, yielded, range(1, 6), lambda after: range((after or 0) + 1, 6)])
def test_a_retry_resumes_after_the_last_chunk(effects: World, write: Write, source: Any) -> None:
    async def chunk_by_chunk(ctx: TaskContext) -> None:
        cursor = None if isinstance(source, range) else lambda number: number
        async for number in ctx.aresume(source, cursor=cursor, chunk=2):
            await write(ctx, str(number))
            if number == 4 and ctx.attempt == 1:
                raise ValueError

    assert run(effects, chunk_by_chunk)["state"] == "retry"
    assert written(effects) == ["1", "2"]
    effects.later("it")
    assert run(effects, chunk_by_chunk)["state"] == "completed"
    assert written(effects) == ["1", "2", "3", "4", "5"]


def test_a_select_is_resumed_in_the_asynchronous_session(effects: World) -> None:
    from sqlalchemy import Column, Integer, MetaData, Table, select

    effects.run("create table members (id integer primary key)")
    effects.run("insert into members select generate_series(1, 5)")
    members = Table("members", MetaData(), Column("id", Integer, primary_key=True))

    async def by_query(ctx: TaskContext) -> None:
        await ctx.async_session.execute(text("select 1"))
        async for row in ctx.aresume(select(members.c.id), cursor=members.c.id, chunk=2):
            await write_async(ctx, str(row))

    row = run(effects, by_query)
    assert row["state"] == "completed", row
    assert written(effects) == ["1", "2", "3", "4", "5"]


def test_a_source_that_returns_no_items_is_refused(world: World) -> None:
    async def nothing(after: Any) -> None: ...

    async def resume(ctx: TaskContext) -> None:
        with pytest.raises(CursorError, match="it must return items, not NoneType"):
            async for _ in ctx.aresume(nothing, cursor=lambda item: item):
                pass

    assert run(world, resume)["state"] == "completed"


@task("sample:chunks", timeout=timedelta(minutes=30), resumable=True)
async def sample_chunks(payload: Sample, ctx: TaskContext) -> None:
    async for number in ctx.aresume(range(3), chunk=1):
        await write_async(ctx, str(number))


def test_a_resumable_coroutine_continues_in_the_next_invocation(effects: World) -> None:
    sent = {"type": "sample:chunks", "id": "it", "payload": {}}
    effects.deliver(sample_chunks, sent, seconds=4.0)
    assert (effects.outcomes("it"), written(effects)) == (["continued"], ["0"])
    effects.deliver(sample_chunks, sent)
    assert (effects.row("it")["state"], written(effects)) == ("completed", ["0", "1", "2"])


def test_a_cancel_is_seen_by_a_check(world: World) -> None:
    other = JobClient()

    async def check(ctx: TaskContext) -> None:
        await ctx.async_session.execute(text("select 1"))
        other.cancel(ctx.task_id)
        await ctx.acheck()

    assert run(world, check)["state"] == "cancelled"
    other.close()
