"""Schedules at run time in the virtual time of the kit: each tick is one task, at its time."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from joblane import TaskContext, cron, every, task
from joblane.enqueue.ticks import TICK_PATTERN
from joblane.record.schedules import Missed
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


@pytest.mark.parametrize("text", ["*/5 * * * *", "*/20 * * * *", "0 * * * *"])
def test_each_tick_of_a_day_runs_once_and_in_time(jobs: JobTester, text: str) -> None:
    # given
    schedule, begin = cron(text), jobs.now
    jobs.schedules.put("s", clock_strike, Order(number=1), schedule)
    # when
    jobs.travel(6 * HOUR, ticks=True)
    # then
    assert times("s") == expected(schedule, begin, jobs.now)
    late = jobs.client._query(
        "select max(abs(extract(epoch from a.started_at - t.due_at)))::float8 from joblane.tasks t"
        " join joblane.task_attempts a on a.task_id = t.id where t.id like $1",
        "@s:%",
    )
    assert late[0][0] < 2.5  # a message may arrive 2 s early


@pytest.mark.parametrize(("missed", "runs"), [(Missed.LATEST, 1), (Missed.SKIP, 0)])
def test_after_three_hours_without_a_sweep_the_policy_decides(jobs: JobTester, missed: Missed, runs: int) -> None:
    # given a schedule whose tasks of the first minutes are made, and three hours without a sweep
    jobs.schedules.put("s", clock_strike, Order(number=1), every(minutes=30), missed=missed)
    jobs.travel(HOUR, ticks=True)
    ran.clear()
    jobs.travel(timedelta(hours=3, minutes=10))
    # when
    jobs.drain()
    # then
    made_ahead = 1  # at most, by the last sweep
    assert runs <= len(ran) <= runs + made_ahead + 1
