"""Children for which a task waits, in virtual time: results, ends, refusals, and what surrounds them."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane import Grants, Job, Lambda, Payload, RevokeTask, SkipRetry, State, TaskContext, task
from joblane.errors import ChildFailed, DuplicateTaskError
from joblane.testing import JobTester

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
calls: Counter[str] = Counter()
broken: set[int] = set()
"""The days whose tasks end without success."""


class Days(Payload):
    days: tuple[int, ...] = (1, 2, 3)
    key: str = "a"
    then: int = 0


class Day(Payload):
    day: int
    key: str = "a"


@task("day:sum", max_retry=1, retry_delay=MINUTE, batch_size=10, retention=timedelta(0))
def day_sum(payload: Day, ctx: TaskContext) -> int:
    calls[f"day {payload.day}"] += 1
    if payload.day in broken:
        raise (RevokeTask if payload.day % 2 else SkipRetry)("it is broken")
    if payload.day == 100 and ctx.attempt == 1:
        raise ValueError("a first attempt fails")
    if payload.day >= 1000:
        ctx.sleep("a while", timedelta(days=payload.day - 1000))
    return payload.day


def gathered(payload: Days) -> list[Job]:
    return [Job(day_sum, Day(day=day)) for day in payload.days]


@task("month:sum", max_retry=1, retry_delay=MINUTE, grants=Grants(run=("day:sum",)))
def month_sum(payload: Days, ctx: TaskContext) -> int:
    calls["run"] += 1
    total: int = sum(ctx.gather("days", gathered(payload)))
    if payload.then and calls["run"] == payload.then:
        raise ValueError("the run after the children fails")
    return total


@task("month:async", max_retry=0, grants=Grants(run=("day:sum",)))
async def month_async(payload: Days, ctx: TaskContext) -> list[Any]:
    first = await ctx.arun("first", day_sum, Day(day=payload.days[0]), tags=["first"])
    try:
        return [first, *await ctx.agather("others", gathered(payload)[1:])]
    except ChildFailed as error:
        await ctx.asleep("a while", HOUR)
        return [first, sorted(error.ends.values())]


@task("month:careful", max_retry=0, grants=Grants(run=("day:sum",)))
def month_careful(payload: Days, ctx: TaskContext) -> Any:
    """It continues without the results of children that did not complete."""
    try:
        return ctx.gather("days", gathered(payload))
    except ChildFailed as error:
        ctx.sleep("a while", HOUR)
        return error.ends


@task("month:ordered", key="key", max_per_key=1, order="first-due", max_retry=0, grants=Grants(run=("day:limited",)))
def month_ordered(payload: Days, ctx: TaskContext) -> Any:
    calls[f"start {payload.then}"] += 1
    days = [Job(day_limited, Day(day=day)) for day in payload.days]
    found = ctx.gather("days", days) if days else None
    calls[f"end {payload.then}"] += 1
    return found


@task("day:limited", max_total=1, max_retry=0)
def day_limited(payload: Day, ctx: TaskContext) -> int:
    return payload.day


@task("month:deep", max_total=1, max_retry=0)
def month_deep(payload: Days, ctx: TaskContext) -> int:
    """It waits for tasks of its own type, one level after the other, with one slot for all of them."""
    if not payload.then:
        return 1
    return 1 + int(ctx.run("below", month_deep, Days(then=payload.then - 1)))


FAMILY = Lambda("family", batch_size=10)


@task("family:part", runs_on=FAMILY, max_retry=0)
def family_part(payload: Day, ctx: TaskContext) -> int:
    return payload.day


@task("family:whole", runs_on=FAMILY, max_retry=0, grants=Grants(run=("family:part",)))
def family_whole(payload: Days, ctx: TaskContext) -> int:
    return sum(ctx.gather("parts", [Job(family_part, Day(day=day)) for day in payload.days]))


@task("month:turns", max_retry=0, grants=Grants(run=("day:sum",)))
def month_turns(payload: Days, ctx: TaskContext) -> list[int]:
    return [ctx.run(f"day {day}", day_sum, Day(day=day)) for day in payload.days]


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()
    broken.clear()


def ids(jobs: JobTester, task_id: str = "t") -> list[str]:
    """Return the ids of the children of a task, in the order of its jobs."""
    with jobs.session() as session:
        rows = session.connection().exec_driver_sql(
            f"select unnest(children) from joblane.task_waits where task_id = '{task_id}' and children is not null"
        )
        return [id_ for (id_,) in rows]


# --- Results -------------------------------------------------------------------------------------------------------


def test_a_task_gets_the_results_of_its_children_in_order(jobs: JobTester) -> None:
    jobs.enqueue(month_sum, Days(days=(3, 100, 1)), task_id="t")
    report = jobs.drain(within=2 * MINUTE).check()
    assert (jobs.task("t").result, jobs.task("t").outcomes) == (104, ("waiting", "completed"))
    assert calls == {"run": 2, "day 3": 1, "day 100": 2, "day 1": 1}
    [released] = report.released
    assert (released.id, released.parents) == ("t", (ids(jobs)[1],))  # the child that needed a retry
    assert jobs.task("t").attempts == 1


def test_without_a_job_nothing_waits(jobs: JobTester) -> None:
    jobs.enqueue(month_sum, Days(days=()), task_id="t")
    jobs.drain().check()
    assert (jobs.task("t").result, jobs.task("t").runs) == (0, 1)


def test_coroutines_run_and_gather(jobs: JobTester) -> None:
    jobs.enqueue(month_async, Days(days=(5, 6, 7)), task_id="t")
    jobs.drain().check()
    assert (jobs.task("t").result, jobs.task("t").runs) == ([5, 6, 7], 3)
    broken.update((6, 7))
    jobs.enqueue(month_async, Days(days=(5, 6, 7)), task_id="u")
    jobs.drain(within=2 * HOUR)
    assert (jobs.task("u").state, jobs.task("u").result) == (State.COMPLETED, [5, ["archived", "cancelled"]])


def test_results_are_remembered_when_they_are_read(jobs: JobTester) -> None:
    jobs.enqueue(month_sum, Days(days=(1, 2), then=2), task_id="t")
    jobs.drain()
    assert jobs.task("t").outcomes == ("waiting", "failed")
    with jobs.session() as session:
        session.connection().exec_driver_sql("update joblane.tasks set result = null where type = 'day:sum'")
    jobs.drain(within=HOUR)
    assert jobs.task("t").result == 3
    assert calls["day 1"] == 1


def test_a_child_keeps_its_result_until_the_last_one_has_ended(jobs: JobTester) -> None:
    jobs.enqueue(month_sum, Days(days=(1, 1020)), task_id="t")
    jobs.drain(within=21 * DAY).check()
    assert jobs.task("t").result == 1021


def test_the_sweep_sends_the_messages_of_very_many_children(jobs: JobTester) -> None:
    jobs.enqueue(month_sum, Days(days=(1,) * 250), task_id="t")
    jobs.drain(within=10 * MINUTE).check()
    assert (jobs.task("t").result, jobs.task("t").runs) == (250, 2)


def test_children_in_turn_make_no_long_chain(jobs: JobTester) -> None:
    """Lambda stops a function after 16 invocations in one chain."""
    jobs.enqueue(month_turns, Days(days=tuple(range(20))), task_id="t")
    assert jobs.drain().check().invocations == 41
    assert jobs.task("t").result == [*range(20)]


def test_a_task_frees_its_slots_for_its_children_of_the_same_limit(jobs: JobTester) -> None:
    jobs.enqueue(month_deep, Days(then=5), task_id="t")
    jobs.drain().check()
    assert jobs.task("t").result == 6


# --- Ends ----------------------------------------------------------------------------------------------------------


def test_children_that_did_not_complete_archive_the_task_once_all_have_ended(jobs: JobTester) -> None:
    broken.update((1, 2))
    jobs.enqueue(month_sum, Days(days=(1, 2, 1002)), task_id="t")
    jobs.drain(within=DAY)
    jobs.assert_waiting(month_sum)
    jobs.drain(within=2 * DAY)
    first, second, _ = ids(jobs)
    found = jobs.task("t")
    assert (found.state, found.error_type, found.runs) == (State.ARCHIVED, ChildFailed.__name__, 2)
    assert f"not all children have completed: {first} was cancelled, {second} was archived; retry" in str(found.reason)
    broken.clear()
    jobs.redrive(day_sum)
    jobs.redrive(month_sum)
    jobs.drain(within=HOUR)
    assert f"not all children have completed: {first} was cancelled; retry them" in str(jobs.task("t").reason)


def test_a_redriven_child_completes_and_the_redriven_task_gets_its_result(jobs: JobTester) -> None:
    broken.add(2)
    jobs.enqueue(month_sum, Days(days=(1, 2)), task_id="t")
    jobs.drain()
    broken.clear()
    jobs.redrive(month_sum)
    jobs.drain()
    assert jobs.task("t").state is State.ARCHIVED
    jobs.redrive(day_sum)
    jobs.drain()
    jobs.redrive(month_sum)
    jobs.drain()
    assert (jobs.task("t").state, jobs.task("t").result, calls["day 1"]) == (State.COMPLETED, 3, 1)


def test_a_failure_that_is_caught_is_remembered(jobs: JobTester) -> None:
    broken.add(2)
    jobs.enqueue(month_careful, Days(days=(1, 2)), task_id="t")
    jobs.drain()
    broken.clear()
    jobs.redrive(day_sum)
    jobs.drain(within=2 * HOUR)
    child = ids(jobs)[1]
    assert jobs.task(child).state is State.COMPLETED
    assert jobs.task("t").result == {child: "archived"}


def test_a_cancelled_task_leaves_its_children_and_a_cancelled_child_ends_its_wait(jobs: JobTester) -> None:
    for id_ in ("t", "u"):
        jobs.enqueue(month_careful, Days(days=(1001, 1)), task_id=id_)
    jobs.drain()
    assert jobs.client.cancel("t") is State.CANCELLED
    left, long = ids(jobs, "t")[0], ids(jobs, "u")[0]
    assert jobs.client.cancel(long) is State.CANCELLED
    jobs.drain(within=2 * DAY)
    assert jobs.task(left).state is State.COMPLETED
    assert jobs.task("t").state is State.CANCELLED
    assert jobs.task("u").result == {long: "cancelled"}


def test_a_deadline_of_a_child_ends_its_wait_and_that_of_the_task_ends_the_task(jobs: JobTester) -> None:
    jobs.enqueue(month_sum, Days(days=(1009,)), task_id="t", deadline=datetime.now(UTC) + DAY)
    jobs.drain(within=2 * DAY)
    assert (jobs.task("t").state, jobs.task("t").error_type) == (State.ARCHIVED, "DeadlinePassed")
    assert jobs.task(ids(jobs)[0]).state is State.SCHEDULED


# --- With everything else ------------------------------------------------------------------------------------------


def test_an_ordered_task_keeps_its_key_while_its_children_run_even_in_a_pause(jobs: JobTester) -> None:
    jobs.enqueue(month_ordered, Days(then=1))
    jobs.enqueue(month_ordered, Days(days=(), then=2))
    with jobs.session() as session:
        session.connection().exec_driver_sql("insert into joblane.pauses (scope, name) values ('type', 'day:limited')")
    jobs.drain(within=10 * MINUTE)
    with jobs.session() as session:
        session.connection().exec_driver_sql(
            "insert into joblane.pauses (scope, name) values ('type', 'month:ordered')"
        )
    jobs.drain(within=30 * MINUTE)
    with jobs.session() as session:
        session.connection().exec_driver_sql("delete from joblane.pauses where name = 'month:ordered'")
    jobs.drain(within=30 * MINUTE)
    assert list(calls) == ["start 1"]
    with jobs.session() as session:
        session.connection().exec_driver_sql("delete from joblane.pauses")
    jobs.drain(within=30 * MINUTE).check()
    assert list(calls) == ["start 1", "end 1", "start 2", "end 2"]


def test_types_of_one_function_wait_for_each_other(jobs: JobTester) -> None:
    for number in range(3):
        jobs.enqueue(family_whole, Days(days=(1, 2, number)), task_id=f"t{number}")
    jobs.drain().check()
    assert [jobs.task(f"t{number}").result for number in range(3)] == [3, 4, 5]


def test_each_task_has_children_of_its_own(jobs: JobTester) -> None:
    jobs.enqueue(month_sum, Days(days=(1,)), task_id="t")
    jobs.enqueue(month_sum, Days(days=(1,)), task_id="u")
    jobs.drain().check()
    assert ids(jobs, "t") != ids(jobs, "u")
    assert calls["day 1"] == 2


def test_a_stop_for_children_is_a_commit_for_the_faults(jobs: JobTester) -> None:
    jobs.enqueue(month_sum, Days(days=(1,)), task_id="t")
    with jobs.crash_before_commit(month_sum):
        jobs.drain(within=10 * MINUTE)
    assert (jobs.task("t").outcomes, calls["day 1"]) == (("lost", "waiting", "completed"), 1)
    jobs.enqueue(month_sum, Days(days=(2,)), task_id="u")
    with jobs.crash_after_commit(month_sum):
        jobs.drain(within=10 * MINUTE)
    assert (jobs.task("u").outcomes, calls["day 2"]) == (("waiting", "completed"), 1)
    jobs.enqueue(month_sum, Days(days=(3,)), task_id="v")
    with jobs.crash_after_commit(day_sum):  # the sweep continues the task
        jobs.drain(within=10 * MINUTE)
    assert (jobs.task("v").outcomes, calls["day 3"]) == (("waiting", "completed"), 1)


def test_no_enqueue_replaces_a_task_with_children(jobs: JobTester) -> None:
    jobs.enqueue(month_sum, Days(days=(1,), then=2), task_id="t", unique_for=DAY, unique_key="k")
    jobs.drain()
    assert jobs.task("t").state is State.RETRY
    with pytest.raises(DuplicateTaskError):
        jobs.enqueue(month_sum, Days(days=(9,)), unique_for=DAY, unique_key="k", on_conflict="replace")
    assert jobs.task("t").state is State.RETRY
