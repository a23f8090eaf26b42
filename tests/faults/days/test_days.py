"""Two days in virtual time, and days that must find planted bugs. ``make faults`` lives through a hundred."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.faults.days.busy import BusyDay
from tests.faults.days.days import Days
from tests.faults.days.idle import IdleDay
from tests.faults.days.situations import ShortDay
from tests.faults.plants import PLANTS, planted

MOST_WAKES = 8
"""Times that a day without work may wake the database of ``dev``."""
MINUTES_OF_SWEEPS = 4


@pytest.fixture(scope="module")
def days() -> Iterator[Days]:
    with Days.on_own_server() as made:
        yield made


def test_nothing_waits_longer_than_for_a_sweep_every_five_minutes(days: Days) -> None:
    result = days.live(partial(BusyDay, seed=1, hours=6))

    assert not result.wrong, result.table()
    assert result.counts["processes that died"] > 3, result.table()
    hours = result.counts["hours"] + 0.5  # it is rounded
    assert result.counts["sweeps"] <= hours * 60 / MINUTES_OF_SWEEPS, result.table()


def test_a_day_without_work_seldom_wakes_the_database(days: Days) -> None:
    result = days.live(partial(IdleDay, seed=1))

    assert not result.wrong, result.table()
    assert 4 <= result.counts["wakes of the database"] <= MOST_WAKES, result.table()


def test_nothing_waits_longer_after_sqs_has_refused_for_an_hour(days: Days) -> None:
    result = days.live(partial(ShortDay, bug="refused"))

    assert not result.wrong, result.table()


@pytest.mark.parametrize("bug", [bug for bug, (part, *_) in PLANTS.items() if part == "days"])
def test_a_day_finds_a_planted_bug_and_only_that(days: Days, bug: str) -> None:
    with planted(days.template, bug):
        result = days.live(partial(ShortDay, bug=bug))
    sound = days.live(partial(ShortDay, bug=bug))

    assert any("waits since" in line or "tick" in line for line in result.wrong), result.table()
    assert not sound.wrong, sound.table()
