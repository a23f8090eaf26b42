"""The progress that a running task reports, and how a cancel stops it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from joblane import State, TaskContext
from joblane.record.driver.database import Database
from joblane.record.task.status import TaskStatus
from joblane.testing.faults import HookedDatabase, Send
from tests.builders.events import message, record
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, behaviour, sample_one
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


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.perf_counter() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()

    class Time:
        monotonic = made

    monkeypatch.setattr("joblane.handler.context.time", Time)
    return made


# --- Telling -------------------------------------------------------------------------------------------------------


def test_progress_is_visible_while_the_handlers_transaction_is_open(world: World) -> None:
    during: list[Any] = []

    @behaviour
    def tell(payload: Sample, ctx: TaskContext) -> None:
        write(ctx, 1)
        ctx.progress(3, 10, "three of ten")
        during.append((reported(world), counts(world), seen(world).state))

    assert world.deliver(sample_one, message("tell")) == []

    assert during == [((3, 10, "three of ten"), {}, State.ACTIVE)]
    assert reported(world) == (3, 10, "three of ten")
    assert counts(world) == {1: 1}


def test_progress_without_a_session_needs_no_second_connection(world: World) -> None:
    @behaviour
    def tell_alone(payload: Sample, ctx: TaskContext) -> None:
        before = world.run("select count(*) from pg_stat_activity where datname = current_database()")
        ctx.progress(1)
        assert world.run("select count(*) from pg_stat_activity where datname = current_database()") == before

    assert world.deliver(sample_one, message("tell_alone")) == []
    assert reported(world) == (1, None, None)


def test_the_second_connection_does_not_outlive_the_run(world: World) -> None:
    @behaviour
    def report_over_the_side_connection(payload: Sample, ctx: TaskContext) -> None:
        write(ctx, 1)
        ctx.progress(1, 2)

    assert world.deliver(sample_one, message("report_over_the_side_connection")) == []

    here = "select count(*) from pg_stat_activity where datname = current_database()"
    ends = time.monotonic() + PATIENCE_SECONDS
    while world.run(here)[0][0] > 3 and time.monotonic() < ends:
        time.sleep(0.02)
    assert world.run(here)[0][0] <= 3  # the worker's, the client's, and the test's connection


def test_progress_is_written_once_a_second_and_always_at_the_end(world: World, clock: Clock) -> None:
    during: list[Any] = []

    @behaviour
    def tell_often(payload: Sample, ctx: TaskContext) -> None:
        for done in range(1, 100):
            ctx.progress(done, 100)
        during.append(reported(world))
        clock.ahead += 1
        ctx.progress(50, 100, "after a second")
        ctx.progress(60, 100)
        during.append(reported(world))
        ctx.progress(100, 100, "all")
        during.append(reported(world))

    assert world.deliver(sample_one, message("tell_often")) == []
    assert during == [(1, 100, None), (50, 100, "after a second"), (100, 100, "all")]


def test_a_loop_that_checks_by_itself_does_not_take_the_turn_of_progress(world: World, clock: Clock) -> None:
    during: list[int] = []

    @behaviour
    def tell_in_a_loop(payload: Sample, ctx: TaskContext) -> None:
        for done in ctx.each(range(5)):
            ctx.progress(done, 100)
            clock.ahead += 1.5  # the work of the item: the loop's own check comes next
            progress = seen(world).progress
            during.append(progress.done if progress else -1)

    assert world.deliver(sample_one, message("tell_in_a_loop")) == []
    assert during == [0, 1, 2, 3, 4]


def test_a_note_is_cut_and_freed_of_what_postgres_cannot_hold(world: World) -> None:
    @behaviour
    def tell_a_note(payload: Sample, ctx: TaskContext) -> None:
        ctx.progress(1, 2, "a\0b\ud800" + "c" * 300)

    assert world.deliver(sample_one, message("tell_a_note")) == []
    assert reported(world) == (1, 2, "ab?" + "c" * 196 + "…")


@pytest.mark.parametrize("wrong", [(-1, None), (1, -1), (1.5, 2), (1, 2.5), (True, 1), ("1", 2), (2**63, None)])
def test_what_is_no_count_is_refused_before_anything_is_written(world: World, wrong: tuple[Any, Any]) -> None:
    @behaviour
    def tell_wrong(payload: Sample, ctx: TaskContext) -> None:
        with pytest.raises(ValueError, match="progress: done and total are whole numbers of zero or more"):
            ctx.progress(*wrong)

    assert world.deliver(sample_one, message("tell_wrong")) == []
    assert reported(world) is None


def test_a_task_tells_how_many_of_its_items_are_done(world: World) -> None:
    during: list[int] = []

    @behaviour
    def count_items(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(3)):
            write(ctx, item)
            during.append(seen(world).items_done)

    assert world.deliver(sample_one, message("count_items")) == []
    assert during == [0, 1, 2]
    assert seen(world).items_done == 3


# --- The second connection -----------------------------------------------------------------------------------------


def test_a_second_connection_that_cannot_be_had_does_not_fail_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Database) -> Any:
        raise ConnectionRefusedError("too many connections")

    @behaviour
    def tell_in_vain(payload: Sample, ctx: TaskContext) -> None:
        write(ctx, 1)
        monkeypatch.setattr(ctx._work._side, "get", lambda: refused(ctx._work._side))
        ctx.progress(1, 2)
        ctx.progress(2, 2)

    assert world.deliver(sample_one, message("tell_in_vain")) == []
    assert (seen(world).state, reported(world), counts(world)) == (State.COMPLETED, None, {1: 1})


def test_a_broken_side_connection_is_opened_again(world: World) -> None:
    @behaviour
    def tell_on(payload: Sample, ctx: TaskContext) -> None:
        write(ctx, 1)
        ctx.progress(1, 1)
        ended = "select pg_terminate_backend($1::int, 5000)"
        world.run(ended, str(ctx._work._side.get().run("select pg_backend_pid()")[0][0]))
        ctx.progress(2, 2)
        assert reported(world) == (1, 1, None)
        ctx.progress(3, 3)
        assert reported(world) == (3, 3, None)

    assert world.deliver(sample_one, message("tell_on")) == []
    assert (seen(world).state, counts(world)) == (State.COMPLETED, {1: 1})


# --- Cancelling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", ["check", "progress", "finish"])
@pytest.mark.parametrize("touched", [True, False])
def test_a_task_cancelled_while_it_runs_stops_and_leaves_no_effect(world: World, ask: str, touched: bool) -> None:
    asked: list[State | None] = []
    gone_on: list[str] = []

    @behaviour
    def be_cancelled(payload: Sample, ctx: TaskContext) -> None:
        if touched:
            write(ctx, 1)
        asked.append(world.client.cancel("it"))
        try:
            if ask == "check":
                ctx.check()
            elif ask == "progress":
                ctx.progress(1, 2)
        except Exception:  # a handler's own net does not catch it
            gone_on.append("swallowed")
        gone_on.append("end")

    watched = world.watch()
    assert world.deliver(sample_one, message("be_cancelled")) == []

    assert asked == [State.ACTIVE]
    assert gone_on == (["end"] if ask == "finish" else [])
    assert (seen(world).state, seen(world).reason) == (State.CANCELLED, "cancelled while it ran")
    assert world.outcomes("it") == ["cancelled"]
    assert counts(world) == {}
    assert watched.sent == []
    assert world.deliver(sample_one, message("be_cancelled")) == []  # its message, once more
    assert len(world.attempts("it")) == 1


def test_a_loop_over_items_stops_when_its_task_is_cancelled_and_keeps_what_was_done(world: World, clock: Clock) -> None:
    @behaviour
    def be_cancelled_in_a_loop(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(10)):
            write(ctx, item)
            if item == 2:
                world.client.cancel("it")
                clock.ahead += 1

    assert world.deliver(sample_one, message("be_cancelled_in_a_loop")) == []
    assert (seen(world).state, seen(world).items_done) == (State.CANCELLED, 3)
    assert counts(world) == {0: 1, 1: 1, 2: 1}


def test_the_question_is_asked_once_a_second(world: World, clock: Clock) -> None:
    asked: list[str] = []

    def hook(sql: str, send: Send) -> Any:
        asked.append(sql) if "cancelled from" in sql else None
        return send()

    @behaviour
    def ask_often(payload: Sample, ctx: TaskContext) -> None:
        for _ in range(100):
            ctx.check()
        clock.ahead += 1
        ctx.check()

    world.database = HookedDatabase(world.url, hook)
    assert world.deliver(sample_one, message("ask_often")) == []
    assert len(asked) == 2


def test_a_run_whose_lease_is_lost_learns_it_when_it_asks(world: World) -> None:
    gone_on: list[str] = []

    @behaviour
    def lose_the_lease(payload: Sample, ctx: TaskContext) -> None:
        write(ctx, ctx.attempt)
        if ctx.attempt == 1:
            world.run("update joblane.tasks set lease_until = clock_timestamp() - interval '1 s'")
            with world.rival(sample_one) as other:
                assert handle(other, record(message("lose_the_lease"), world.lane(sample_one))) == []
            ctx.progress(1, 2)
            gone_on.append("end")

    assert len(world.deliver(sample_one, message("lose_the_lease"))) == 1
    assert gone_on == []
    assert seen(world).state == State.COMPLETED
    assert counts(world) == {2: 1}
