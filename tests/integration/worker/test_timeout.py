"""The alarm at the timeout: the code that it interrupts, and the state that the next task of the process finds."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text

from joblane import TaskContext
from joblane.record.driver.database import Database
from tests.builders.events import message
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, behaviour, sample_batch, sample_one
from tests.world import World

WaitUntil = Callable[[Callable[[], bool]], None]
SOON = 3.2
"""Seconds left to the invocation: three are kept for Lambda's own kill, the handler has 0.2."""


pytestmark = pytest.mark.usefixtures("standing_clock")


@pytest.fixture
def effects(world: World) -> World:
    world.run("create table effects (task_id text, what text)")
    return world


def write(ctx: TaskContext, what: str) -> None:
    ctx.session.execute(text("insert into effects values (:id, :what)"), {"id": ctx.task_id, "what": what})


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
    ctx.session.execute(text("select pg_sleep(30)"))


def query_by_the_connection(ctx: TaskContext) -> None:
    ctx.connection().run("select pg_sleep(30)")


def lock(ctx: TaskContext) -> None:
    held = threading.Lock()
    held.acquire()
    held.acquire()


def wait_for_an_event(ctx: TaskContext) -> None:
    threading.Event().wait(30)


@pytest.mark.parametrize("wait", [sleep, busy_loop, query, query_by_the_connection, lock, wait_for_an_event])
def test_a_handler_that_outlives_its_timeout_is_interrupted_and_the_run_counts(
    world: World, wait: Callable[[TaskContext], None]
) -> None:
    @behaviour
    def too_long(payload: Sample, ctx: TaskContext) -> None:
        wait(ctx)

    began = time.monotonic()
    assert len(world.deliver(sample_one, message("too_long"), seconds=SOON)) == 1

    assert time.monotonic() - began < 15
    row = world.row("it")
    assert (row["state"], row["attempts"], row["error_type"]) == ("retry", 1, "TaskTimeout")
    assert world.outcomes("it") == ["timeout"]
    assert_silent()
    assert world.deliver(sample_one, message("nothing", "next")) == []
    assert world.row("next")["state"] == "completed"


def test_a_handler_that_waits_for_a_lock_in_the_database_is_interrupted(effects: World) -> None:
    effects.run("insert into effects values ('x', 'locked')")

    @behaviour
    def wait_for_a_row(payload: Sample, ctx: TaskContext) -> None:
        write(ctx, "mine")
        ctx.session.execute(text("update effects set what = 'taken' where task_id = 'x'"))

    holder = Database(effects.url)
    try:
        holder.get().execute_simple("begin")
        holder.get().run("select from effects for update")
        assert len(effects.deliver(sample_one, message("wait_for_a_row"), seconds=SOON)) == 1
        assert effects.row("it")["error_type"] == "TaskTimeout"
    finally:
        holder.drop()
    assert effects.run("select * from effects") == [["x", "locked"]]


def test_the_last_attempt_that_is_interrupted_gives_the_task_up(world: World) -> None:
    @behaviour
    def hang(payload: Sample, ctx: TaskContext) -> None:
        time.sleep(30)

    world.deliver(sample_one, message("nothing"))
    world.run(
        "update joblane.tasks set state = 'retry', finished_at = null, expire_at = null, attempts = 3,"
        " payload = '{\"do\": \"hang\"}' where id = 'it'"
    )

    assert world.deliver(sample_one, message("nothing"), seconds=SOON) == []

    row = world.row("it")
    assert (row["state"], row["attempts"]) == ("archived", 4)
    assert row["reason"].startswith("attempt 4 of 4 failed: TaskTimeout")
    assert len(world.dead_letters(sample_one)) == 1


def test_a_handler_that_catches_every_exception_does_not_swallow_it(world: World) -> None:
    after: list[str] = []

    @behaviour
    def catches(payload: Sample, ctx: TaskContext) -> None:
        with suppress(Exception):
            time.sleep(30)
        after.append("went on")

    world.deliver(sample_one, message("catches"), seconds=SOON)

    assert after == []
    assert world.row("it")["error_type"] == "TaskTimeout"


