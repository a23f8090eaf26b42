"""The chart whose series, groups and percentile an operator picks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import Group, Measure
from joblane.inspector.inspector import Inspector
from joblane.sweep.run_statistics import COLUMNS
from tests.samples import sample_one
from tests.world import World

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ONE = sample_one.type


def counted(world: World, until: datetime) -> None:
    world.run("update joblane.run_statistics_until set until = $1", until)


def put(world: World, name: str, seconds: int, at: datetime, runs: int = 10, **more: Any) -> None:
    """Insert a row of ``runs`` runs, of which ``bad`` failed; each waited in the bucket ``wait``."""
    given = {"kind": "type", "queue": "default", "bad": 0, "cost": 0.0, "wait": 20} | more
    queue = "" if given["kind"] == "tenant" else given["queue"]
    world.run(
        f"insert into joblane.run_statistics ({COLUMNS}) values"
        " ($1, $2, $3, $4, $5, $6::int - $7::int, $7, 0, 0, 0, $8, array[array[$9::int, $6::int]], '{}', 0, 0, null)",
        given["kind"],
        name,
        queue,
        seconds,
        at,
        runs,
        given["bad"],
        str(given["cost"]),
        given["wait"],
    )


@pytest.fixture
def now(world: World) -> datetime:
    """The time up to which runs are counted: half past the hour, at noon of yesterday."""
    at = datetime.now(UTC).replace(hour=12, minute=30, second=0, microsecond=0) - DAY
    counted(world, at)
    return at


def test_lines_are_the_largest_groups_and_the_rest_is_one(world: World, inspector: Inspector, now: datetime) -> None:
    # given four types in the last two hours, by minute
    for number, name in enumerate(("t:a", ONE, "t:c", "t:d")):
        put(world, name, 60, now - 30 * MINUTE, runs=10 ** (3 - number), bad=number)
    put(world, ONE, 60, now - 3 * MINUTE, runs=5, queue="low")
    put(world, "t:a", 60, now - 121 * MINUTE)  # before the chart
    put(world, "t:a", 60, now)  # after it
    put(world, "t:a", 3_600, now - HOUR)  # an hour is not added to its minutes
    # when
    found = inspector.chart(within=2 * HOUR, limit=2)
    # then
    assert (found.step_seconds, found.start, found.until, found.groups) == (60, now - 2 * HOUR, now, 4)
    assert [(line.key, line.whole) for line in found.lines] == [("t:a", 1_000), (ONE, 105)]
    assert found.others is not None
    assert (found.others.whole, sum(value or 0 for value in found.others.values)) == (11, 11)
    assert len(found.lines[1].values) == 120
    assert {at: value for at, value in enumerate(found.lines[1].values) if value} == {90: 100, 117: 5}
    assert found.before is None
    # and by queue, of one type, of failures, and of all
    by_queue = inspector.chart(within=2 * HOUR, by=Group.QUEUE, types=(ONE,))
    assert [(line.key, line.whole) for line in by_queue.lines] == [("default", 100), ("low", 5)]
    failed = inspector.chart(of=Measure.FAILED, within=2 * HOUR, queue="default")
    assert [(line.key, line.whole) for line in failed.lines] == [("t:d", 3), ("t:c", 2), (ONE, 1), ("t:a", 0)]
    [everything] = inspector.chart(within=2 * HOUR, by=Group.NONE).lines
    assert (everything.key, everything.whole) == ("", 1_116)


def test_shares_and_percentiles_have_gaps(world: World, inspector: Inspector, now: datetime) -> None:
    put(world, "a:b", 60, now - 2 * MINUTE, runs=95, bad=19, wait=1)
    put(world, "a:b", 60, now - MINUTE, runs=5, bad=5, wait=41)
    [share] = inspector.chart(of=Measure.FAILED_SHARE, within=5 * MINUTE).lines
    assert (share.whole, share.values) == (24, (None, None, None, 20, 100))
    for percentile, expected in (("p50", 1.1), ("p95", 1.1), ("p99", 2 ** (40.5 / 4))):
        [waits] = inspector.chart(of=Measure.WAIT, percentile=percentile, within=5 * MINUTE).lines
        assert waits.whole == pytest.approx(expected, rel=0.01)
        assert waits.values[-2:] == pytest.approx((1.09, 2 ** (40.5 / 4)), rel=0.01)
        assert waits.values[:3] == (None, None, None)


def test_days_hours_and_minutes_follow_each_other(world: World, inspector: Inspector, now: datetime) -> None:
    # given each run in the rows of its minute, its hour and its day, as far as these are over
    midnight, hour = now.replace(hour=0, minute=0), now.replace(minute=0)
    for at in (midnight - 3 * DAY, midnight - DAY, midnight + HOUR, hour - HOUR, hour, hour + 20 * MINUTE):
        put(world, ONE, 60, at, runs=1)
        if at < hour:
            put(world, ONE, 3_600, at, runs=1)
        if at < midnight:
            put(world, ONE, 86_400, at, runs=1)
    put(world, ONE, 86_400, midnight - 40 * DAY, runs=1)  # whose hours are removed
    # then each is counted once
    for within, step, number in ((30 * DAY, DAY, 6), (180 * DAY, DAY, 7), (7 * DAY, HOUR, 6), (DAY, HOUR, 4)):
        found = inspector.chart(within=within)
        [line] = found.lines
        assert (found.step_seconds, line.whole) == (step.total_seconds(), number)
        assert sum(value or 0 for value in line.values) == number
        assert found.start + len(line.values) * step >= now
    of_one = inspector.chart(within=30 * DAY, types=(ONE,))
    assert (of_one.step_seconds, of_one.lines[0].whole) == (21_600, 6)


def test_tenants_are_by_hour(world: World, inspector: Inspector, now: datetime) -> None:
    hour = now.replace(minute=0)
    for name, runs in (("acme", 5), ("", 2), ("*", 1)):
        put(world, name, 3_600, hour - HOUR, runs=runs, kind="tenant")
    found = inspector.chart(by=Group.TENANT)
    assert [(line.key, line.whole) for line in found.lines] == [("acme", 5), ("", 2), ("*", 1)]
    assert found.until == hour
    [line] = inspector.chart(by=Group.NONE, tenant="acme").lines
    assert (line.whole, line.values[-1]) == (5, 5)


def test_the_time_before_is_a_line_if_it_is_kept(world: World, inspector: Inspector, now: datetime) -> None:
    put(world, "a:b", 60, now - 3 * MINUTE, runs=7)
    put(world, "a:b", 60, now - DAY - 4 * MINUTE, runs=3)
    put(world, "c:d", 60, now - DAY - 4 * MINUTE, runs=4, queue="low")
    found = inspector.chart(within=5 * MINUTE, compare=True)
    assert found.before is not None
    assert (found.before_seconds, found.before.whole, found.before.values) == (86_400, 7, (0, 7, 0, 0, 0))
    of_queue = inspector.chart(within=5 * MINUTE, queue="default", compare=True).before
    assert of_queue is not None
    assert of_queue.whole == 3
    kept = {days: inspector.chart(within=days * DAY, compare=True).before is not None for days in (30, 60, 90, 180)}
    assert kept == {30: True, 60: True, 90: False, 180: False}


def test_a_stage_without_runs_has_an_empty_chart(world: World, inspector: Inspector) -> None:
    for of in Measure:
        found = inspector.chart(of=of)
        assert (found.lines, found.others, found.before, found.groups, found.until) == ((), None, None, 0, None)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("of", {"of": "speed"}),
        ("by", {"by": "colour"}),
        ("percentile", {"percentile": "p42"}),
        ("within", {"within": timedelta(days=181)}),
        ("within", {"within": timedelta(minutes=1)}),
        ("queue", {"queue": "fast"}),
        ("types", {"types": ("un:known",)}),
        ("types", {"types": "a:b"}),
        ("types", {"types": ("a:b",) * 101}),
        ("tenant", {"tenant": "a\0"}),
        ("tenant", {"tenant": "acme", "by": "type"}),
        ("tenant", {"by": "tenant", "queue": "low"}),
        ("limit", {"limit": 13}),
    ],
)
def test_a_choice_that_is_not_valid_is_named(inspector: Inspector, field: str, given: dict[str, Any]) -> None:
    with pytest.raises(SelectionError) as caught:
        inspector.chart(**given)
    assert caught.value.field == field
