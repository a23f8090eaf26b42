"""The faults that a test can cause happen through the real code."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from joblane import State, TaskContext, task
from joblane.handler.steps import key_of
from joblane.testing import CrashedError, JobTester
from tests.integration.testing.conftest import Effects
from tests.integration.testing.samples import (
    Order,
    order_chunks,
    order_fail,
    order_mail,
    order_parts,
    order_pay,
    order_quiet,
    order_ship,
)

LONG = timedelta(hours=1)


@pytest.mark.parametrize("while_running", [False, True])
def test_a_message_that_is_delivered_twice_runs_once(while_running: bool, jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_mail, Order(number=1))
    with jobs.duplicate(while_running=while_running) as fault:
        ran = jobs.drain().check().only
    assert fault.happened == 1
    assert (ran.attempts, ran.outcomes) == (1, ("completed",))
    assert effects() == ["mailed 1"]


def test_a_duplicate_of_a_failed_attempt_uses_no_attempt(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_fail, Order(number=1))
    with jobs.duplicate(order_fail):
        assert jobs.drain().only.attempts == 1
    assert jobs.drain(within=LONG).check().only.attempts == 2


def test_a_crash_before_the_commit_loses_the_work_and_the_task_runs_again(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_ship, Order(number=1))
    with jobs.crash_before_commit(order_ship):
        ran = jobs.drain()
    assert (ran.only.state, ran.only.attempts, ran.killed) == (State.ACTIVE, 1, 1)
    assert effects() == []
    jobs.assert_enqueued(order_mail, count=0)
    shipped = jobs.drain(within=LONG).check().of(order_ship)[0]
    assert (shipped.attempts, shipped.outcomes) == (2, ("lost", "completed"))
    assert effects() == ["shipped 1", "mailed 1"]


def test_a_crash_after_the_commit_does_nothing_twice(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_ship, Order(number=1))
    with jobs.crash_after_commit(order_ship):
        ran = jobs.drain()
    assert (ran[0].state, ran.killed) == (State.COMPLETED, 1)
    again = jobs.drain(within=LONG)
    assert again.of(order_ship)[0].runs == 1
    assert effects() == ["shipped 1", "mailed 1"]


@pytest.mark.parametrize("before", [True, False])
def test_a_task_that_leaves_the_database_alone_crashes_too(before: bool, jobs: JobTester) -> None:
    jobs.enqueue(order_quiet, Order(number=1))
    with jobs.crash_before_commit() if before else jobs.crash_after_commit():
        assert jobs.drain().only.state is (State.ACTIVE if before else State.COMPLETED)
    assert jobs.drain(within=LONG).check().only.runs == (2 if before else 1)


def test_the_end_of_a_failed_run_is_a_commit_as_well(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_fail, Order(number=1))
    with jobs.crash_before_commit():
        assert jobs.drain().only.state is State.ACTIVE
    assert jobs.drain(within=LONG).check().only.outcomes == ("lost", "completed")


def test_run_raises_if_the_process_was_killed(jobs: JobTester, effects: Effects) -> None:
    with jobs.crash_before_commit(), pytest.raises(CrashedError, match="killed: order:mail one is active after 1 of 6"):
        jobs.run(order_mail, Order(number=1), task_id="one")
    jobs.drain(within=LONG).check()
    assert effects() == ["mailed 1"]


def test_attempts_that_are_lost_count(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_mail, Order(number=1), max_retry=1)
    with jobs.crash_before_commit(times=2) as fault:
        ran = jobs.drain(within=LONG).only
    assert fault.happened == 2
    assert (ran.state, ran.attempts, ran.error_type) == (State.ARCHIVED, 2, "Lost")


PARTS = [f"part {part}" for part in range(6)]
PAID = [key_of("mine", "pay"), "mail: paid 1"]


@pytest.mark.parametrize(
    ("loops", "number", "commit", "before", "kept", "done"),
    [
        (order_parts, 6, 3, True, 2, PARTS),
        (order_parts, 6, 3, False, 3, PARTS),
        (order_pay, 1, 1, True, 0, PAID),
        (order_pay, 1, 1, False, 1, PAID),
        (order_chunks, 6, 2, True, 2, PARTS),
    ],
    ids=["before an item", "after an item", "before a step", "after a step", "before a chunk"],
)
def test_a_crash_at_one_commit_does_that_part_again_at_most(
    loops: Any, number: int, commit: int, before: bool, kept: int, done: list[str], jobs: JobTester, effects: Effects
) -> None:
    jobs.enqueue(loops, Order(number=number), task_id="mine")
    crash = jobs.crash_before_commit if before else jobs.crash_after_commit
    with crash(loops, commit=commit):
        jobs.drain()
    assert effects() == done[:kept]
    ran = jobs.drain(within=timedelta(hours=3)).check()
    assert effects() == done
    assert loops is not order_pay or ran.only.result == ["paid 1", None]


def test_a_step_is_cancelled_before_its_call(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_pay, Order(number=1), task_id="mine")
    with jobs.cancel_at_check(order_pay):
        assert jobs.drain().only.state is State.CANCELLED
    assert effects() == []


def test_a_function_that_a_test_calls_has_steps(jobs: JobTester, effects: Effects) -> None:
    with jobs.context(order_pay, Order(number=7)) as ctx:
        assert order_pay(Order(number=7), ctx) == ["paid 7", None]
    assert effects() == [key_of(ctx.task_id, "pay"), "mail: paid 7"]


def test_a_process_that_stood_still_writes_nothing(jobs: JobTester, effects: Effects) -> None:
    seen: list[int] = []

    @task("order:call", max_retry=1)
    def order_call(payload: Order, ctx: TaskContext) -> str:
        seen.append(ctx.attempt)
        ctx.session.execute(text("insert into effects (what) values (:what)"), {"what": f"attempt {ctx.attempt}"})
        return ctx.idempotency_key

    jobs.enqueue(order_call, Order(number=1), task_id="mine")
    with jobs.late_acknowledgement():
        ran = jobs.drain().check().only
    assert seen == [2, 1]  # the second process is done when the first one wakes up
    assert effects() == ["attempt 2"]
    assert (ran.result, ran.outcomes) == ("mine", ("lost", "completed"))
    jobs.drain(within=LONG)
    assert effects() == ["attempt 2"]


def test_a_fault_is_for_the_type_it_names(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_ship, Order(number=1))
    with jobs.crash_before_commit(order_mail) as fault:
        jobs.drain()
        assert fault.happened == 1
    assert effects() == ["shipped 1"]
    jobs.drain(within=LONG).check()
    assert effects() == ["shipped 1", "mailed 1"]


def test_a_fault_without_an_occasion_fails_the_test(jobs: JobTester) -> None:
    none = "late acknowledgement: it happened 0 of 1 times inside the block, to a run of any task"
    with pytest.raises(AssertionError, match=none), jobs.late_acknowledgement():
        jobs.drain()
    other = "crash after commit: it happened 0 of 1 times inside the block, to a run of order:ship"
    with pytest.raises(AssertionError, match=other), jobs.crash_after_commit(order_ship):
        jobs.run(order_quiet, Order(number=1))
    jobs.enqueue(order_quiet, Order(number=1))
    fewer = "duplicate: it happened 1 of 2 times inside the block, to a run of order:quiet"
    with pytest.raises(AssertionError, match=fewer), jobs.duplicate(order_quiet, times=2):
        jobs.drain()
    with pytest.raises(ZeroDivisionError), jobs.duplicate():  # and does not hide another failure
        _ = 1 / 0
    with pytest.raises(ValueError, match="numbers from 1"), jobs.duplicate(times=0):
        pass


def test_a_crash_leaves_no_thread_or_lock_behind(jobs: JobTester, effects: Effects) -> None:
    before = threading.active_count()
    jobs.enqueue(order_ship, Order(number=1))
    with jobs.crash_before_commit():
        jobs.drain()
    with jobs.session() as session:
        session.execute(text("set local lock_timeout = '2s'"))
        session.execute(text("lock table effects in access exclusive mode"))
    assert threading.active_count() == before


@task("order:watch")
def order_watch(payload: Order, ctx: TaskContext) -> None:
    for number in range(payload.number):
        ctx.check()
        ctx.progress(number, payload.number)
        SEEN.append(number)


SEEN: list[int] = []


def test_a_task_is_cancelled_at_the_check_that_a_test_names(jobs: JobTester) -> None:
    # when at the progress of the second step
    SEEN.clear()
    first, second = (jobs.enqueue(order_watch, Order(number=3)).id for _ in range(2))
    with jobs.cancel_at_check(order_watch, check=4) as fault:
        jobs.drain()
    # then one run ends there, and the other one is not concerned
    assert (jobs.task(first).state, jobs.task(second).state) == (State.CANCELLED, State.COMPLETED)
    assert (SEEN, fault.happened) == ([0, 0, 1, 2], 1)
    # and a run with fewer checks fails the test
    jobs.enqueue(order_watch, Order(number=1))
    with (
        pytest.raises(AssertionError, match="cancel at check: it happened 0 of 1 times"),
        jobs.cancel_at_check(check=4),
    ):
        jobs.drain()