def test_a_handler_that_swallows_it_all_the_same_meets_it_again(world: World) -> None:
    met: list[float] = []

    @behaviour
    def swallows_once(payload: Sample, ctx: TaskContext) -> None:
        for _ in range(2):
            try:
                time.sleep(30)
            except BaseException:
                met.append(time.monotonic())
                if len(met) == 2:
                    raise

    world.deliver(sample_one, message("swallows_once"), seconds=SOON)

    assert 0.5 < met[1] - met[0] < 5
    assert world.row("it")["error_type"] == "TaskTimeout"


@pytest.mark.parametrize("after", ["nothing", "a check", "a query"])
def test_a_handler_that_swallows_it_in_a_query_does_not_complete_without_its_work(effects: World, after: str) -> None:
    """The connection is lost with the handler's writes, so a normal return must not complete the task."""

    @behaviour
    def swallows_in_a_query(payload: Sample, ctx: TaskContext) -> str:
        write(ctx, "lost with the connection")
        with suppress(BaseException):
            ctx.session.execute(text("select pg_sleep(30)"))
        if after == "a check":
            ctx.check()
        if after == "a query":
            ctx.connection().run("select 1")
        return "done"

    assert len(effects.deliver(sample_one, message("swallows_in_a_query"), seconds=SOON)) == 1

    assert effects.row("it")["state"] == "retry"
    assert effects.run("select * from effects") == []
    assert effects.deliver(sample_one, message("nothing", "next")) == []


# --- What the next task sees ---------------------------------------------------------------------------------------


def test_after_an_interrupt_in_a_query_the_next_task_sees_its_own_rows(world: World) -> None:
    seen: list[Any] = []

    @behaviour
    def first_rows(payload: Sample, ctx: TaskContext) -> None:
        ctx.session.execute(text("select 'secret of the first', pg_sleep(30)")).all()

    @behaviour
    def own_rows(payload: Sample, ctx: TaskContext) -> None:
        seen.append(ctx.session.execute(text("select :id"), {"id": ctx.task_id}).scalar())

    world.deliver(sample_one, message("first_rows", "first"), seconds=SOON)
    for number in range(3):
        assert world.deliver(sample_one, message("own_rows", f"second-{number}")) == []
    assert seen == ["second-0", "second-1", "second-2"]


def test_after_an_interrupt_raised_as_another_error_the_next_task_sees_its_own_rows(
    world: World,
) -> None:
    seen: list[Any] = []

    @behaviour
    def translate(payload: Sample, ctx: TaskContext) -> None:
        try:
            ctx.connection().run("select 'secret of the first', pg_sleep(0.4)")
        except BaseException as error:
            raise ValueError("not what it was") from error

    @behaviour
    def own_row(payload: Sample, ctx: TaskContext) -> None:
        seen.append(ctx.connection().run("select $1", ctx.task_id))

    world.deliver(sample_one, message("translate", "first"), seconds=SOON)
    time.sleep(0.3)  # the first one's rows are on the wire by now
    assert world.row("first")["error_type"] == "ValueError"
    assert world.deliver(sample_one, message("own_row", "second")) == []
    assert seen == [[["second"]]]


def test_an_error_that_the_interrupt_leaves_behind_is_a_timeout_still(effects: World) -> None:
    """SQLAlchemy's own assertions fail if the alarm interrupts it between two lines. So may any clean-up."""

    @behaviour
    def clean_up_fails(payload: Sample, ctx: TaskContext) -> None:
        write(ctx, "never")
        try:
            signal.raise_signal(signal.SIGALRM)  # its time is over
        finally:
            assert ctx.task_id == "another"

    assert len(effects.deliver(sample_one, message("clean_up_fails"))) == 1

    assert effects.row("it")["error_type"] == "TaskTimeout"
    ((outcome, traceback),) = effects.run("select outcome, traceback from joblane.task_attempts where task_id = 'it'")
    assert outcome == "timeout"
    assert "AssertionError" in traceback
    assert "clean_up_fails" in traceback
    assert effects.run("select * from effects") == []


