"""Statistics of runs: each run is added up once, and percentiles are close to the true ones."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane.record.driver.database import Database
from joblane.record.run_statistics import merged, percentile
from joblane.sweep import run_statistics
from joblane.sweep.run_statistics import AddedUp, add_up
from tests.world import World


def this_minute() -> datetime:
    return datetime.now(UTC).replace(second=0, microsecond=0)


def run_ended(world: World, at: datetime, **columns: Any) -> None:
    row = {"type": "a:b", "queue": "default", "outcome": "completed", "duration_ms": 10, "wait_ms": 100, **columns}
    names = ["task_id", "run", "attempt", "generation", "started_at", "finished_at", *row]
    [[number]] = world.run("select count(*) from joblane.runs")
    values = [f"t{number}", 1, 1, 1, columns.get("started_at", at - timedelta(seconds=2)), at, *row.values()]
    places = ", ".join(f"${n}" for n in range(1, len(names) + 1))
    world.run(f"insert into joblane.task_attempts ({', '.join(names)}) values ({places})", *values)


def rows(world: World, columns: str, condition: str = "true") -> list[list[Any]]:
    return world.run(
        f"select {columns} from joblane.run_statistics where {condition} order by kind, name, seconds, at, queue"
    )


def add(world: World) -> AddedUp:
    return add_up(world.database.get(), may_continue=lambda: True)


def test_each_run_is_added_up_once_by_type_and_minute(world: World) -> None:
    # given
    now = this_minute()
    ago = now - timedelta(minutes=20)
    run_ended(world, ago, cost_usd=0.5, tenant="acme")
    run_ended(world, ago + timedelta(seconds=59), outcome="failed", wait_ms=0)
    run_ended(world, ago + timedelta(minutes=1), outcome="timeout", duration_ms=900_000)
    run_ended(world, ago + timedelta(minutes=1), outcome="archived", queue="low")
    run_ended(world, ago + timedelta(minutes=1), outcome="lost", duration_ms=None, type="c:d")
    run_ended(world, ago + timedelta(minutes=1), outcome="snoozed", type="c:d")
    run_ended(world, ago + timedelta(minutes=2), type="jobs:sweep", queue="low", cost_usd=0.25)
    run_ended(world, now + timedelta(seconds=1), type="too:young")
    # when
    added = add(world)
    assert added.minutes >= 58
    assert (added.runs, added.failed, added.cost_usd) == (6, 4, 0.75)  # the cost includes the library's own runs
    assert replace(again := add(world), minutes=0) == AddedUp()
    assert again.minutes in (0, 1)
    # then
    assert rows(world, "name, queue, at, completed, failed, archived, lost, others, cost_usd", "seconds = 60") == [
        ["a:b", "default", ago, 1, 1, 0, 0, 0, 0.5],
        ["a:b", "default", ago + timedelta(minutes=1), 0, 1, 0, 0, 0, 0.0],
        ["a:b", "low", ago + timedelta(minutes=1), 0, 0, 1, 0, 0, 0.0],
        ["c:d", "default", ago + timedelta(minutes=1), 0, 0, 0, 1, 1, 0.0],
        ["jobs:sweep", "low", ago + timedelta(minutes=2), 1, 0, 0, 0, 0, 0.25],
    ]
    [[waits, durations]] = rows(world, "waits, durations", f"seconds = 60 and name = 'a:b' and at = '{ago}'")
    assert (waits, durations) == ([[0, 1], [27, 1]], [[14, 2]])


def test_an_hour_is_the_sum_of_its_minutes_and_has_the_tenants(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # given runs of four tenants in the last full hour that is added up, of which two have rows of their own
    monkeypatch.setattr(run_statistics, "FIRST", timedelta(hours=3))
    monkeypatch.setattr(run_statistics, "TENANTS", run_statistics.TENANTS.replace("limit 200", "limit 2"))
    hour = (this_minute() - timedelta(minutes=3)).replace(minute=0) - timedelta(hours=1)
    for tenant, number in (("acme", 3), ("globex", 2), ("few", 1), (None, 1)):
        for minute in range(number):
            run_ended(world, hour + timedelta(minutes=minute), tenant=tenant, wait_ms=2**minute)
    # when
    add(world)
    # then
    [[number, waits]] = rows(world, "completed, waits", f"kind = 'type' and seconds = 3600 and at = '{hour}'")
    minutes = [histogram for (histogram,) in rows(world, "waits", f"seconds = 60 and at >= '{hour}'")]
    assert (number, merged([waits])) == (7, merged(minutes))
    assert rows(world, "name, completed", "kind = 'tenant' and seconds = 3600") == [
        ["*", 2],
        ["acme", 3],
        ["globex", 2],
    ]


def test_a_day_is_the_sum_of_its_hours(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # given runs in several hours of yesterday, of three tenants, of which two have rows of their own
    for name in ("FIRST", "LONGEST"):
        monkeypatch.setattr(run_statistics, name, timedelta(days=2))
    monkeypatch.setattr(run_statistics, "DAY", run_statistics.DAY.replace("limit 200", "limit 2"))
    now = this_minute() - timedelta(minutes=3)
    day = now.replace(hour=0, minute=0) - timedelta(days=1)
    for tenant, number in (("acme", 3), ("globex", 2), ("few", 1)):
        for at in range(number):
            run_ended(world, day + timedelta(hours=11 * at, minutes=5), tenant=tenant, wait_ms=2**at, cost_usd=0.5)
    run_ended(world, day + timedelta(hours=3), type="c:d", outcome="failed", duration_ms=7_000, tenant="acme")
    # when
    add(world)
    # then
    of_day = f"seconds = 86400 and at = '{day}'"
    assert rows(world, "kind, name, queue, completed, failed, cost_usd, longest_ms", of_day) == [
        ["tenant", "*", "", 1, 0, 0.5, 10],
        ["tenant", "acme", "", 3, 1, 1.5, 7_000],
        ["tenant", "globex", "", 2, 0, 1.0, 10],
        ["type", "a:b", "default", 6, 0, 3.0, 10],
        ["type", "c:d", "default", 0, 1, 0.0, 7_000],
    ]
    for name in ("a:b", "acme"):
        [[waits]] = rows(world, "waits", f"{of_day} and name = '{name}'")
        hours = [histogram for (histogram,) in rows(world, "waits", f"seconds = 3600 and name = '{name}'")]
        assert merged([waits]) == merged(hours)
    assert world.run("select count(*) from joblane.run_statistics where seconds = 86400") == [[5]]  # today is not over


def test_two_sweeps_at_once_add_nothing_up_twice(world: World) -> None:
    run_ended(world, this_minute() - timedelta(minutes=20))
    with Database(world.url) as database:
        other = database.get()
        other.execute_simple("begin")
        other.run(run_statistics.NEXT)
        assert add(world) == AddedUp()
        other.execute_simple("rollback")
    assert add(world).minutes > 0
    assert rows(world, "completed", "seconds = 60") == [[1]]


def test_old_statistics_are_removed(world: World) -> None:
    world.run(
        f"insert into joblane.run_statistics ({run_statistics.COLUMNS}) select 'type', 'a:b', 'low', seconds,"
        " now() - make_interval(days => days + n), 1, 0, 0, 0, 0, 0, '{}', '{}', 0, 0, null"
        " from (values (60, 30), (3600, 30), (86400, 180)) as kept (seconds, days), generate_series(-2, 2) as n"
    )
    world.run(
        "update joblane.run_statistics_until"
        " set until = date_trunc('hour', clock_timestamp() - interval '2 min', 'UTC') - interval '5 min'"
    )
    # when the end of an hour is added up
    add(world)
    # then
    kept = world.run("select seconds, count(*) from joblane.run_statistics group by 1 order by 1")
    assert kept == [[60, 2], [3600, 2], [86400, 2]]


@pytest.mark.parametrize("seed", range(5))
def test_a_percentile_is_within_ten_percent(seed: int) -> None:
    dice = random.Random(seed)
    times = sorted(round(dice.lognormvariate(5, 2)) for _ in range(2_000))
    buckets = merged([[[0 if time < 1 else math.floor(math.log2(time) * 4) + 1, 1]] for time in times])
    for share in (0.5, 0.95, 0.99):
        true, found = times[math.ceil(len(times) * share) - 1], percentile(buckets, share)
        assert found is not None
        assert abs(found - true) <= 0.1 * true + 0.5, (share, true, found)
    assert percentile(merged([]), 0.5) is None
