"""Schedules in the virtual time of the kit: each tick is one task, at its time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane import Payload, TaskContext, cron, every, task
from joblane.enqueue.ticks import AHEAD, GRACE, TICK_PATTERN
from joblane.tasks.schedule import Missed
from joblane.tasks.task import Task
from joblane.testing import JobTester
from tests.integration.testing.samples import Order

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ran: list[tuple[int, str]] = []
"""Number of the payload and id of the task, in the order of the runs."""


@task("clock:strike", max_retry=0, overlap="allow", retention=DAY)
def clock_strike(payload: Order, ctx: TaskContext) -> None:
    ran.append((payload.number, ctx.task_id))


@task("clock:chime", max_retry=3, retry_delay=timedelta(minutes=10))
def clock_chime(payload: Order, ctx: TaskContext) -> None:
    ran.append((payload.number, ctx.task_id))
    if payload.number:
        raise ValueError("it jams")


class Rung(Payload):
    pass


@task("clock:ring", overlap="allow", schedule=[every(hours=1, name="hourly")])
def clock_ring(payload: Rung, ctx: TaskContext) -> None:
    ran.append((0, ctx.task_id))


@task("clock:hush", overlap="allow", schedule=[every(hours=1, name="hourly", missed="skip")])
def clock_hush(payload: Rung, ctx: TaskContext) -> None:
    ran.append((0, ctx.task_id))


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


def times(name: str) -> list[datetime]:
    """The times of the ticks that have run, in the order of their runs."""
    found = [match for _, id_ in ran if (match := TICK_PATTERN.fullmatch(id_)) and match["name"] == name]
    return [datetime.fromisoformat(match["time"]) for match in found]


def expected(schedule: Any, since: datetime, until: datetime) -> list[datetime]:
    moments = []
    while (since := schedule.next_after(since)) <= until:
        moments.append(since)
    return moments


@pytest.mark.parametrize(("text", "hours"), [("*/5 * * * *", 2), ("0 * * * *", 6)])
def test_each_tick_runs_once_and_in_time(jobs: JobTester, text: str, hours: int) -> None:
    # given
    schedule = cron(text)
    first = jobs.schedules.put("s", clock_strike, Order(number=1), schedule).next_at
    # when
    jobs.travel(hours * HOUR, ticks=True)
    # then
    assert first is not None
    assert times("s") == [first, *expected(schedule, first, jobs.now)]
    late = jobs.client._query(
        "select max(abs(extract(epoch from a.started_at - t.due_at)))::float8 from joblane.tasks t"
        " join joblane.runs a on a.task_id = t.id where t.id like $1",
        "@s:%",
    )
    assert late[0][0] < 2.5  # a message may arrive 2 s early
    # and the times that the schedule shows are by the real clock
    found = jobs.schedules.get("s")
    assert found is not None
    assert found.next_at is not None
    assert abs(found.next_at + (jobs.now - datetime.now(UTC)) - schedule.next_after(jobs.now)) < timedelta(seconds=1)


def test_a_tick_is_cancelled_while_the_last_one_waits_for_its_retry(jobs: JobTester) -> None:
    # given a task that fails, and is retried after ten minutes
    often = every(minutes=5)
    first = jobs.schedules.put("s", clock_chime, Order(number=1), often).next_at
    assert first is not None
    # when
    jobs.at(first + timedelta(minutes=6), ticks=True)
    # then
    assert times("s") == [first]
    rows = jobs.client._query("select state, reason from joblane.tasks where id like $1 order by id limit 2", "@s:%")
    assert [state for state, _ in rows] == ["retry", "cancelled"]
    assert rows[1][1].startswith("DuplicateTask: its unique key is held by @s:")


@pytest.mark.parametrize(("missed", "runs"), [(Missed.LATEST, 1), (Missed.SKIP, 0)])
def test_after_hours_without_a_sweep_the_policy_decides(jobs: JobTester, missed: Missed, runs: int) -> None:
    # given a schedule that fires every hour, no sweep for a day, and a time that is not just after a tick
    jobs.schedules.put("s", clock_strike, Order(number=1), every(hours=1), missed=missed)
    jobs.at(jobs.now.replace(minute=30, second=0) + timedelta(days=1))
    # when
    jobs.drain()
    # then one task may have been made before
    newest = jobs.now.replace(minute=0, second=0, microsecond=0)
    assert times("s").count(newest) == runs
    assert len(ran) <= runs + 1


def test_after_hours_without_a_worker_only_the_tasks_that_were_made_ahead_run_late(jobs: JobTester) -> None:
    put_at = jobs.now
    jobs.schedules.put("s", clock_strike, Order(number=1), every(minutes=1), missed=Missed.SKIP)
    jobs.travel(timedelta(hours=3))
    # when
    jobs.drain()
    # then
    late = [tick for tick in times("s") if tick < jobs.now - GRACE]
    assert 14 <= len(late) <= 15
    assert max(late) <= put_at + AHEAD


@pytest.mark.parametrize(("rings", "runs"), [(clock_ring, 1), (clock_hush, 0)])
def test_the_newest_missed_tick_of_the_code_runs_and_a_late_one_does_not(
    jobs: JobTester, rings: Task[Any, Any], runs: int
) -> None:
    # given a registered schedule, and hours without its ticks
    jobs.register(rings)
    jobs.at(jobs.now.replace(minute=45, second=0) + 5 * HOUR)
    newest = jobs.now.replace(minute=0, second=0, microsecond=0)
    # when
    jobs.drain()
    # then
    assert [id_ for _, id_ in ran] == [f"{rings.type}:hourly:{newest:%Y-%m-%dT%H:%MZ}"][:runs]
    # and when ticks arrive late, and the next one in time
    late = [jobs.tick(rings, at=newest - passed * HOUR) for passed in range(3)]
    jobs.drain()
    assert len(ran) == runs
    assert {jobs.task(id_).reason for id_ in late[runs:]} == {
        "TickMissed: it came late, and its schedule has gone on without it"
    }
    jobs.travel(HOUR, ticks=True)
    assert len(ran) == runs + 1


def test_a_tick_of_the_code_runs_late_while_its_schedule_is_not_registered(jobs: JobTester) -> None:
    jobs.travel(5 * HOUR)
    jobs.tick(clock_ring, at=jobs.now - 4 * HOUR)
    jobs.drain()
    assert len(ran) == 1


def test_a_paused_schedule_of_the_code_does_not_run_its_ticks(jobs: JobTester) -> None:
    jobs.register(clock_ring)
    jobs.schedules.pause("clock:ring:hourly")
    jobs.travel(3 * HOUR, ticks=True)
    assert not ran
    # when
    jobs.schedules.resume("clock:ring:hourly")
    jobs.tick(clock_ring, at=jobs.now - HOUR)
    jobs.travel(HOUR, ticks=True)
    # then
    assert len(ran) == 1
