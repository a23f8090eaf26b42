"""The progress that a running task reports, and how a cancel stops it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import text

from joblane import Snooze, State, TaskContext
from joblane.handler.context import read_at_next_check
from joblane.record.task.status import TaskStatus
from joblane.testing.faults import HookedDatabase, Send
from tests.builders.events import message, record
from tests.builders.handlers import Clock, cancels, run
from tests.samples import sample_one
from tests.samples_long import counts, make_things, write
from tests.world import World, handle


@pytest.fixture(autouse=True)
def things(world: World) -> None:
    make_things(world, 0)


def seen(world: World) -> TaskStatus:
    """The task as another process sees it."""
    status = world.client.get("it")
    assert status is not None
    return status


def reported(world: World) -> tuple[int, int | None, str | None] | None:
    progress = seen(world).progress
    return None if progress is None else (progress.done, progress.total, progress.note)


# --- Telling -------------------------------------------------------------------------------------------------------


def test_progress_is_visible_while_the_handlers_transaction_is_open(world: World) -> None:
    during: list[Any] = []

    def tell(ctx: TaskContext) -> None:
        write(ctx, 1)
        ctx.progress(3, 10, "three of ten")
        during.append((reported(world), counts(world), seen(world).state))

    assert not run(world, tell)["kept"]

    assert during == [((3, 10, "three of ten"), {}, State.ACTIVE)]
    assert reported(world) == (3, 10, "three of ten")
    assert counts(world) == {1: 1}


def test_progress_without_a_session_needs_no_second_connection(world: World) -> None:
    def tell_alone(ctx: TaskContext) -> None:
        before = world.run("select count(*) from pg_stat_activity where datname = current_database()")
        ctx.progress(1)
        assert world.run("select count(*) from pg_stat_activity where datname = current_database()") == before

    assert not run(world, tell_alone)["kept"]
    assert reported(world) == (1, None, None)


def test_the_second_connection_does_not_outlive_the_run(
    world: World, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    def report_over_the_side_connection(ctx: TaskContext) -> None:
        write(ctx, 1)
        ctx.progress(1, 2)

    assert not run(world, report_over_the_side_connection)["kept"]
    here = "select count(*) from pg_stat_activity where datname = current_database()"
    wait_until(lambda: world.run(here)[0][0] <= 3)  # the worker's, the client's, and the test's connection


def test_progress_is_written_once_a_second_and_always_at_the_end(world: World, clock: Clock) -> None:
    during: list[Any] = []

    def tell_often(ctx: TaskContext) -> None:
        for done in range(1, 100):
            ctx.progress(done, 100)
        during.append(reported(world))
        clock.ahead += 1
        ctx.progress(50, 100, "after a second")
        ctx.progress(60, 100)
        during.append(reported(world))
        ctx.progress(100, 100, "all")
        during.append(reported(world))

    assert not run(world, tell_often)["kept"]
    assert during == [(1, 100, None), (50, 100, "after a second"), (100, 100, "all")]


def stops(ctx: TaskContext) -> None:
    write(ctx, 1)
    ctx.sleep("until tomorrow", timedelta(days=1))


def fails(_: TaskContext) -> None:
    raise ValueError("no")


def fails_in_a_transaction(ctx: TaskContext) -> None:
    write(ctx, 1)
    ctx.session.execute(text("select 1 / 0"))


def is_cancelled(ctx: TaskContext) -> None:
    read_at_next_check(ctx)
    cancels(ctx)


def snoozes(_: TaskContext) -> None:
    raise Snooze(timedelta(minutes=5))


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (fails, State.RETRY),
        (fails_in_a_transaction, State.RETRY),
        (snoozes, State.PENDING),
        (is_cancelled, State.CANCELLED),
        (stops, State.SCHEDULED),
    ],
)
def test_a_run_that_does_not_complete_writes_its_last_progress(
    world: World, end: Callable[[TaskContext], None], state: State
) -> None:
    def tell_and_end(ctx: TaskContext) -> None:
        ctx.progress(1, 5, "workspace")
        ctx.progress(2, 5, "a\0b")
        end(ctx)

    run(world, tell_and_end)

    assert (seen(world).state, reported(world)) == (state, (2, 5, "ab"))


def test_a_last_progress_that_is_refused_changes_no_outcome(world: World) -> None:
    world.run("alter table joblane.task_progress add constraint not_two check (done <> 2)")

    def tell_and_fail(ctx: TaskContext) -> None:
        ctx.progress(1, 5)
        ctx.progress(2, 5)
        raise ValueError("no")

    row = run(world, tell_and_fail)

    assert (row["state"], row["error_type"], reported(world)) == (State.RETRY, "ValueError", (1, 5, None))


def test_a_loop_that_checks_by_itself_does_not_take_the_turn_of_progress(world: World, clock: Clock) -> None:
    during: list[int] = []

    def tell_in_a_loop(ctx: TaskContext) -> None:
        for done in ctx.each(range(5)):
            ctx.progress(done, 100)
            clock.ahead += 1.5  # the work of the item: the loop's own check comes next
            progress = seen(world).progress
            during.append(progress.done if progress else -1)

    assert not run(world, tell_in_a_loop)["kept"]
    assert during == [0, 1, 2, 3, 4]


def test_a_note_is_cut_and_freed_of_what_postgres_cannot_hold(world: World) -> None:
    def tell_a_note(ctx: TaskContext) -> None:
        ctx.progress(1, 2, "a\0b\ud800" + "c" * 300)

    assert not run(world, tell_a_note)["kept"]
    assert reported(world) == (1, 2, "ab?" + "c" * 196 + "…")


@pytest.mark.parametrize("wrong", [(-1, None), (1, -1), (1.5, 2), (1, 2.5), (True, 1), ("1", 2), (2**63, None)])
def test_what_is_no_count_is_refused_before_anything_is_written(world: World, wrong: tuple[Any, Any]) -> None:
    def tell_wrong(ctx: TaskContext) -> None:
        with pytest.raises(ValueError, match="progress: done and total are whole numbers of zero or more"):
            ctx.progress(*wrong)

    assert not run(world, tell_wrong)["kept"]
    assert reported(world) is None


def test_a_task_tells_how_many_of_its_items_are_done(world: World) -> None:
    during: list[int] = []

    def count_items(ctx: TaskContext) -> None:
        for item in ctx.each(range(3)):
            write(ctx, item)
            during.append(seen(world).items_done)

    assert not run(world, count_items)["kept"]
    assert during == [0, 1, 2]
    assert seen(world).items_done == 3


# --- The second connection -----------------------------------------------------------------------------------------


def test_a_second_connection_that_cannot_be_had_does_not_fail_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell_in_vain(ctx: TaskContext) -> None:
        write(ctx, 1)
        monkeypatch.setattr(ctx._work._side, "get", Mock(side_effect=ConnectionRefusedError("too many connections")))
        ctx.progress(1, 2)
        ctx.progress(2, 2)

    assert not run(world, tell_in_vain)["kept"]
    assert (seen(world).state, reported(world), counts(world)) == (State.COMPLETED, None, {1: 1})


def test_a_broken_side_connection_is_opened_again(world: World) -> None:
    def tell_on(ctx: TaskContext) -> None:
        write(ctx, 1)
        ctx.progress(1, 1)
        ended = "select pg_terminate_backend($1::int, 5000)"
        world.run(ended, str(ctx._work._side.get().run("select pg_backend_pid()")[0][0]))
        ctx.progress(2, 2)
        assert reported(world) == (1, 1, None)
        ctx.progress(3, 3)
        assert reported(world) == (3, 3, None)

    assert not run(world, tell_on)["kept"]
    assert (seen(world).state, counts(world)) == (State.COMPLETED, {1: 1})


# --- Cancelling ----------------------------------------------------------------------------------------------------


def test_a_loop_over_items_stops_when_its_task_is_cancelled_and_keeps_what_was_done(world: World, clock: Clock) -> None:
    def be_cancelled_in_a_loop(ctx: TaskContext) -> None:
        for item in ctx.each(range(10)):
            write(ctx, item)
            if item == 2:
                world.client.cancel("it")
                clock.ahead += 1

    assert not run(world, be_cancelled_in_a_loop)["kept"]
    assert (seen(world).state, seen(world).items_done) == (State.CANCELLED, 3)
    assert counts(world) == {0: 1, 1: 1, 2: 1}


def test_the_question_is_asked_once_a_second(world: World, clock: Clock) -> None:
    asked: list[str] = []

    def hook(sql: str, send: Send) -> Any:
        asked.append(sql) if "cancelled from" in sql else None
        return send()

    def ask_often(ctx: TaskContext) -> None:
        for _ in range(100):
            ctx.check()
        clock.ahead += 1
        ctx.check()

    world.database = HookedDatabase(world.url, hook)
    assert not run(world, ask_often)["kept"]
    assert len(asked) == 2


def test_a_run_whose_lease_is_lost_learns_it_when_it_asks(world: World) -> None:
    gone_on: list[str] = []

    def lose_the_lease(ctx: TaskContext) -> None:
        write(ctx, ctx.attempt)
        if ctx.attempt == 1:
            world.run("update joblane.tasks set lease_until = clock_timestamp() - interval '1 s'")
            with world.rival(sample_one) as other:
                assert handle(other, record(message("handler_of_the_test"), world.lane(sample_one))) == []
            ctx.progress(1, 2)
            gone_on.append("end")

    assert run(world, lose_the_lease)["kept"]
    assert gone_on == []
    assert seen(world).state == State.COMPLETED
    assert counts(world) == {2: 1}
