"""The alarm at the timeout: the code that it interrupts, and the state that the next task of the process finds."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm.state_changes import _StateChangeStates

from joblane import TaskContext
from joblane.record.driver.database import Database
from tests.builders.events import message
from tests.builders.handlers import Handler, commit_slowly, run, write, written
from tests.builders.rows import put
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, behaviour, sample_batch, sample_one
from tests.world import World

WaitUntil = Callable[[Callable[[], bool]], None]
SOON = 3.2
"""Seconds left to the invocation: three are kept for Lambda's own kill, the handler has 0.2."""


pytestmark = pytest.mark.usefixtures("standing_clock")


def assert_silent() -> None:
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


# --- What it interrupts --------------------------------------------------------------------------------------------


def sleep(ctx: TaskContext) -> None:
    time.sleep(30)


def busy_loop(ctx: TaskContext) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < ends:
        pass


def query(ctx: TaskContext) -> None:
    ctx.session.execute(text("select 'secret of the first', pg_sleep(30)")).all()


def query_by_the_connection(ctx: TaskContext) -> None:
    ctx.connection().run("select pg_sleep(30)")


def lock(ctx: TaskContext) -> None:
    held = threading.Lock()
    held.acquire()
    held.acquire()


def wait_for_an_event(ctx: TaskContext) -> None:
    threading.Event().wait(30)


def wait_for_a_row(ctx: TaskContext) -> None:
    ctx.session.execute(text("update effects set what = 'taken' where task_id = 'x'"))


def swallow_every_exception(ctx: TaskContext) -> None:
    with suppress(Exception):
        sleep(ctx)
    write(ctx, "went on")


def swallow_all_the_same(ctx: TaskContext) -> None:
    """The alarm comes again."""
    with suppress(BaseException):
        sleep(ctx)
    began = time.monotonic()
    try:
        sleep(ctx)
    finally:
        assert 0.5 < time.monotonic() - began < 5


def change_the_state_of_the_session(ctx: TaskContext) -> None:
    """An alarm leaves this behind if it comes between two lines of SQLAlchemy's SessionTransaction."""
    transaction = ctx.session.get_transaction()
    assert transaction is not None
    vars(transaction).update(_next_state=_StateChangeStates.CHANGE_IN_PROGRESS, _current_fn=type(transaction).commit)
    sleep(ctx)


def swallow_in_a_query(ctx: TaskContext) -> None:
    """The connection is lost with the handler's writes, so a normal return must not complete the task."""
    with suppress(BaseException):
        query(ctx)


def swallow_in_a_query_and_check(ctx: TaskContext) -> None:
    swallow_in_a_query(ctx)
    ctx.check()


def swallow_in_a_query_and_ask_again(ctx: TaskContext) -> None:
    swallow_in_a_query(ctx)
    ctx.connection().run("select 1")


def see_own_row(ctx: TaskContext) -> Any:
    return ctx.session.execute(text("select :id"), {"id": ctx.task_id}).scalar()


@pytest.mark.parametrize(
    ("wait", "error"),
    [
        (sleep, "TaskTimeout"),
        (busy_loop, "TaskTimeout"),
        (query, "TaskTimeout"),
        (query_by_the_connection, "TaskTimeout"),
        (lock, "TaskTimeout"),
        (wait_for_an_event, "TaskTimeout"),
        (wait_for_a_row, "TaskTimeout"),
        (swallow_every_exception, "TaskTimeout"),
        (swallow_all_the_same, "TaskTimeout"),
        (change_the_state_of_the_session, "TaskTimeout"),
        (swallow_in_a_query, None),
        (swallow_in_a_query_and_check, None),
        (swallow_in_a_query_and_ask_again, None),
    ],
)
def test_a_handler_that_outlives_its_timeout_is_interrupted_and_the_run_counts(
    effects: World, wait: Handler, error: str | None
) -> None:
    effects.run("insert into effects values ('x', 'locked')")

    def too_long(ctx: TaskContext) -> str:
        write(ctx, "lost")
        wait(ctx)
        return "done"

    with Database(effects.url) as holder:
        holder.get().execute_simple("begin; select from effects for update")
        began = time.monotonic()
        row = run(effects, too_long, seconds=SOON)

    assert time.monotonic() - began < 15
    assert (row["kept"], row["state"], row["attempts"]) == (True, "retry", 1)
    assert error in (row["error_type"], None)
    assert effects.outcomes("it") == ["timeout"]
    assert written(effects) == ["locked"]
    assert_silent()
    for id_ in ("next", "last"):
        assert run(effects, see_own_row, id_)["result"] == id_
    assert effects.deliver(sample_one, {"type": "sample:one", "id": "wrong", "payload": {"number": "no number"}}) == []
    assert effects.row("wrong")["error_type"] == "UnreadablePayloadError", "not an error after an interrupt"


def test_the_last_attempt_that_is_interrupted_gives_the_task_up(world: World) -> None:
    put(world, sample_one, "it", {"do": "handler_of_the_test", "number": 0}, state="retry", attempts=3, runs=3)

    row = run(world, sleep, seconds=SOON)

    assert (row["kept"], row["state"], row["attempts"]) == (False, "archived", 4)
    assert row["reason"].startswith("attempt 4 of 4 failed: TaskTimeout")
    assert len(world.dead_letters(sample_one)) == 1


