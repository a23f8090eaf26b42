"""The costs that a million jobs add to a stage, and the sums after the free allowances of an account."""

from __future__ import annotations

import re
from typing import Any

import pytest

from joblane.cdk import costs
from joblane.cdk.costs import Line, after_allowances
from joblane.cdk.million import (
    COMMITS,
    JOB_WAL_KB,
    JOB_WRITES,
    JOBS,
    RETENTION_WAL_KB,
    million,
    row,
)
from joblane.cdk.templates import COSTS
from joblane.prices import PRICES
from joblane.tasks.discovery import discover
from tests.pages import ROOT

SWEEP = {"jobs:sweep": discover(times={})["jobs:sweep"]}
GROWTH = (ROOT / "tests" / "bench" / "growth.md").read_text()


def templates(*, least: float | None, sweep_minutes: int = 360) -> list[dict[str, Any]]:
    """A stage with the sweep alone. ``least``: the minimum capacity of its Aurora. None: it has no Aurora."""
    aurora = {
        "Cluster": {
            "Type": "AWS::RDS::DBCluster",
            "Properties": {"ServerlessV2ScalingConfiguration": {"MinCapacity": least}},
        },
        "Writer": {"Type": "AWS::RDS::DBInstance", "Properties": {}},
    }
    own = {"schedules": {}, "sweep_minutes": sweep_minutes, "extras": {}, "architecture": "arm64"}
    return [{"Resources": {} if least is None else aurora, "Metadata": {COSTS: own}}]


def amounts(**stage: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in million(templates(**stage), SWEEP):
        found[line.price] = found.get(line.price, 0) + line.amount
    return found


def test_the_writes_of_a_job_follow_from_the_log_that_was_measured() -> None:
    # the page has what the benchmarks measured
    assert f"| WAL | about {JOB_WAL_KB:g} KB, without full pages |" in GROWTH
    assert f"and {RETENTION_WAL_KB:g} KB of WAL: one update removes" in GROWTH
    # each commit is shorter than a unit of 4 KB, so it takes one
    assert JOB_WAL_KB / COMMITS < 4
    assert pytest.approx(COMMITS + RETENTION_WAL_KB / 4) == JOB_WRITES


def test_a_database_that_sleeps_is_awake_all_month_for_a_million_jobs() -> None:
    stage = templates(least=0)
    idle = next(line for line in costs.of_stage(stage, SWEEP) if line.price == "Aurora ACU-hour")
    assert idle.amount + amounts(least=0)["Aurora ACU-hour"] == costs.LEAST_AWAKE * costs.HOURS


@pytest.mark.parametrize(("least", "has_writes"), [(1, True), (None, False)])
def test_another_database_costs_no_capacity_more(least: float | None, has_writes: bool) -> None:
    found = amounts(least=least)
    assert "Aurora ACU-hour" not in found
    assert ("Aurora I/O request" in found) is has_writes
    assert found["Lambda request"] == JOBS


def test_sweeps_of_the_schedule_alone_do_not_become_more() -> None:
    planned, scheduled = amounts(least=None), amounts(least=None, sweep_minutes=5)
    assert scheduled["SQS request"] == 3 * JOBS < planned["SQS request"]
    # the metrics of the type, and those of the sweep in the hours without one
    assert scheduled["Metric"] == 4 < planned["Metric"]


def test_the_row_adds_up() -> None:
    text = row(million(templates(least=0), SWEEP))
    total, *parts = (float(dollars) for dollars in re.findall(r"\$(\d+\.\d\d)", text))
    assert total == pytest.approx(sum(parts), abs=0.01 * len(parts))
    assert total > 40


def test_an_allowance_is_shared_by_all_lines_of_its_price() -> None:
    requests = [Line("a", 0.8e6, "SQS request"), Line("b", 0.7e6, "SQS request")]
    assert after_allowances(requests) == pytest.approx(0.5e6 * PRICES["SQS request"].each)
    assert after_allowances([Line("a", 7, "Alarm")]) == 0
    assert after_allowances([Line("a", 2, "Secret")]) == 2 * PRICES["Secret"].each
