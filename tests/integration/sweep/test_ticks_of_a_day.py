"""A day of schedules, in virtual time. ``JOBLANE_SCHEDULES=100000``: with as many schedules."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from joblane.enqueue.ticks import AHEAD, GRACE
from joblane.record.schedules import UNDELIVERED, schedule_of
from tests.ticking import Days, mixed
from tests.world import World

OF_CODE = 60
NUMBER = int(os.environ.get("JOBLANE_SCHEDULES", "300"))


@pytest.fixture
def days(world: World) -> Days:
    days = Days(world.database.get())
    days.put(mixed(NUMBER))
    days.declare(OF_CODE)
    days.connection.run("vacuum analyze joblane.schedules")
    return days


def test_each_tick_of_a_day_is_one_task_in_time(days: Days) -> None:
    since = days.now + UNDELIVERED
    # when
    days.run(hours=24 if NUMBER > 1000 else 6)
    # then
    ticks = days.check()
    assert days.check_code(since) > OF_CODE
    assert days.late == []
    assert days.latest_seconds <= 1
    print(
        f"{ticks} ticks of {NUMBER} schedules in {days.sweeps} sweeps, the longest {days.longest_seconds:.1f} s,"
        f" {days.cpu_seconds / max(ticks, 1) * 1e6:.0f} us of CPU for a tick, latest {days.latest_seconds:.2f} s"
    )


def test_after_three_hours_without_a_sweep_no_schedule_has_a_burst(days: Days) -> None:
    # given a sweep, and then none for three hours
    days.run(hours=0.1)
    days.made.clear()
    rows = days.connection.run(
        "select name, expression, timezone, missed, next_at from joblane.schedules where origin = 'run_time'"
    )
    before = {name: next_at for name, *_, next_at in rows}
    days.travel(timedelta(hours=3))
    # when
    days.sweep()
    # then
    now = days.now
    late = dict(days.late)
    assert len(late) == len(days.late)
    for name, expression, timezone, missed, _ in rows:
        newest = schedule_of(expression, timezone).previous(now)
        was_missed = newest >= before[name]
        if was_missed and newest < now - GRACE - timedelta(minutes=1):
            assert (name in late) == (missed == "latest"), name
        assert late.get(name, newest) == newest
        assert all(tick == newest or now - timedelta(minutes=1) < tick <= now + AHEAD for tick in days.made[name])
