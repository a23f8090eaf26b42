"""The sweep plans its own runs. A stage with nothing to do sleeps, and nothing waits longer than five minutes for it.

Each fault happens between two steps of a producer, of a run, or of the sweep. Time is virtual, the database is real.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from joblane import Snooze, TaskContext
from joblane.enqueue import follow_up
from joblane.enqueue import wake as wakes
from joblane.enqueue.wake import AFTER_COMMIT, COMMIT_SECONDS, GRID_SECONDS, PLANNED, WOKEN
from joblane.functions.jobs_sweep import handler as sweep_handler
from joblane.local.dev.forked import Collected, recover
from joblane.quotas import MAX_DELAY_SECONDS
from joblane.record.driver.database import Database
from joblane.record.row.conditions import EARLY_SECONDS
from joblane.record.task_types import register_limits
from joblane.sqs.client import Entry
from joblane.sqs.message import Message
from joblane.sweep import next_sweep
from joblane.sweep.next_sweep import NextSweep
from joblane.sweep.sweep import sweep
from joblane.tasks.task import Task
from joblane.worker.of_type import worker_of
from joblane.worker.sweep_worker import SweepWorker
from tests.builders.events import invocation
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, behaviour, sample_keyed, sample_one, sample_sharing, sample_single
from tests.stage_in_time import SWEEP_LANE, Kill, Stage, lane_of, note_time, runs
from tests.stories import Between, Story, play, step, stories
from tests.world import PREFIX

Fault = Callable[[Stage, pytest.MonkeyPatch], None]
LATEST = 300
"""The seconds within which a sweep every five minutes finds anything."""
HOUR = 3600


@pytest.fixture
def stage(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with Stage.open(database_url, monkeypatch, sample_one, sample_keyed, sample_single, sample_sharing) as stage:
        register_limits(stage.database.get(), stage.tasks)
        yield stage


@pytest.fixture
def session(stage: Stage) -> Iterator[Session]:
    engine = create_engine(stage.url.replace("postgresql://", "postgresql+pg8000://"))
    with Session(engine) as made:
        yield made
    engine.dispose()


def kill_once(patch: pytest.MonkeyPatch, module: Any, name: str, *, after: bool = False) -> None:
    """Kill the process at the first call of a function; ``after``: when the call has returned."""
    real, kills = getattr(module, name), [Kill()]

    def killing(*args: Any, **named: Any) -> Any:
        result = real(*args, **named) if after else None
        if kills:
            raise kills.pop()
        return result if after else real(*args, **named)

    patch.setattr(module, name, killing)


# --- Producers -----------------------------------------------------------------------------------------------------


def test_a_busy_stage_sweeps_as_often_as_the_grid(stage: Stage) -> None:
    for second in range(0, 1200, 100):
        stage.enqueue(sample_one, second)
        stage.pass_time(100)
    stage.pass_time(LATEST)
    assert len(stage.starts) <= 1200 / GRID_SECONDS + 1
    gaps = [later - earlier for earlier, later in zip(stage.starts, stage.starts[1:], strict=False)]
    assert max(gaps) <= LATEST


def test_a_producer_that_is_killed_before_its_commit_costs_one_sweep(stage: Stage, session: Session) -> None:
    stage.client.enqueue(sample_one, Sample(do="note_time"), session=session)
    session.rollback()
    stage.pass_time(HOUR)
    assert (len(stage.starts), stage.queues.ids()) == (1, [])


def test_a_transaction_that_is_open_while_the_sweep_runs_is_found_after_it(stage: Stage, session: Session) -> None:
    # given a task in an open transaction, whose process is killed after the commit, and whose wake-up has been
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.client._producer, "send_committed", lambda _: None)
        stage.client.enqueue(sample_one, Sample(do="note_time", number=1), session=session)
        stage.queues.queues[SWEEP_LANE].clear()
        # when sweeps run before the commit
        for _ in range(2):
            sweep_now(stage)
        session.commit()
    # then one that they have planned finds it
    (id_,) = stage.queues.ids()
    assert int(id_.removeprefix(PLANNED)) - stage.clock.seconds() <= LATEST
    stage.pass_time(2 * LATEST)
    assert stage.ran_once() <= LATEST + 60


def sweep_now(stage: Stage) -> None:
    """Run a sweep without a message."""
    following = NextSweep()
    sweep(stage.database.get(), stage.queues, PREFIX, following=following)
    next_sweep.plan(stage.database.get(), stage.queues, PREFIX, following)


def test_only_transactions_that_write_are_open(stage: Stage) -> None:
    with Database(stage.url) as reading, Database(stage.url) as writing, Database(stage.url) as younger:

        def is_due() -> bool:
            found = NextSweep()
            found.begin(stage.database.get())
            return found.is_due

        reading.get().execute_simple("begin isolation level repeatable read")
        reading.get().run("select count(*) from joblane.tasks")
        assert not is_due()
        # a transaction that has ended is younger than the open one, or older
        writing.get().execute_simple("begin")
        writing.get().run("select pg_current_xact_id()")
        assert is_due()
        younger.get().run("select pg_current_xact_id()")
        assert is_due()
        writing.get().execute_simple("rollback")
        assert not is_due()


def test_a_refused_wake_up_is_sent_when_sqs_accepts_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    resume, before = threading.Event(), set(threading.enumerate())
    monkeypatch.setattr("time.sleep", lambda _: resume.wait(PATIENCE_SECONDS))
    monkeypatch.setattr(wakes, "_waker", wakes._Waker())
    # given a commit without wake-up and without send
    stage.queues.refused = (WOKEN,)
    with stage.dying():
        stage.enqueue(sample_one)
    stage.pass_time(HOUR)
    assert (stage.starts, stage.ran(1)) == ([], [])
    # when SQS accepts again, and the process does nothing more
    stage.queues.refused = ()
    resume.set()
    (thread,) = [one for one in threading.enumerate() if one.name == "joblane-wake" and one not in before]
    thread.join(PATIENCE_SECONDS)
    monkeypatch.undo()
    # then the sweep comes
    assert [id_[: len(WOKEN)] for id_ in stage.queues.ids()] == [WOKEN]


@behaviour
def wait_for_an_hour(payload: Sample, ctx: TaskContext) -> None:
    meanwhile.pop()()
    if ctx.attempt == 1 and not runs.get(payload.number):
        note_time(payload, ctx)
        raise Snooze(timedelta(hours=1))
    note_time(payload, ctx)


def test_a_wake_up_that_was_refused_at_a_claim_is_sent_before_the_function_is_frozen(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a message without a row, and SQS that refuses a wake-up at its claim, and accepts the next one
    thawed = threading.Event()
    monkeypatch.setattr("time.sleep", lambda _: thawed.wait(PATIENCE_SECONDS))
    payload = Sample(do="wait_for_an_hour", number=1).model_dump(mode="json")
    stage.queues.send(Entry(lane_of(sample_one), Message(sample_one.type, "mine", payload).encode()))
    stage.queues.refused = (WOKEN,)
    meanwhile[:] = [lambda: None, lambda: setattr(stage.queues, "refused", ())]
    # when the task then waits in its row, and the function is frozen
    stage.pass_time(2 * HOUR)
    thawed.set()
    # then it runs at its time
    assert [round(at, -1) for at in stage.ran(1)] == [0, HOUR]


# --- Waits ---------------------------------------------------------------------------------------------------------


def kill_the_sweep(module: Any, name: str, *, after: bool = False) -> Fault:
    return lambda stage, patch: kill_once(patch, module, name, after=after)


def kill_before_the_write(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    kill_once(patch, stage.queues, "send_many", after=True)


def sweep_twice_at_once(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    """A second function sweeps while the first one does."""
    real = vars(sweep_handler)["sweep"]

    def swept(*args: Any, **named: Any) -> Any:
        patch.setattr(sweep_handler, "sweep", real)
        result = real(*args, **named)
        sweep_now(stage)
        return result

    patch.setattr(sweep_handler, "sweep", swept)


def shift_the_clock(seconds: float) -> Fault:
    """The clock of the functions is ahead of that of the database."""

    def shift(stage: Stage, patch: pytest.MonkeyPatch) -> None:
        stage.queues.now = lambda: stage.clock.seconds() + seconds  # type: ignore[method-assign]

    return shift


def refuse_the_plan(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    stage.queues.refused = (PLANNED,)
    stage.pass_time(30 * 60)
    failed = "select distinct outcome from joblane.runs where task_id like 'jobs:sweep:at:%'"
    assert stage.run(failed) == [["failed"]]
    stage.queues.refused = ()


def refuse_a_hop(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    stage.pass_time(LATEST)
    stage.queues.refused = (PLANNED,)
    stage.pass_time(30 * 60)
    assert len(stage.queues.ids()) == 1
    stage.queues.refused = ()


def purge_the_lane(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    stage.pass_time(5 * HOUR)
    stage.pass_time(2 * HOUR, net=True)
    stage.queues.queues[SWEEP_LANE].clear()
    stage.tick()


FAULTS: dict[str, tuple[int, Fault]] = {
    "none in 16 minutes": (16, lambda stage, patch: None),
    "none in 47 minutes": (47, lambda stage, patch: None),
    "none in five hours": (5 * 60, lambda stage, patch: None),
    "a kill before the plan": (40, kill_the_sweep(sweep_handler, "plan")),
    "a kill before the write": (40, kill_before_the_write),
    "a kill after the write": (40, kill_the_sweep(sweep_handler, "plan", after=True)),
    "a kill at the start of the sweep": (40, kill_the_sweep(sweep_handler, "sweep")),
    "two sweeps at once": (40, sweep_twice_at_once),
    "functions whose clock is behind": (40, shift_the_clock(-90)),
    "functions whose clock is ahead": (40, shift_the_clock(90)),
    "a plan that SQS refuses": (90, refuse_the_plan),
    "a hop that SQS refuses": (2 * 60, refuse_a_hop),
    "a lane that was purged": (8 * 60, purge_the_lane),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_long_wait_ends_at_its_second_whatever_happens_meanwhile(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    minutes, fault = FAULTS[name]
    stage.enqueue(sample_one, process_in=timedelta(minutes=minutes))
    fault(stage, monkeypatch)
    stage.pass_time(minutes * 60 + 30 - stage.now)
    assert -EARLY_SECONDS - 1 < stage.ran_once() - minutes * 60 < 3  # the delays of SQS are whole seconds
    is_quiet = name.startswith("none")
    assert len(stage.starts) <= 2 or not is_quiet, "the first one plans, the second one sends"
    stage.pass_time(HOUR)
    assert len(stage.starts) <= 4 or not is_quiet
    assert stage.queues.ids() == []


def test_a_sweep_in_the_next_minutes_leaves_a_later_one_in_its_lane(stage: Stage) -> None:
    stage.enqueue(sample_one, process_in=timedelta(hours=5))
    stage.pass_time(LATEST)
    (later,) = stage.queues.ids()
    for number in range(3):
        stage.pass_time(-stage.clock.seconds() % GRID_SECONDS + 190)
        with stage.dying():
            stage.enqueue(sample_one, 10 + number)
        stage.pass_time(2 * LATEST)
        assert len(stage.ran(10 + number)) == 1
    assert stage.queues.ids() == [later]


def test_a_planned_sweep_waits_in_hops_without_the_database(stage: Stage) -> None:
    stage.enqueue(sample_one, process_in=timedelta(hours=3))
    stage.pass_time(LATEST)
    (id_,) = stage.queues.ids()
    uses, tasks = stage.database.uses, stage.run("select count(*) from joblane.tasks")
    hops = 0
    for _ in range(10):
        (message,) = stage.queues.queues[SWEEP_LANE].values()
        assert message.entry.delay_seconds <= MAX_DELAY_SECONDS
        stage.pass_time(MAX_DELAY_SECONDS)
        hops += 1
        assert stage.queues.ids() == [id_]
    assert hops == 10
    assert (stage.database.uses, stage.run("select count(*) from joblane.tasks")) == (uses, tasks)


# --- The sweep -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "name"), [(sweep_handler, "sweep"), (SweepWorker, "handle")])
def test_a_killed_sweep_returns_when_its_lease_has_ended(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    # given a sweep that is killed at its start, or before its function has looked at the message
    with stage.dying():
        stage.enqueue(sample_one)
    kill_once(monkeypatch, module, name)
    stage.pass_time(2 * HOUR)
    killed_at = GRID_SECONDS - 1
    hidden = sweep_handler.jobs_sweep.numbers.visibility.total_seconds()
    assert killed_at + hidden - 3 <= stage.ran(1)[0] <= killed_at + hidden + LATEST


@pytest.mark.parametrize("is_fresh", [False, True])
def test_messages_that_arrive_together_start_one_sweep(stage: Stage, is_fresh: bool) -> None:
    # given wake-ups of three processes, and a planned sweep at the same time
    for _ in range(3):
        wakes.wake_after_commit(stage.queues, PREFIX)
        stage.queues.covered.clear()
    target = (round(stage.clock.seconds()) // GRID_SECONDS + 1) * GRID_SECONDS
    stage.queues.send(wakes.planned_entry(PREFIX, target, stage.clock.seconds()))
    assert len(stage.queues.ids()) == 4
    # when one process handles all, or each has a process of its own
    stage.is_fresh = is_fresh
    stage.pass_time(LATEST)
    # then
    assert (len(stage.starts), stage.queues.ids()) == (1, [])


def test_a_sweep_that_has_no_time_left_is_followed_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    real = vars(sweep_handler)["sweep"]

    def hasty(*args: Any, **named: Any) -> Any:
        return real(*args, **named | ({"may_continue": lambda: False} if not stage.starts else {}))

    with stage.dying():
        stage.enqueue(sample_one)
    monkeypatch.setattr(sweep_handler, "sweep", hasty)
    stage.pass_time(LATEST + 60)
    assert len(stage.starts) >= 2
    assert stage.starts[1] - stage.starts[0] <= 31


def test_joblane_dev_plans_anew_as_its_queues_were_lost(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Collected, "now", lambda _: stage.clock.seconds())
    stage.enqueue(sample_one, process_in=timedelta(hours=3))
    stage.pass_time(LATEST)
    (planned,) = stage.queues.ids()
    stage.queues.queues[SWEEP_LANE].clear()
    stage.age()
    for entry in recover(stage.database.get(), PREFIX):
        stage.queues.send(entry)
    assert stage.queues.ids() == [planned]


# --- Pauses, limits, leases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_refused", [False, True])
def test_the_end_of_a_limit_change_starts_what_waits_for_it(stage: Stage, is_refused: bool) -> None:
    ends = HOUR + 100
    until = datetime.now(UTC) + timedelta(seconds=ends)
    stage.client.limits.set(sample_single.type, max_total=0, until=until)
    id_ = stage.enqueue(sample_single)
    stage.pass_time(ends - 1)
    if is_refused:  # the message of the task that may start
        stage.queues.refused = (id_,)
        stage.pass_time(GRID_SECONDS + 2)
        stage.queues.refused = ()
    stage.pass_time(2 * LATEST)
    assert 0 <= stage.ran_once() - ends <= LATEST * (1 + is_refused)


def test_a_held_task_starts_although_the_process_that_freed_its_slot_died(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a task that waits for the slot of another one, whose process dies between its commit and the next start
    stage.enqueue(sample_single, payload=Sample(do="die_with_the_slot", number=1))
    stage.enqueue(sample_single, 2)
    meanwhile.append(lambda: claim_the_other(stage, monkeypatch))
    stage.pass_time(1)
    assert [stage.ran(1), stage.ran(2)] != [[], []]
    states = stage.run("select state from joblane.tasks where type = $1 order by created_at", sample_single.type)
    assert states == [["completed"], ["held"]]
    # then the sweep starts it
    stage.pass_time(LATEST + 60)
    assert len(stage.ran(2)) == 1


meanwhile: list[Any] = []
"""Functions that the running task calls."""


@behaviour
def die_with_the_slot(payload: Sample, ctx: TaskContext) -> None:
    note_time(payload, ctx)
    meanwhile.pop()()


def claim_the_other(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    claim_second(stage, sample_single)
    kill_once(patch, follow_up, "serve_in_steps")


# --- Turns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_hidden", [True, False], ids=["hidden", "lost among others"])
@pytest.mark.parametrize(("task", "after"), [(sample_keyed, 0), (sample_single, 119), (sample_sharing, 193)])
def test_a_turn_whose_message_does_not_arrive_gets_another_within_seven_minutes(
    stage: Stage, task: Task[Any, Any], after: int, is_hidden: bool
) -> None:
    # given a task that gets the slot of another one, whose key is the same
    stage.run("update joblane.limits set slots = 1")
    lane = lane_of(task)
    stage.travel(after)
    key: Any = {"key": "7"} if task is sample_keyed else {}
    first = stage.enqueue(task, payload=Sample(do="die_with_the_slot", number=1), **key)
    second = stage.enqueue(task, 2, **key)
    meanwhile.append(lambda: claim_second(stage, task))
    stage.deliver(lane)
    states = dict(stage.run("select id, state from joblane.tasks where type = $1", task.type))
    assert states == {first: "completed", second: "pending"}
    turn_at = stage.now
    # when its message stays invisible, or is lost while the lane holds another message
    hidden = stage.queues.receive(lane, 1, 3 * HOUR, 10)
    assert len(hidden) == 1
    if not is_hidden:
        stage.queues.delete(hidden[0])
        stage.queues.send(Entry(lane, Message(task.type, "other", {}).encode(), delay_seconds=900))
    stage.pass_time(7 * 60)
    # then it gets a second message, and runs once, even if the first one comes later
    assert 60 < stage.ran_once(2) - turn_at <= 7 * 60
    stage.pass_time(4 * HOUR)
    assert len(stage.ran(2)) == 1
    assert stage.queues.ids(lane) == []


def claim_second(stage: Stage, task: Task[Any, Any]) -> None:
    with Database(stage.url) as other:
        (message,) = stage.queues.receive(lane_of(task), 1, 60, 10)
        worker_of(task, other, stage.queues, PREFIX).handle([message.received()], invocation())
        stage.queues.delete(message)


# --- Clocks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [-100, 100])
def test_the_clock_of_a_producer_may_be_wrong(stage: Stage, ahead: int) -> None:
    # given a producer with another clock, and one whose clock is right
    wrong = copy.copy(stage.queues)
    wrong.now = lambda: stage.clock.seconds() + ahead  # type: ignore[method-assign]
    wrong.covered = {}  # type: ignore[misc]
    for number, after in enumerate((100, 193, 238)):
        stage.pass_time(-stage.clock.seconds() % GRID_SECONDS)
        stage.travel(after)
        wakes.wake_after_commit(stage.queues, PREFIX)
        # when it dies between its commit and its send
        stage.client._producer.sqs = wrong
        with stage.dying():
            stage.enqueue(sample_one, number)
        committed = stage.now
        # then its task is found as early as that of any other
        stage.pass_time(2 * LATEST)
        (ran,) = stage.ran(number)
        assert ran - committed <= LATEST + 60


@pytest.mark.parametrize("is_fresh", [False, True])
@pytest.mark.parametrize("behind", [14, 29])
def test_a_write_may_come_30_seconds_after_the_check_of_its_wake_up(stage: Stage, behind: int, is_fresh: bool) -> None:
    # given wake-ups of two processes, of which the second has a clock that is behind, so that its wake-up comes later
    stage.is_fresh = is_fresh
    wrong = copy.copy(stage.queues)
    wrong.now = lambda: stage.clock.seconds() - behind  # type: ignore[method-assign]
    wrong.covered = {}  # type: ignore[misc]
    wakes.wake_after_commit(stage.queues, PREFIX)
    wakes.wake_after_commit(wrong, PREFIX)
    # when the second one checks at the last moment, has to wait for the database, and dies after its commit
    while wakes.is_covered(wrong, PREFIX):
        stage.pass_time(1)
    stage.pass_time(COMMIT_SECONDS - 2)
    wrong.covered[PREFIX] = (float("inf"), float("inf"))
    stage.client._producer.sqs = wrong
    with stage.dying():
        stage.enqueue(sample_one)
    committed = stage.now
    # then its task is found as early as that of any other
    stage.pass_time(2 * LATEST)
    assert stage.ran_once() - committed <= LATEST + 60


def test_a_stage_whose_sweep_runs_often_plans_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBLANE_SWEEP_MINUTES", "5")
    stage.enqueue(sample_one, process_in=timedelta(hours=1))
    stage.tick()
    stage.pass_time(10)
    assert (len(stage.starts), stage.queues.ids()) == (1, [])


# --- Stories -------------------------------------------------------------------------------------------------------


@behaviour
def die_at_first_time(payload: Sample, ctx: TaskContext) -> None:
    if ctx.attempt == 1:
        raise Kill
    note_time(payload, ctx)


@step
def starts(stage: Stage) -> int:
    return len(stage.starts)


@step
def waiting(stage: Stage) -> list[str]:
    """Return the kinds of the messages in the lane of the sweep."""
    return [id_.rpartition(":")[0] for id_ in stage.queues.ids()]


@step
def ran(stage: Stage, number: int = 1) -> list[float]:
    """Return the times at which a task ran, in seconds."""
    return stage.ran(number)


@step
def without_send(stage: Stage) -> None:
    """Enqueue a task in a process that dies after its commit."""
    with stage.dying():
        stage.enqueue(sample_one)


@step
def lose_messages(stage: Stage, number: int = 1) -> None:
    assert len(stage.queues.queues[lane_of(sample_one)]) == number
    stage.queues.queues[lane_of(sample_one)].clear()


@step
def uses_of_the_database(stage: Stage) -> int:
    return stage.database.uses


enqueue, sql, pass_time = step(Stage.enqueue), step(Stage.run), step(Stage.pass_time)
PAUSE = "insert into joblane.pauses (scope, name, until) values ($1, $2, clock_timestamp() + $3::interval)"
LEASE = sample_one.numbers.function_timeout.total_seconds() + 20
STORIES: dict[str, Story] = {
    "a quiet stage sweeps once and leaves no message": [
        # given a task that runs at once
        enqueue(sample_one),
        waiting().gives([AFTER_COMMIT[:-1]]),
        pass_time(LATEST),
        ran().gives([Between(0, LATEST)]),
        # then one sweep has come, and nothing keeps the database awake after it
        starts().gives(1),
        waiting().gives([]),
        sql("select from joblane.stage where planned_sweep_at > clock_timestamp()").gives([]),
        lambda stage: setattr(stage.database, "uses", 0),
        pass_time(24 * HOUR),
        starts().gives(1),
        uses_of_the_database().gives(0),
    ],
    "the scheduled sweep of a quiet stage plans nothing": [
        pass_time(24 * HOUR, net=True),
        starts().gives(4),
        waiting().gives([]),
    ],
    "a commit right after a sweep gets another one": [
        lambda stage: wakes.wake_after_commit(stage.queues, PREFIX),
        pass_time(GRID_SECONDS),
        starts().gives(1),
        without_send(),
        pass_time(2 * LATEST),
        ran().gives([Between(0, GRID_SECONDS + LATEST + 60)]),
    ],
    **{
        f"a commit without its send is found within five minutes: {after} s": [
            step(Stage.travel)(after),
            without_send(),
            pass_time(2 * LATEST),
            # its message may be on its way for a minute
            ran().gives([Between(after + 30, after + LATEST + 60)]),
        ]
        for after in (0, 193, 195, 238)
    },
    "a message that is lost after the sweep has sent it is sent again": [
        enqueue(sample_one, process_in=timedelta(minutes=40)),
        pass_time(39 * 60),
        lose_messages(),
        pass_time(10 * 60),
        ran().gives([Between(0, 40 * 60 + LATEST + 60)]),
    ],
    "a wait of three days ends at its second": [
        enqueue(sample_one, process_in=timedelta(days=3)),
        pass_time(3 * 24 * HOUR + 60, net=True),
        ran().gives([Between(3 * 24 * HOUR, 3 * 24 * HOUR + 3)]),
        starts().gives(Between(0, 1 + 12 + 4)),
    ],
    "an earlier wait is planned before a later one and each has one message": [
        enqueue(sample_one, 1, process_in=timedelta(hours=5)),
        pass_time(LATEST),
        enqueue(sample_one, 2, process_in=timedelta(hours=3)),
        pass_time(LATEST),
        waiting().gives_some(2),
        # bursts, each with a sweep of its own
        *(one for number in range(10, 14) for one in (enqueue(sample_one, number), pass_time(LATEST))),
        waiting().gives_some(2),
        pass_time(5 * HOUR),
        ran(2).gives([pytest.approx(LATEST + 3 * HOUR, abs=3)]),
        ran(1).gives([pytest.approx(5 * HOUR, abs=3)]),
    ],
    "the end of a pause starts what waits for it": [
        sql(PAUSE, "type", sample_one.type, f"{2 * HOUR + 100} s"),
        enqueue(sample_one),
        pass_time(3 * HOUR),
        ran().gives([Between(2 * HOUR + 100, 2 * HOUR + 100 + LATEST)]),
        starts().gives(Between(0, 5)),
    ],
    "the end of a pause for which nothing waits wakes nobody": [
        sql(PAUSE, "queue", "low", "2 hours"),
        enqueue(sample_one),
        pass_time(4 * HOUR),
        starts().gives(1),
    ],
    "a lost run is found after its lease": [
        enqueue(sample_one, payload=Sample(do="die_at_first_time", number=1)),
        pass_time(1),
        lose_messages(),
        pass_time(HOUR),
        ran().gives([Between(0, LEASE + LATEST + 60)]),
    ],
}


@stories(STORIES)
def test_story(stage: Stage, story: Story) -> None:
    play(stage, story)
