"""Only the run ends its transaction: SQL and drivers that would commit or lose its work are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from joblane import TaskContext, around
from joblane.errors import JobError, SkipRetry
from joblane.record.driver import transaction_guard
from tests.builders.handlers import Handler, run, write, write_async, written
from tests.samples import sample_async
from tests.world import World

run_async = partial(run, task=sample_async)
STATEMENTS = [
    "rollback",
    "COMMIT;",
    "end",
    "Abort work",
    "begin",
    "start transaction",
    " -- a note\n/* and\n* one */ ;commit and chain",
    "rollback transaction and chain",
    "prepare transaction 'x'",
    "select 'it''s'; do $$ begin end; $$; commit; begin",
]


def through_session(ctx: TaskContext, statement: str) -> None:
    ctx.session.execute(text(statement))


def through_driver_sql(ctx: TaskContext, statement: str) -> None:
    ctx.session.connection().exec_driver_sql(statement)


def through_connection(ctx: TaskContext, statement: str) -> None:
    ctx.connection().run(statement)


async def through_async_session(ctx: TaskContext, statement: str) -> None:
    await ctx.async_session.execute(text(statement))


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_statement_that_ends_the_transaction_is_refused_at_its_line(effects: World, statement: str) -> None:
    def handler(ctx: TaskContext) -> None:
        for number, way in enumerate((through_session, through_driver_sql, through_connection)):
            write(ctx, f"{number}")
            with pytest.raises(JobError, match=rf"^{transaction_guard.control_in(statement)} as SQL") as caught:
                way(ctx, statement)
            assert not isinstance(caught.value, SkipRetry)

    row = run(effects, handler)
    assert (row["state"], written(effects)) == ("completed", ["0", "1", "2"])

    async def handler_async(ctx: TaskContext) -> None:
        await write_async(ctx, "before")
        with pytest.raises(JobError, match=r"as SQL is refused.*ctx\.async_session\.begin_nested"):
            await through_async_session(ctx, statement)
        await write_async(ctx, "later")

    row = run_async(effects, handler_async, "async")
    assert (row["state"], written(effects)) == ("completed", ["0", "1", "2", "before", "later"])


@pytest.mark.parametrize("statement", ["rollback", "commit"])
def test_its_error_is_that_of_the_run_and_nothing_is_done(effects: World, statement: str) -> None:
    def handler(ctx: TaskContext) -> None:
        write(ctx)
        through_session(ctx, statement)

    async def handler_async(ctx: TaskContext) -> None:
        await write_async(ctx, "done")
        await through_async_session(ctx, statement)

    for row in run(effects, handler), run_async(effects, handler_async, "async"):
        assert (row["state"], row["error_type"], row["attempts"]) == ("retry", "JobError", 1)
        assert row["error_message"].startswith(f"{statement.upper()} as SQL is refused")
    assert written(effects) == []


@pytest.mark.parametrize("statement", ["commit", "insert into effects values ('it', 'early'); commit"])
def test_the_first_statement_of_a_run_cannot_end_it_either(effects: World, statement: str) -> None:
    row = run(effects, lambda ctx: through_session(ctx, statement))
    assert (row["state"], row["error_type"], written(effects)) == ("retry", "JobError", [])
    assert row["error_message"].startswith("COMMIT as SQL is refused")


def test_a_hook_cannot_end_the_transaction_of_its_run(effects: World) -> None:
    @around
    def rolls_back(ctx: TaskContext) -> Iterator[None]:
        yield
        through_session(ctx, "rollback")

    row = run(effects, write)
    assert (row["state"], row["error_type"], written(effects)) == ("retry", "HookError", [])
    assert "ROLLBACK as SQL is refused" in row["error_message"]


# --- Statements and drivers that are seen only when the transaction has ended --------------------------------------


HIDDEN = r"insert into effects values ('it', E'durable\''); commit; select ''"
"""The guard takes the commit for a part of a string."""


def ends_in_a_list(ctx: TaskContext) -> None:
    ctx.session.connection().exec_driver_sql(HIDDEN)


def swallows(ctx: TaskContext) -> None:
    with pytest.raises(SkipRetry, match="has ended the transaction"):
        ends_in_a_list(ctx)
    write(ctx, "later")


@pytest.mark.parametrize("end", [ends_in_a_list, swallows])
def test_a_run_that_has_committed_early_says_so_and_is_not_repeated(effects: World, end: Handler) -> None:
    row = run(effects, end)
    assert (row["state"], row["attempts"], written(effects)) == ("archived", 1, ["durable'"])
    assert "a statement has ended the transaction of ctx.session" in row["reason"]
    assert "the task does not run again" in row["reason"]


def rolls_back_in_a_list(ctx: TaskContext) -> None:
    write(ctx)
    ctx.session.connection().exec_driver_sql(r"select E'\''; rollback; begin; rollback; select ''")


def rolls_back_the_connection(ctx: TaskContext) -> None:
    write(ctx)
    ctx.session.connection().rollback()


def rolls_back_the_driver(ctx: TaskContext) -> None:
    write(ctx)
    ctx.connection().rollback()


def rolls_back_and_nests(ctx: TaskContext) -> None:
    rolls_back_the_driver(ctx)
    with ctx.session.begin_nested():
        write(ctx, "later")


def rolls_back_in_a_loop(ctx: TaskContext) -> None:
    for _ in ctx.each(["a"]):
        rolls_back_the_driver(ctx)


def commits_the_connection(ctx: TaskContext) -> None:
    write(ctx)
    ctx.session.connection().commit()


def commits_the_driver(ctx: TaskContext) -> None:
    write(ctx)
    ctx.connection().commit()


@pytest.mark.parametrize(
    "end",
    [
        rolls_back_in_a_list,
        rolls_back_the_connection,
        rolls_back_the_driver,
        rolls_back_and_nests,
        rolls_back_in_a_loop,
        commits_the_connection,
        commits_the_driver,
    ],
)
def test_a_run_whose_work_is_lost_is_not_completed(effects: World, end: Handler) -> None:
    row = run(effects, end)
    assert (row["state"], written(effects)) in [("retry", []), ("archived", [])]
    assert row["error_type"] in ("JobError", "SkipRetry")


async def rolls_back_asyncpg(ctx: TaskContext) -> None:
    await write_async(ctx, "lost")
    raw: Any = await (await ctx.async_session.connection()).get_raw_connection()
    await raw.driver_connection.execute("rollback")


async def rolls_back_the_async_connection(ctx: TaskContext) -> None:
    await write_async(ctx, "lost")
    await (await ctx.async_session.connection()).rollback()


async def commits_the_async_connection(ctx: TaskContext) -> None:
    await write_async(ctx, "lost")
    await (await ctx.async_session.connection()).commit()


@pytest.mark.parametrize("end", [rolls_back_asyncpg, rolls_back_the_async_connection, commits_the_async_connection])
def test_an_async_run_whose_work_is_lost_is_not_completed(effects: World, end: Handler) -> None:
    row = run_async(effects, end)
    assert (row["state"], written(effects)) in [("retry", []), ("archived", [])]
    assert row["error_type"] in ("JobError", "SkipRetry")


# --- What still works ----------------------------------------------------------------------------------------------


def test_savepoints_and_the_rollback_of_the_session_work(effects: World) -> None:
    def handler(ctx: TaskContext) -> None:
        write(ctx, "undone")
        ctx.session.rollback()
        write(ctx, "kept")
        savepoint = ctx.session.begin_nested()
        write(ctx, "undone")
        savepoint.rollback()
        for statement in ("savepoint mine", "insert into effects values ('it', 'undone')", "rollback to mine"):
            through_session(ctx, statement)
        through_session(ctx, "rollback work to savepoint mine; release mine")
        through_session(ctx, 'do $$ begin perform 1; end; $$; select \'commit; end\', "end" from (select 1 "end") x')
        through_session(
            ctx, "create function pg_temp.one() returns int begin atomic select 1; select 2; end; -- ; commit"
        )

    async def handler_async(ctx: TaskContext) -> None:
        await write_async(ctx, "undone")
        await ctx.async_session.rollback()
        await write_async(ctx, "kept too")
        savepoint = await ctx.async_session.begin_nested()
        await write_async(ctx, "undone")
        await savepoint.rollback()
        await through_async_session(ctx, "savepoint mine")
        await write_async(ctx, "undone")
        await through_async_session(ctx, "rollback to savepoint mine")
        await asyncio.sleep(0)

    assert run(effects, handler)["state"] == "completed"
    assert run_async(effects, handler_async, "async")["state"] == "completed"
    assert written(effects) == ["kept", "kept too"]


def test_a_handler_without_a_session_has_transactions_of_its_own(effects: World) -> None:
    def handler(ctx: TaskContext) -> None:
        for statement in ("begin", "insert into effects values ('it', 'own')", "commit"):
            through_connection(ctx, statement)

    assert (run(effects, handler)["state"], written(effects)) == ("completed", ["own"])
    # and the guard of an earlier run is gone
    assert run(effects, write, "other")["state"] == "completed"
    effects.run("delete from effects")
    assert (run(effects, handler, "third")["state"], written(effects)) == ("completed", ["own"])


def test_a_guard_that_looks_at_no_statement_is_found(effects: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction_guard.TransactionGuard, "check", lambda *_: None)
    monkeypatch.setattr(transaction_guard.TransactionGuard, "check_whole", lambda *_: None)
    with pytest.raises(AssertionError):
        test_a_run_whose_work_is_lost_is_not_completed(effects, rolls_back_the_driver)
