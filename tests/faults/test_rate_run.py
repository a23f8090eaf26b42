"""A short run of a rate, and runs that must find planted bugs. ``make faults`` runs a long one."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from tests.faults.dying_workers import Result
from tests.faults.limit_plants import planted
from tests.faults.rate_run import RateRun, most_in_a_second


def run(url: str, plant: str | None = None) -> Result:
    with planted(url, plant) if plant else nullcontext():
        return RateRun(url, seed=8, tasks=60, starts=20, burst=5).go()


def test_a_rate_gives_no_more_times_than_declared_and_plans_anew_when_it_is_halved(database_url: str) -> None:
    result = run(database_url)

    assert not result.wrong, result.table()
    assert result.counts["starts"] > 60, result.table()


@pytest.mark.plants
@pytest.mark.parametrize(
    ("plant", "found"),
    [("a rate gives each time twice", "times in a second"), ("a changed rate plans nobody anew", "not planned anew")],
)
def test_a_run_finds_planted_bugs(database_url: str, plant: str, found: str) -> None:
    result = run(database_url, plant)

    assert any(found in line for line in result.wrong), result.table()


def test_the_most_in_a_second_is_that_of_any_second() -> None:
    assert most_in_a_second([0, 0.5, 0.9, 1.2, 1.3, 3]) == 4
    assert most_in_a_second([0, 1, 2]) == 1