# --- What the next task sees ---------------------------------------------------------------------------------------


def test_after_an_interrupt_raised_as_another_error_the_next_task_sees_its_own_rows(
    world: World, wait_until: WaitUntil
) -> None:
    def translate(ctx: TaskContext) -> None:
        try:
            ctx.connection().run("select 'secret of the first', pg_sleep(0.4)")
        except BaseException as error:
            raise ValueError("not what it was") from error

    assert run(world, translate, "first", seconds=SOON)["error_type"] == "ValueError"
    running = (
        "select from pg_stat_activity where query like '%secret%' and state = 'active' and pid <> pg_backend_pid()"
    )
    wait_until(lambda: world.run(running) == [])  # the first one's rows are on the wire
    assert run(world, lambda ctx: ctx.connection().run("select $1", ctx.task_id), "second")["result"] == [["second"]]


def fail_to_clean_up(ctx: TaskContext) -> None:
    """SQLAlchemy's own assertions fail if the alarm interrupts it between two lines. So may any clean-up."""
    write(ctx, "never")
    try:
        signal.raise_signal(signal.SIGALRM)  # its time is over
    finally:
        assert ctx.task_id == "another"


def fail_to_clean_up_after_a_commit(ctx: TaskContext) -> None:
    """The alarm fires during the commit of an item, and is raised after it."""
    try:
        for item in ctx.each(["a", "b"]):
            write(ctx, item)
            signal.setitimer(signal.ITIMER_REAL, 0.05, 1)
    finally:
        assert ctx.task_id == "another"


@pytest.mark.parametrize(("handler", "kept"), [(fail_to_clean_up, []), (fail_to_clean_up_after_a_commit, ["a"])])
def test_an_error_that_the_interrupt_leaves_behind_is_a_timeout_still(
    effects: World, handler: Handler, kept: list[str]
) -> None:
    commit_slowly(effects, 0.4)
    row = run(effects, handler)
    assert (row["kept"], row["error_type"]) == (True, "TaskTimeout")
    [[outcome, traceback]] = effects.run("select outcome, traceback from joblane.runs where task_id = 'it'")
    assert outcome == "timeout"
    assert "AssertionError" in traceback
    assert handler.__name__ in traceback
    assert written(effects) == kept


def test_an_interrupted_task_in_a_batch_does_not_affect_the_others(effects: World) -> None:
    @behaviour
    def hang_if_it_is_b(payload: Sample, ctx: TaskContext) -> Any:
        write(ctx, ctx.task_id)
        if ctx.task_id == "b":
            signal.setitimer(signal.ITIMER_REAL, 0.05, 1)
            query(ctx)
        return see_own_row(ctx)

    bodies = [message("hang_if_it_is_b", id_, type_="sample:batch") for id_ in "abc"]
    kept = effects.deliver(sample_batch, *bodies, message("nothing", "d", type_="sample:batch"))

    assert (len(kept), written(effects)) == (1, ["a", "c"])
    rows = [effects.row(id_) for id_ in "abcd"]
    assert [row["state"] for row in rows] == ["completed", "retry", "completed", "completed"]
    assert [row["result"] for row in rows] == ["a", None, "c", None]


def test_what_an_interrupted_query_has_locked_is_free_again_soon(effects: World, wait_until: WaitUntil) -> None:
    effects.run("insert into effects values ('x', 'free')")

    def lock_and_hang(ctx: TaskContext) -> None:
        ctx.session.execute(text("update effects set what = 'locked' where task_id = 'x'"))
        ctx.session.execute(text("select pg_sleep(300)"))

    run(effects, lock_and_hang, seconds=SOON)

    wait_until(lambda: effects.run("select what from effects for update skip locked") == [["free"]])
    hanging = "select from pg_stat_activity where query like '%pg_sleep(300)%' and pid <> pg_backend_pid()"
    assert effects.run(hanging) == []


# --- The awkward moments -------------------------------------------------------------------------------------------

IN_A_CALLBACK = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Python prints and swallows what is raised within a weakref's callback; the alarm comes again for that."""
IN_A_SAVEPOINT = pytest.mark.filterwarnings("ignore:nested transaction already deassociated")
"""SQLAlchemy says so where the alarm meets the end of a savepoint; as an error it would take the alarm's place."""