def test_an_error_after_an_interrupt_that_had_to_wait_is_a_timeout_still(slow_commits: World) -> None:
    """The alarm fires during the commit of an item, and is raised after it."""

    @behaviour
    def clean_up_fails(payload: Sample, ctx: TaskContext) -> None:
        try:
            for item in ctx.each(["a", "b"]):
                write(ctx, item)
                signal.setitimer(signal.ITIMER_REAL, 0.05, 1)
        finally:
            assert ctx.task_id == "another"

    assert len(slow_commits.deliver(sample_one, message("clean_up_fails"))) == 1

    assert slow_commits.row("it")["error_type"] == "TaskTimeout"
    assert slow_commits.run("select outcome from joblane.task_attempts where task_id = 'it'") == [["timeout"]]
    assert slow_commits.run("select what from effects") == [["a"]]


def test_an_error_of_a_later_run_has_nothing_to_do_with_an_interrupt_before_it(world: World) -> None:
    @behaviour
    def sleep_on(payload: Sample, ctx: TaskContext) -> None:
        time.sleep(30)

    world.deliver(sample_one, message("sleep_on", "first"), seconds=SOON)

    assert world.deliver(sample_one, {"type": "sample:one", "id": "second", "payload": {"number": "no number"}}) == []

    assert world.row("second")["error_type"] == "UnreadablePayloadError"


def test_an_interrupted_task_in_a_batch_does_not_affect_the_others(effects: World) -> None:
    seen: list[Any] = []

    @behaviour
    def hang_in_a_query(payload: Sample, ctx: TaskContext) -> None:
        write(ctx, "never")
        signal.setitimer(signal.ITIMER_REAL, 0.05, 1)
        ctx.session.execute(text("select 'secret', pg_sleep(30)"))

    @behaviour
    def neighbour(payload: Sample, ctx: TaskContext) -> None:
        write(ctx, "done")
        seen.append(ctx.session.execute(text("select :id"), {"id": ctx.task_id}).scalar())

    kept = effects.deliver(
        sample_batch,
        message("neighbour", "a", type_="sample:batch"),
        message("hang_in_a_query", "b", type_="sample:batch"),
        message("neighbour", "c", type_="sample:batch"),
        message("nothing", "d", type_="sample:batch"),
    )

    assert len(kept) == 1
    assert seen == ["a", "c"]
    assert effects.run("select task_id from effects order by 1") == [["a"], ["c"]]
    assert [effects.row(id_)["state"] for id_ in "abcd"] == ["completed", "retry", "completed", "completed"]


def test_what_an_interrupted_query_has_locked_is_free_again_soon(effects: World, wait_until: WaitUntil) -> None:
    effects.run("insert into effects values ('x', 'free')")

    @behaviour
    def lock_and_hang(payload: Sample, ctx: TaskContext) -> None:
        ctx.session.execute(text("update effects set what = 'locked' where task_id = 'x'"))
        ctx.session.execute(text("select pg_sleep(300)"))

    effects.deliver(sample_one, message("lock_and_hang"), seconds=SOON)

    wait_until(lambda: effects.run("select what from effects for update skip locked") == [["free"]])
    assert (
        effects.run("select from pg_stat_activity where query like '%pg_sleep(300)%' and pid <> pg_backend_pid()") == []
    )


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


