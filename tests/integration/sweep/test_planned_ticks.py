"""Schedules at run time in a stage whose sweep plans its own runs: each tick runs once, at its time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from joblane.tasks.schedule import Schedule, cron
from tests.samples import Sample, sample_one
from tests.stage_in_time import Stage

HOUR = 3600
SLOW = 20
"""A run may be late by the real time that the test takes. Without its task it would be late by minutes."""


@pytest.fixture
def stage(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with Stage.open(database_url, monkeypatch, sample_one) as stage, stage.clock.of_schedules():
        yield stage


def put(stage: Stage, number: int, schedule: Schedule) -> None:
    stage.age()
    stage.client.schedules.put(f"s{number}", sample_one, Sample(do="note_time", number=number), schedule)


def fires(stage: Stage, schedule: Schedule, since: float) -> list[float]:
    """The times of a schedule from ``since`` until now, in seconds since the start."""
    found, moment = list[float](), datetime.fromtimestamp(stage.started_at + since, UTC)
    while (moment := schedule.next_after(moment)).timestamp() - stage.started_at < stage.now - 2:
        found.append(moment.timestamp() - stage.started_at)
    return found


def test_planned_sweeps_alone_let_each_tick_run_in_time(stage: Stage) -> None:
    # given schedules that fire every twenty minutes and every few hours, and no scheduled sweep
    often, seldom = cron("*/20 * * * *"), cron("7 */5 * * *", timezone="Asia/Kolkata")
    put(stage, 1, often)
    put(stage, 2, seldom)
    # when hours pass, in which another one is put
    stage.pass_time(2 * HOUR + 30 - stage.now)  # no schedule fires within half a minute
    changed = stage.now
    late = cron("1 * * * *")
    put(stage, 3, late)
    stage.pass_time(3 * HOUR + 30 - stage.now)
    # then
    ticks = 0
    for number, schedule, since in ((1, often, 0.0), (2, seldom, 0.0), (3, late, changed)):
        ran, due = stage.ran(number), fires(stage, schedule, since)
        ticks += len(due)
        assert len(ran) == len(due), number
        assert [tick for at, tick in zip(ran, due, strict=True) if not -2 <= at - tick <= SLOW] == [], number
    # and the database slept between them
    assert len(stage.starts) <= 2 * ticks + 5


def test_a_stage_without_a_tick_in_sight_plans_no_sweep(stage: Stage) -> None:
    # given a schedule that fires once in a year, half a year from now
    month = (datetime.now(UTC).month + 5) % 12 + 1
    put(stage, 1, cron(f"0 0 1 {month} *"))
    # when
    stage.pass_time(24 * HOUR)
    # then one sweep follows the write, and perhaps one after a transaction that was open
    assert 1 <= len(stage.starts) <= 3


def test_the_first_tick_after_a_put_waits_for_no_sweep(stage: Stage) -> None:
    each_minute = cron("* * * * *")
    put(stage, 1, each_minute)
    stage.pass_time(150 - stage.now)
    ran, due = stage.ran(1), fires(stage, each_minute, 0.0)
    assert [tick for at, tick in zip(ran, due, strict=True) if not -2 <= at - tick <= SLOW] == []
