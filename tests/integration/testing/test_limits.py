"""The kit with limits: they hold as in production, and a test changes and checks them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from joblane import Limit, Payload, Rate, TaskContext, task
from joblane.record.row.states import State
from joblane.testing import JobTester

SERVICE = Limit("service", total=1)
MINUTE = timedelta(minutes=1)


class Account(Payload):
    id: int = 7


@task("account:sync", key="id", max_per_key=1, limit=SERVICE)
def account_sync(payload: Account, ctx: TaskContext) -> None:
    pass


@task("account:mail", rate=Rate(1, per=MINUTE))
def account_mail(payload: Account, ctx: TaskContext) -> None:
    pass


def test_a_task_is_held_while_its_limit_is_0_and_runs_when_it_is_raised(jobs: JobTester) -> None:
    jobs.register(account_sync)
    jobs.limits.set("service", total=0)
    jobs.enqueue(account_sync, Account(), task_id="a")
    jobs.enqueue(account_sync, Account(id=8), task_id="b")
    jobs.drain()
    assert [one.id for one in jobs.assert_held(account_sync, by="service")] == ["a", "b"]
    jobs.limits.reset("service")
    jobs.drain()
    assert [jobs.task(id_).state for id_ in "ab"] == [State.COMPLETED, State.COMPLETED]


def test_a_wrong_or_missing_limit_fails_the_check(jobs: JobTester) -> None:
    jobs.enqueue(account_sync, Account(), task_id="a")
    with pytest.raises(AssertionError, match="no task 'account:sync' is held; limits and tasks that hold some: none"):
        jobs.assert_held("account:sync")
    jobs.limits.set("account:sync", key="7", max_per_key=0)
    jobs.drain()
    jobs.assert_held(account_sync, by="account:sync/7")
    with pytest.raises(AssertionError, match="held by 'service'; limits and tasks that hold some: account:sync/7"):
        jobs.assert_held(account_sync, by="service")


def test_a_change_ends_in_the_time_of_the_test(jobs: JobTester) -> None:
    jobs.enqueue(account_sync, Account(), task_id="a")
    jobs.limits.set("account:sync", max_per_key=0, until=datetime.now(UTC) + timedelta(hours=2))
    jobs.drain(within=timedelta(hours=1))
    assert jobs.task("a").state is State.HELD
    jobs.drain(within=timedelta(hours=2))
    assert jobs.task("a").state is State.COMPLETED


def test_a_rate_spaces_starts_in_the_time_of_the_test(jobs: JobTester) -> None:
    for number in range(4):
        jobs.enqueue(account_mail, Account(), task_id=str(number))
    before = jobs.now
    assert len(jobs.drain()) == 1
    assert [jobs.task(str(number)).state for number in range(4)] == [State.COMPLETED, *[State.PENDING] * 3]
    jobs.drain(within=timedelta(minutes=5))
    assert {jobs.task(str(number)).state for number in range(4)} == {State.COMPLETED}
    assert jobs.now - before >= 3 * MINUTE - timedelta(seconds=1)


def test_a_change_starts_waiting_tasks_and_runs_no_sweep(jobs: JobTester) -> None:
    jobs.register(account_sync)
    jobs.limits.set("service", total=0)
    jobs.enqueue(account_sync, Account(), task_id="a")
    assert len(jobs.drain()) == 0
    jobs.limits.reset("service")
    assert jobs.task("a").state is State.PENDING
    assert jobs.drain().check().only.id == "a"


def test_tasks_with_earlier_times_by_a_new_rate_run(jobs: JobTester) -> None:
    jobs.register(account_mail)
    jobs.limits.set("account:mail", rate=Rate(1, per=timedelta(hours=1)))
    for number in range(2):
        jobs.enqueue(account_mail, Account(), task_id=str(number))
    jobs.drain()
    jobs.limits.set("account:mail", rate=Rate(10, per=timedelta(seconds=1), burst=10))
    assert jobs.drain(within=timedelta(seconds=1)).check().only.id == "1"
