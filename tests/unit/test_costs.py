"""The figures of ``docs/costs.md`` follow from its prices, and from what is declared and written."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest

from functions.system_health_check import handler as health_check
from shared.jobs.cron import Schedule, parse
from shared.jobs.discovery import discover
from shared.jobs.queues import Queue
from shared.platform.health import Check
from tests import costs
from tests.pages import ROOT, table


def test_the_results_in_the_page_are_those_of_its_prices_and_the_declarations() -> None:
    text = costs.PAGE.read_text()
    assert text == costs.rendered(text), "`python -m tests.costs` writes them anew"


def test_another_price_is_another_result() -> None:
    line = costs.Line("Polling", 2e6, "SQS request")
    assert [line.cost({"SQS request": price}) for price in (4e-7, 8e-7)] == pytest.approx([0.8, 1.6])


@pytest.mark.parametrize(
    ("text", "dollars"),
    [("$0.40 per million", 4e-7), ("$0.005 per 1,000", 5e-6), ("$0.05 per 10,000", 5e-6), ("$0.12 per ACU-hour", 0.12)],
)
def test_a_price_is_read_as_dollars_a_piece(text: str, dollars: float) -> None:
    assert costs._dollars(text) == pytest.approx(dollars)


def test_every_price_has_a_source_and_every_amount_a_reason() -> None:
    for heading in ("Prices", "What is assumed"):
        for row in table(costs.PAGE, heading):
            assert len(row) == 3
            assert all(row), row


def test_every_price_is_used() -> None:
    lines = [line for section in costs.SECTIONS.values() for line in section()[0]]
    assert {line.price for line in lines} == set(costs.prices())


def test_an_idle_mapping_polls_648_000_times_a_month() -> None:
    assert costs.RECEIVES_PER_MAPPING == 648_000


def test_lanes_and_front_doors_are_counted_from_the_declarations() -> None:
    tasks = discover()
    assert costs.mapped_queues({}) == len(Queue)
    assert costs.mapped_queues(tasks) == len(Queue) + sum(len(task.lanes) for task in tasks.values())


@pytest.mark.parametrize(("cron", "count"), [("*/5 * * * *", 8640), ("0 2 * * *", 30), ("0 8 * * 0", 5)])
def test_ticks_of_a_month(cron: str, count: int) -> None:
    schedule = parse(cron)
    assert isinstance(schedule, Schedule)
    assert len(costs._times(schedule)) == count


def test_a_health_check_writes_as_many_metrics_as_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    # given the checks of a stage without services
    names = [*(f"queue jobs-{queue}" for queue in Queue), "database", "sweep"]
    # when they are measured
    health_check._measure([Check(name, 1, None) for name in names])
    # then each name with its dimension is one metric
    found = set()
    for line in capsys.readouterr().out.splitlines():
        written = json.loads(line)
        for directive in written["_aws"]["CloudWatchMetrics"]:
            found |= {(metric["Name"], written["check"]) for metric in directive["Metrics"]}
    assert len(names) == costs.HEALTH_CHECKS
    assert len(found) == costs.HEALTH_METRICS


def test_the_smallest_stage_is_named_in_the_readme_with_its_sum() -> None:
    lines = costs.idle(discover(), costs.amounts())
    total = sum(line.cost(costs.prices()) for line in lines)
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert re.search(rf"\${total:.2f} a month", readme), f"${total:.2f}"


def test_a_month_is_30_days() -> None:
    assert timedelta(days=30) == costs.MONTH