@IN_A_CALLBACK
@IN_A_SAVEPOINT
def test_an_alarm_at_any_moment_of_short_statements_ends_the_run_whole_or_not_at_all(effects: World) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    typical = 0.0

    @behaviour
    def short_statements(payload: Sample, ctx: TaskContext) -> str:
        signal.setitimer(signal.ITIMER_REAL, payload.number / 1e6, 1)
        write(ctx, "begun")
        for number in range(6):
            assert ctx.session.execute(text("select :n, :id"), {"n": str(number), "id": ctx.task_id}).one() == (
                str(number),
                ctx.task_id,
            )
            with ctx.session.begin_nested():
                ctx.session.execute(text("select :n"), {"n": str(number)}).scalar_one()
        return ctx.task_id

    @behaviour
    def look(payload: Sample, ctx: TaskContext) -> str:
        found = ctx.session.execute(text("select :id"), {"id": ctx.task_id}).scalar_one()
        assert ctx.connection().run("select $1", ctx.task_id) == [[ctx.task_id]]
        return str(found)

    for id_ in ("first", "warm"):
        began = time.perf_counter()
        effects.deliver(sample_one, message("short_statements", id_, 10**7))
        typical = time.perf_counter() - began
    ends = {"completed": 0, "retry": 0}
    for number in range(120):
        # when the alarm comes anywhere from the first statement to after the last
        after = chance.uniform(0.0001, typical * chance.choice((0.2, 1, 1.5)))
        kept = effects.deliver(sample_one, message("short_statements", f"it-{number}", int(after * 1e6)))
        # then the run is complete with its effect, or failed by the alarm without
        row = effects.row(f"it-{number}")
        ends[row["state"]] += 1
        where = f"seed {seed}, {number}: {row['state']} {row['error_type']} {row['error_message']}"
        assert (row["state"], row["error_type"]) in (("completed", None), ("retry", "TaskTimeout")), where
        assert len(kept) == (row["state"] == "retry"), where
        written = effects.run("select what from effects where task_id = $1", f"it-{number}")
        assert written == [["begun"]] * (row["state"] == "completed"), where
        assert_silent()
        # and the next one on the same process sees its own rows
        assert effects.deliver(sample_one, message("look", f"next-{number}")) == [], where
        assert effects.row(f"next-{number}")["result"] == f"next-{number}", where
    assert min(ends.values()) > 0, ends


@IN_A_CALLBACK
def test_an_alarm_at_any_moment_around_the_handlers_end_never_gets_out(world: World) -> None:
    """The handler ends at about the time of the alarm: the task completes or times out, and nothing else happens."""
    seed = random.randrange(10**6)
    chance = random.Random(seed)

    @behaviour
    def just_about(payload: Sample, ctx: TaskContext) -> None:
        ends = time.perf_counter() + 0.0005
        signal.setitimer(signal.ITIMER_REAL, payload.number / 1e6, 1)
        while time.perf_counter() < ends:
            pass
        if payload.number % 2:
            raise ValueError("an end of its own")

    for number in range(150):
        after = chance.randrange(450, 900)
        world.deliver(sample_one, message("just_about", f"it-{number}", after))
        row = world.row(f"it-{number}")
        expected = (("retry", "TaskTimeout"), ("retry", "ValueError") if after % 2 else ("completed", None))
        assert (row["state"], row["error_type"]) in expected, f"seed {seed}"
        assert_silent()


# --- What it never interrupts --------------------------------------------------------------------------------------


def test_the_commit_of_the_completion_is_not_interrupted(effects: World) -> None:
    def end_in_time(ctx: TaskContext) -> None:
        write(ctx)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 1)

    commit_slowly(effects, 0.4)
    assert run(effects, end_in_time)["state"] == "completed"
    assert written(effects) == ["done"]


def test_the_commit_of_an_item_is_not_interrupted_and_the_alarm_comes_after_it(effects: World) -> None:
    begun: list[str] = []
    items = ["five", "four", "one", "three", "two"]

    def item_by_item(ctx: TaskContext) -> None:
        for item in ctx.each(items):
            begun.append(item)
            write(ctx, item)
            if ctx.attempt == 1:
                signal.setitimer(signal.ITIMER_REAL, 0.05, 1)

    commit_slowly(effects, 0.4)
    assert run(effects, item_by_item)["error_type"] == "TaskTimeout"
    # The alarm was due in the middle of the first commit, and came right after it.
    assert begun == written(effects) == ["five"]
    assert effects.run("select key from joblane.task_items") == [["five"]]
    assert run(effects, item_by_item)["state"] == "completed"
    assert written(effects) == items


def test_a_claim_and_a_finish_after_the_time_is_up_are_not_interrupted(world: World) -> None:
    """No time of the invocation is left: the handler is interrupted at once, and the run's end is recorded."""

    def no_time(ctx: TaskContext) -> None:
        assert ctx.remaining().total_seconds() == 0
        sleep(ctx)

    world.run(
        "create function slowly() returns trigger language plpgsql as $$begin perform pg_sleep(0.2); return new; end$$"
    )
    world.run("create trigger slow before insert or update on joblane.tasks for each row execute function slowly()")
    row = run(world, no_time, seconds=0)
    assert (row["kept"], row["state"], row["error_type"]) == (True, "retry", "TaskTimeout")


def test_in_another_thread_than_the_main_one_no_alarm_is_set(world: World) -> None:
    with ThreadPoolExecutor(1) as threads:
        row = threads.submit(run, world, lambda ctx: signal.getitimer(signal.ITIMER_REAL)[0]).result(PATIENCE_SECONDS)
    assert row["state"] == "completed"
    assert not 0 < row["result"] < 60, "another timer may be that of the test itself"
