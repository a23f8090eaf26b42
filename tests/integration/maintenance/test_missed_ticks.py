"""Missed ticks are reported once; ticks that arrived are not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane import cron, task
from joblane.context import TaskContext
from joblane.enqueue.wake import wake
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.maintenance.missed_ticks import missed_ticks
from joblane.schedule_overrides import apply
from tests import logs
from tests.builders.rows import put
from tests.samples import Sample
from tests.world import PREFIX, World

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@task("sample:hourly", schedule=[cron("0 * * * *", name="hourly"), cron("30 12 * * *", name="daily")])
def sample_hourly(payload: Sample, ctx: TaskContext) -> Any:
    pass


def look(world: World, hours: float) -> list[str]:
    return missed_ticks(world.database.get(), [sample_hourly], NOON + timedelta(hours=hours))


def test_a_schedule_is_not_asked_for_what_was_before_it_was_known(world: World) -> None:
    assert look(world, 0) == []
    assert look(world, 0) == []


def test_a_missed_tick_is_reported_once_half_an_hour_after_its_time(world: World) -> None:
    look(world, 0.1)
    assert look(world, 0.9) == []
    assert look(world, 1.1) == ["sample:hourly:daily:2026-03-01T12:30Z"]
    assert look(world, 1.4) == []
    assert look(world, 1.6) == ["sample:hourly:hourly:2026-03-01T13:00Z"]
    assert look(world, 1.7) == []


@pytest.mark.parametrize("state", ["completed", "archived", "retry", "cancelled"])
def test_a_tick_with_a_task_in_any_state_is_not_missed(world: World, state: str) -> None:
    look(world, 0.6)
    put(world, sample_hourly, "sample:hourly:hourly:2026-03-01T13:00Z", state=state)
    assert look(world, 2) == []


def test_after_a_long_time_without_a_sweep_a_day_is_looked_back(world: World) -> None:
    look(world, 0)
    missed = look(world, 24 * 30)
    assert len(missed) == 25
    assert missed[-1].endswith(":2026-03-31T11:00Z")


def test_a_schedule_whose_times_change_is_not_asked_for_the_new_ones_before_that(world: World) -> None:
    # given a schedule that has fired once an hour, and was looked at then
    look(world, 0.9)
    # when its stage has it fire every minute, and the next look comes an hour later
    often = apply(sample_hourly, {"sample:hourly:hourly": "* * * * *", "sample:hourly:daily": "off"})
    known = [often]
    assert missed_ticks(world.database.get(), known, NOON + timedelta(hours=2)) == []
    # then it is asked for those after that look alone
    missed = missed_ticks(world.database.get(), known, NOON + timedelta(hours=2, minutes=32))
    assert missed == [f"sample:hourly:hourly:2026-03-01T14:0{minute}Z" for minute in (1, 2)]
    assert world.run("select count(*) from joblane.schedules") == [[1]]


def test_a_schedule_that_is_gone_is_forgotten(world: World) -> None:
    look(world, 0)
    assert missed_ticks(world.database.get(), [], NOON + timedelta(hours=9)) == []
    assert world.run("select count(*) from joblane.schedules") == [[0]]


def test_the_sweep_tells_of_them(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    # given a sweep that has seen the schedules, and whose memory is set back by an hour
    for _ in range(2):
        world.lane(jobs_sweep)
        wake(world.sqs, PREFIX)
        with logs.lines() as lines:
            world.deliver(jobs_sweep, world.take(jobs_sweep)[0]["Body"])
        world.run("update joblane.schedules set checked_until = checked_until - interval '1 hour'")
    # then
    logged = [line["tick"] for line in lines.fields if line["message"].startswith("a tick did not come")]
    assert any(tick.startswith("jobs:sweep:0:") for tick in logged)
    assert '"MissedTick"' in capsys.readouterr().out