def test_an_interrupt_during_a_state_change_of_the_session_is_a_timeout(
    effects: World,
) -> None:
    from sqlalchemy.orm.state_changes import _StateChangeStates

    @behaviour
    def in_the_middle(payload: Sample, ctx: TaskContext) -> None:
        write(ctx, "never")
        transaction = ctx.session.get_transaction()
        assert transaction is not None
        # What an alarm leaves behind that comes between two lines of SQLAlchemy's SessionTransaction.
        vars(transaction).update(
            _next_state=_StateChangeStates.CHANGE_IN_PROGRESS, _current_fn=type(transaction).commit
        )
        time.sleep(30)

    assert len(effects.deliver(sample_one, message("in_the_middle"), seconds=SOON)) == 1

    assert effects.row("it")["error_type"] == "TaskTimeout"
    assert effects.run("select * from effects") == []
    assert effects.deliver(sample_one, message("nothing", "next")) == []


# --- What it never interrupts --------------------------------------------------------------------------------------


@pytest.fixture
def slow_commits(effects: World) -> World:
    """A commit of an effect takes 0.4 seconds."""
    effects.run(
        "create function slowly() returns trigger language plpgsql as $$begin perform pg_sleep(0.4); return null; end$$"
    )
    effects.run(
        "create constraint trigger slow after insert on effects deferrable initially deferred"
        " for each row execute function slowly()"
    )
    return effects


def test_the_commit_of_the_completion_is_not_interrupted(slow_commits: World) -> None:
    @behaviour
    def end_in_time(payload: Sample, ctx: TaskContext) -> None:
        write(ctx, "done")
        signal.setitimer(signal.ITIMER_REAL, 0.05, 1)

    assert slow_commits.deliver(sample_one, message("end_in_time")) == []

    assert slow_commits.row("it")["state"] == "completed"
    assert slow_commits.run("select what from effects") == [["done"]]


def test_the_commit_of_an_item_is_not_interrupted_and_the_alarm_comes_after_it(slow_commits: World) -> None:
    begun: list[str] = []

    @behaviour
    def item_by_item(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(["one", "two", "three", "four", "five"]):
            begun.append(item)
            write(ctx, item)
            if ctx.attempt == 1:
                signal.setitimer(signal.ITIMER_REAL, 0.05, 1)

    assert len(slow_commits.deliver(sample_one, message("item_by_item"))) == 1

    # The alarm was due in the middle of the first commit, and came right after it.
    assert slow_commits.row("it")["error_type"] == "TaskTimeout"
    done = [row[0] for row in slow_commits.run("select key from joblane.task_items order by done_at")]
    assert begun == done == ["one"]
    assert [row[0] for row in slow_commits.run("select what from effects")] == done

    slow_commits.later("it")
    assert slow_commits.deliver(sample_one, message("item_by_item")) == []
    assert slow_commits.row("it")["state"] == "completed"
    assert sorted(row[0] for row in slow_commits.run("select what from effects")) == sorted(
        ["one", "two", "three", "four", "five"]
    )


def test_a_claim_and_a_finish_after_the_time_is_up_are_not_interrupted(world: World) -> None:
    """No time of the invocation is left: the handler is interrupted at once, and the run's end is recorded."""

    @behaviour
    def no_time(payload: Sample, ctx: TaskContext) -> None:
        assert ctx.remaining().total_seconds() == 0
        time.sleep(30)

    world.run(
        "create function slowly() returns trigger language plpgsql as $$begin perform pg_sleep(0.2); return new; end$$"
    )
    world.run("create trigger slow before insert or update on joblane.tasks for each row execute function slowly()")

    assert len(world.deliver(sample_one, message("no_time"), seconds=0)) == 1

    assert (world.row("it")["state"], world.row("it")["error_type"]) == ("retry", "TaskTimeout")


def test_in_another_thread_than_the_main_one_no_alarm_is_set(world: World) -> None:
    @behaviour
    def short(payload: Sample, ctx: TaskContext) -> None:
        time.sleep(0.3)

    thread = threading.Thread(target=world.deliver, args=(sample_one, message("short")), kwargs={"seconds": SOON})
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert world.row("it")["state"] == "completed"
