"""The saving of a larger ``batch_size``: rows of runs in, an advice with its waits out."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from joblane.inspector.stage.batching import DATABASE_US, MEASURED_US, PERIOD, Runs, advice
from joblane.inspector.views import Obstacle
from joblane.prices import PRICES, invocation_dollars
from joblane.quotas import MAX_BATCH
from joblane.tasks.task import Task
from tests.pages import ROOT
from tests.samples import LIMITED, sample_one

TASK = replace(sample_one, timeout=timedelta(seconds=30), target_wait=timedelta(minutes=1), memory_mb=512)
ORDINARY = 1e-6 + 2 * PRICES["SQS request"].each
"""Dollars of a run of some milliseconds."""


def runs(messages: int, number: int = 7_000_000, ms: int = 10, cost: float = ORDINARY, lost: int = 0) -> Runs:
    """Runs while some messages waited."""
    return Runs(messages, number, lost, number, ms * number, cost * number)


@pytest.mark.parametrize(
    ("rows", "messages", "million", "later", "latest"),
    [
        pytest.param([runs(10)], 10, 0.905, 45, 90, id="full batches"),
        pytest.param([runs(10, ms=0)], 10, 0.905, 0, 0, id="jobs that do nothing"),
        pytest.param([runs(4)], 4, 0.754, 15, 90, id="batches that do not fill"),
        pytest.param([runs(10), runs(1)], 20 / 11, 0.453, 22, 90, id="half of the jobs come alone"),
        pytest.param([runs(10, 10), runs(10, 30)], 10, 0.905, 45, 90, id="two lanes, few jobs"),
    ],
)
def test_a_batch_saves_the_invocations_of_messages_that_waited(
    rows: list[Runs], messages: float, million: float, later: int, latest: int
) -> None:
    found = advice(TASK, rows)
    number = sum(row.number for row in rows)
    assert (found.advised, found.obstacle) == (10, None)
    assert (found.type, found.runs, found.batch_size) == (TASK.type, number, 1)
    assert found.messages == pytest.approx(messages)
    assert found.usd_per_million == pytest.approx(million, abs=0.005)
    assert found.usd_a_month == pytest.approx(found.usd_per_million * number / 1e6 * 30 / PERIOD.days)
    assert found.share == pytest.approx(found.usd_per_million / 1e6 / ORDINARY)
    assert found.database_seconds_per_million == pytest.approx((1 - 1 / messages) * DATABASE_US)
    assert (found.later_ms, found.latest_ms) == (later, latest)


def test_a_saving_is_that_of_invocations_by_their_prices_and_time() -> None:
    million = advice(TASK, [runs(10)]).usd_per_million
    assert 0 < million - 0.9 * 1e6 * invocation_dollars() < 0.01
    assert advice(replace(TASK, memory_mb=3538), [runs(10)]).usd_per_million > million


@pytest.mark.parametrize(
    ("changes", "rows", "size", "latest"),
    [
        pytest.param({"timeout": timedelta(seconds=120)}, [runs(10)], 7, 60, id="its timeout"),
        pytest.param({"target_wait": timedelta(seconds=4)}, [runs(10, ms=1000, cost=1e-6)], 5, 4000, id="its target"),
        pytest.param({"batch_size": 4}, [runs(10)], 10, 60, id="more than now"),
    ],
)
def test_the_largest_batch_fits_timeout_and_target(
    changes: dict[str, Any], rows: list[Runs], size: int, latest: int
) -> None:
    found = advice(replace(TASK, **changes), rows)
    assert (found.advised, found.latest_ms) == (size, latest)


def test_only_the_invocations_of_the_batches_so_far_are_saved() -> None:
    assert advice(replace(TASK, batch_size=5), [runs(10)]).usd_per_million == pytest.approx(
        advice(TASK, [runs(10)]).usd_per_million / 9
    )


@pytest.mark.parametrize(
    ("task", "rows", "obstacle"),
    [
        (replace(TASK, batch_size=10), [runs(10)], Obstacle.FULL),
        (replace(LIMITED[0], batch_size=10), [runs(10)], Obstacle.FULL),
        (replace(TASK, resumable=True), [runs(10)], Obstacle.RESUMABLE),
        (LIMITED[0], [runs(10)], Obstacle.LIMITED),
        (TASK, [runs(10, lost=7_001)], Obstacle.LOST),
        (replace(TASK, timeout=timedelta(seconds=600)), [runs(10)], Obstacle.TIMEOUT),
        (TASK, [runs(10, ms=60_001)], Obstacle.WAITS),
        (TASK, [runs(1)], Obstacle.ALONE),
        (replace(TASK, batch_size=5), [runs(5)], Obstacle.ALONE),
        (TASK, [runs(10, ms=5_000, cost=3.4e-5)], Obstacle.LITTLE),
        (TASK, [runs(10, number=1), runs(1)], Obstacle.LITTLE),
        (TASK, [replace(runs(10), timed=0, duration_ms=0, cost_usd=0)], Obstacle.LITTLE),
    ],
)  # fmt: skip
def test_a_larger_batch_that_does_not_pay_is_not_advised(
    task: Task[Any, Any], rows: list[Runs], obstacle: Obstacle
) -> None:
    found = advice(task, rows)
    assert (found.advised, found.obstacle) == (None, obstacle)


def test_the_page_on_sizes_has_the_measured_times() -> None:
    lines = (ROOT / "docs" / "how-to" / "size.md").read_text().splitlines()
    for column, what in enumerate(("CPU of PostgreSQL: claim and finish", "CPU of the function")):
        (line,) = (line for line in lines if line.startswith(f"| {what} |"))
        assert re.findall(r"(\d+) µs", line) == [str(MEASURED_US[batch][column]) for batch in (1, MAX_BATCH)]
