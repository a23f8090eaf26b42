"""Missed ticks are reported once; ticks that arrived are not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from joblane import cron, task
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.handler.context import TaskContext
from joblane.sqs.message import Message
from joblane.sweep.missed_ticks import missed_ticks
from joblane.tasks.schedule_overrides import apply
from tests import logs
from tests.builders.rows import put
from tests.samples import Sample
from tests.world import World

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@task("sample:hourly", schedule=[cron("0 * * * *", name="hourly"), cron("30 12 * * *", name="daily")])
def sample_hourly(payload: Sample, ctx: TaskContext) -> Any:
    pass


def missed_at(world: World, hours: float) -> list[str]:
    return missed_ticks(world.database.get(), [sample_hourly], NOON + timedelta(hours=hours))


def test_ticks_from_before_a_schedule_was_known_are_not_missed(world: World) -> None:
    assert missed_at(world, 0) == []
    assert missed_at(world, 0) == []


def test_a_missed_tick_is_reported_once_half_an_hour_after_its_time(world: World) -> None:
    missed_at(world, 0.1)
    assert missed_at(world, 0.9) == []
    assert missed_at(world, 1.1) == ["sample:hourly:daily:2026-03-01T12:30Z"]
    assert missed_at(world, 1.4) == []
    assert missed_at(world, 1.6) == ["sample:hourly:hourly:2026-03-01T13:00Z"]
    assert missed_at(world, 1.7) == []


@pytest.mark.parametrize("state", ["completed", "archived", "retry", "cancelled"])
def test_a_tick_with_a_task_in_any_state_is_not_missed(world: World, state: str) -> None:
    missed_at(world, 0.6)
    put(world, sample_hourly, "sample:hourly:hourly:2026-03-01T13:00Z", state=state)
    assert missed_at(world, 2) == []


def test_after_a_long_time_without_a_sweep_the_last_day_is_checked(world: World) -> None:
    missed_at(world, 0)
    missed = missed_at(world, 24 * 30)
    assert len(missed) == 25
    assert missed[-1].endswith(":2026-03-31T11:00Z")


def test_new_times_of_a_schedule_count_only_after_the_change(world: World) -> None:
    # given a schedule that fires every hour, and was checked
    missed_at(world, 0.9)
    # when the stage changes it to every minute, and the next check is an hour later
    often = apply(sample_hourly, {"sample:hourly:hourly": "* * * * *", "sample:hourly:daily": "off"})
    known = [often]
    assert missed_ticks(world.database.get(), known, NOON + timedelta(hours=2)) == []
    # then only ticks after that check count
    missed = missed_ticks(world.database.get(), known, NOON + timedelta(hours=2, minutes=32))
    assert missed == [f"sample:hourly:hourly:2026-03-01T14:0{minute}Z" for minute in (1, 2)]
    assert world.run("select count(*) from joblane.declared_schedules") == [[1]]


def test_the_row_of_a_removed_schedule_is_deleted(world: World) -> None:
    missed_at(world, 0)
    assert missed_ticks(world.database.get(), [], NOON + timedelta(hours=9)) == []
    assert world.run("select count(*) from joblane.declared_schedules") == [[0]]


def test_the_sweep_logs_and_counts_missed_ticks(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    # given a sweep that has checked the schedules, and a time of the check before the last tick of the sweep
    for _ in range(2):
        world.lane(jobs_sweep)
        with logs.lines() as lines:
            world.deliver(jobs_sweep, Message(jobs_sweep.type, str(uuid4())).encode())
        world.run("update joblane.declared_schedules set checked_until = checked_until - interval '7 hours'")
    # then
    logged = [line["tick"] for line in lines.fields if line["message"].startswith("a tick is missing")]
    assert any(tick.startswith("jobs:sweep:0:") for tick in logged)
    assert '"MissedTick"' in capsys.readouterr().out
