"""The numbers of runs: the cost of each run, the statistics of a period, and a type or a tenant over time."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from joblane import SkipRetry, TaskContext
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.listing import LISTINGS
from joblane.inspector.stage import tenants
from joblane.inspector.stage.trends.performance import BUCKET, STATISTICS
from joblane.inspector.views import TenantRow
from joblane.prices import PRICES, compute
from joblane.sweep import run_statistics
from joblane.sweep.run_statistics import add_up
from tests.builders.events import message
from tests.builders.rows import active, put
from tests.integration.sweep.test_run_statistics import this_minute
from tests.samples import Sample, behaviour, sample_batch, sample_one
from tests.world import World

REQUEST, SQS = PRICES["Lambda request"].each, PRICES["SQS request"].each


def add(world: World, number: int, minutes_ago: float, **columns: Any) -> None:
    """Insert an attempt."""
    given = {"type": "some:work", "outcome": "completed", "duration_ms": 100, "wait_ms": 10, "cost_usd": 1e-6} | columns
    names, places = ", ".join(given), ", ".join(f"${n}" for n in range(3, len(given) + 3))
    world.run(
        f"insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, {names})"
        f" values ($1, 1, 1, 0, now() - make_interval(secs => $2::float8), {places})",
        f"id-{number}",
        str(60 * minutes_ago),
        *(str(value) if isinstance(value, float) else value for value in given.values()),
    )


# --- The cost of a run ---------------------------------------------------------------------------------------------


def without_time(attempt: dict[str, Any]) -> float:
    """The cost of a run without that of its time, which depends on the machine."""
    gb_seconds = attempt["billed_ms"] / 1000 * attempt["memory_mb"] / 1024
    return float(attempt["cost_usd"] - gb_seconds * compute(os.uname().machine).each)


def test_each_run_keeps_its_time_memory_and_cost_when_it_ends(world: World) -> None:
    @behaviour
    def skip_for_money(payload: Sample, ctx: TaskContext) -> None:
        raise SkipRetry("too expensive")

    @behaviour
    def look_up(payload: Sample, ctx: TaskContext) -> None:
        ctx.session.execute(text("select 1"))  # so its completion commits with the session

    calls = {"nothing": 3, "skip_for_money": 4, "look_up": 3}
    for do, count in calls.items():
        world.deliver(sample_one, message(do, do))
        (attempt,) = world.attempts(do)
        assert attempt["memory_mb"] == sample_one.memory_mb
        assert attempt["billed_ms"] >= attempt["duration_ms"]
        assert without_time(attempt) == pytest.approx(REQUEST + count * SQS)


def test_cancelled_and_continued_runs_also_have_a_cost(world: World) -> None:
    @behaviour
    def cancel_me(payload: Sample, ctx: TaskContext) -> None:
        world.run("update joblane.tasks set cancel_requested_at = now() where id = $1", ctx.task_id)

    world.deliver(sample_one, message("cancel_me", "it"))
    (attempt,) = world.attempts("it")
    assert attempt["outcome"] == "cancelled"
    assert attempt["cost_usd"] > 0


def test_runs_of_a_batch_share_their_invocation(world: World) -> None:
    world.deliver(sample_batch, *(message("nothing", f"batch-{n}", type_="sample:batch") for n in range(10)))
    for number in range(10):
        (attempt,) = world.attempts(f"batch-{number}")
        assert without_time(attempt) == pytest.approx((REQUEST + 2 * SQS) / 10 + SQS)


def test_a_lost_run_has_no_cost(world: World) -> None:
    put(world, sample_one, "it", **active(-60))
    world.deliver(sample_one, message("nothing", "it"))
    lost, done = world.attempts("it")
    assert (lost["outcome"], lost["cost_usd"]) == ("lost", None)
    assert done["cost_usd"] > 0


# --- Statistics ----------------------------------------------------------------------------------------------------


def test_runs_are_counted_by_outcome_the_most_expensive_type_first(world: World, inspector: Inspector) -> None:
    for number, outcome in enumerate(["completed", "completed", "failed", "timeout", "archived", "lost", "snoozed"]):
        add(world, number, 5, outcome=outcome, duration_ms=100 * number, wait_ms=number, cost_usd=1e-6)
    add(world, 7, 1, outcome=None, duration_ms=None, wait_ms=7, cost_usd=None)
    add(world, 8, 5, type="dear:work", cost_usd=1.0)
    dear, work = inspector.statistics()
    assert (dear.key, dear.started, dear.cost_usd) == ("dear:work", 1, 1.0)
    assert (work.key, work.started, work.completed, work.retried, work.archived, work.lost) == (
        *("some:work", 8),
        *(2, 2, 1, 1),
    )
    assert (work.wait_ms, work.duration_ms, work.longest_ms) == (4, 300, 600)  # 3.5 is rounded to the even number
    assert work.cost_usd == pytest.approx(7e-6)


def test_a_type_has_its_p99_and_its_timeout(world: World, inspector: Inspector) -> None:
    for number in range(100):
        add(world, number, 5, type="sample:one", duration_ms=18_000 if number > 97 else 1000)
    add(world, 100, 5, type="sample:one", outcome="lost", duration_ms=None)
    [of_type] = inspector.statistics()
    assert of_type.timeout_ms == 20_000
    assert of_type.p99_ms == pytest.approx(18_000, rel=0.1)
    assert of_type.timeout_share == 0.9
    [of_tenant] = inspector.statistics(by="tenant")
    assert (of_tenant.p99_ms, of_tenant.timeout_ms, of_tenant.longest_ms) == (None, None, 18_000)


def test_runs_that_started_earlier_are_left_out(world: World, inspector: Inspector) -> None:
    add(world, 1, 4)
    add(world, 2, 6)
    assert [one.started for one in inspector.statistics(within=timedelta(minutes=5))] == [1]
    assert [one.started for one in inspector.statistics(within=timedelta(days=30))] == [2]


@pytest.mark.parametrize(("by", "keys"), [("type", ["some:work", "rare:work"]), ("tenant", ["acme", ""])])
def test_the_runs_of_days_are_added_up_hours_and_the_runs_since(
    world: World, inspector: Inspector, by: str, keys: list[str]
) -> None:
    # given a run every 20 minutes of three days, each third one across the end of an hour, added up until two hours ago
    for number in range(216):
        outcome, type_ = ("completed", "some:work") if number % 10 else ("failed", "rare:work")
        add(world, number, 20 * number + 1, outcome=outcome, type=type_, queue="low", duration_ms=number, wait_ms=7)
    [[seconds]] = world.run("select (extract(epoch from max(started_at)) % 3600 + 0.5)::float8 from joblane.runs")
    world.run("update joblane.task_attempts set started_at = started_at - make_interval(secs => $1::float8)", seconds)
    world.run("update joblane.task_attempts set finished_at = started_at + interval '1 s'")
    world.run("update joblane.task_attempts set tenant = 'acme' where outcome = 'completed'")
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    world.run("update joblane.run_statistics_until set until = $1", now - timedelta(days=3, hours=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_statistics, "LONGEST", timedelta(days=9))
        patch.setattr(run_statistics, "NEXT", run_statistics.NEXT.replace("2 min", "2 h"))
        add_up(world.database.get(), may_continue=lambda: True)
    added = world.run("select count(*) from joblane.run_statistics where seconds = 3600")
    assert added[0][0] > 100
    # then a day has the runs that started in it, those before its first whole hour included
    day = "select count(*) from joblane.runs where started_at >= now() - interval '1 day'"
    [[before]] = world.run(day)
    started = sum(one.started for one in inspector.statistics(within=timedelta(days=1), by=by))
    [[after]] = world.run(day)
    assert after <= started <= before
    all_runs = inspector.statistics(within=timedelta(days=4), by=by)
    # when the runs that are added up are removed
    world.run(
        "delete from joblane.task_attempts where finished_at <"
        " (select date_trunc('hour', until, 'UTC') from joblane.run_statistics_until)"
    )
    most, few = inspector.statistics(within=timedelta(days=4), by=by)
    # then
    assert (most, few) == all_runs
    assert [most.key, few.key] == keys
    assert (most.started, most.completed, few.started, few.retried) == (194, 194, 22, 22)
    assert (most.wait_ms, few.wait_ms, most.longest_ms, few.longest_ms) == (7, 7, 215, 210)
    assert most.duration_ms == round(sum(number for number in range(216) if number % 10) / 194)
    assert most.cost_usd == pytest.approx(194e-6)


def test_by_tenant_runs_without_a_tenant_have_an_empty_key(world: World, inspector: Inspector) -> None:
    add(world, 1, 1, tenant="acme", cost_usd=0.5)
    add(world, 2, 1, tenant=None)
    add(world, 3, 1, tenant=None)
    assert [(one.key, one.started) for one in inspector.statistics(by="tenant")] == [("acme", 1), ("", 2)]


def test_without_runs_there_are_no_statistics(inspector: Inspector) -> None:
    assert inspector.statistics() == ()


@pytest.mark.parametrize("within", [timedelta(seconds=59), timedelta(days=31), timedelta(0), -timedelta(days=1)])
def test_a_period_that_is_too_short_or_too_long_is_refused(inspector: Inspector, within: timedelta) -> None:
    with pytest.raises(SelectionError, match="within: 1m to 30d is required, not "):
        inspector.statistics(within=within)


def test_another_grouping_is_refused(inspector: Inspector) -> None:
    with pytest.raises(SelectionError, match="by: type or tenant is required, not 'queue'"):
        inspector.statistics(by="queue")


@pytest.mark.parametrize("by", ["type", "tenant"])
def test_runs_are_found_by_the_index_on_their_start(world: World, by: str) -> None:
    # given many runs, few of which are recent
    world.run(
        "insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, type)"
        " select 'id-' || n, 1, 1, 0, now() - make_interval(mins => n), 'some:work' from generate_series(1, 50000) n"
    )
    world.run("analyze joblane.task_attempts")
    plan = world.run("explain " + STATISTICS.format(column=by, histogram=BUCKET), "3600", None, None)
    assert "task_attempts_started" in "\n".join(row[0] for row in plan)


# --- Over time ------------------------------------------------------------------------------------------------------


@pytest.fixture
def ended(deployed: World) -> World:
    """A stage in which a run has ended every 20 minutes of three days, the last of them not added up."""
    now = this_minute()
    deployed.run(
        "insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, finished_at, type, queue,"
        " tenant, outcome, wait_ms, duration_ms, cost_usd)"
        " select 't' || n, 1, 1, 1, at - interval '1 s', at, 'a:b', 'low', 'acme',"
        " case when n % 10 = 0 then 'failed' else 'completed' end, 100 * (n % 10), 1000, 0.001"
        " from (select n, $1::timestamptz - make_interval(mins => 1 + 20 * n) as at from generate_series(0, 215) n) x",
        now,
    )
    deployed.run("update joblane.run_statistics_until set until = $1", now - timedelta(days=3, hours=1))
    return deployed


@pytest.mark.parametrize(
    ("within", "runs", "step"),
    [(timedelta(hours=2), 6, 60), (timedelta(days=1), 72, 600), (timedelta(days=3), 216, 3600)],
)
@pytest.mark.parametrize("added", [True, False])
def test_the_numbers_are_those_of_the_runs_added_up_or_not(
    ended: World,
    inspector: Inspector,
    monkeypatch: pytest.MonkeyPatch,
    within: timedelta,
    runs: int,
    step: int,
    added: bool,
) -> None:
    # given
    monkeypatch.setattr(run_statistics, "LONGEST", timedelta(days=9))
    if added:
        add_up(ended.database.get(), may_continue=lambda: True)
    # when
    found = inspector.performance(PauseScope.TYPE, "a:b", within=within)
    # then
    if added:
        assert runs <= found.total.number <= runs + step // 1200 + 1
    if added and within <= timedelta(days=1):
        assert found.earlier is not None
        assert runs <= found.earlier.number <= runs + step // 1200 + 1
        assert found.earlier.duration_ms is not None
    assert (found.earlier is None) is (within > timedelta(days=1))
    assert found.step_seconds == step
    assert sum(period.counts.number for period in found.periods) == found.total.number
    assert found.total.cost_usd == pytest.approx(0.001 * found.total.number)
    if added or within <= timedelta(hours=2):
        assert found.total.unsuccessful == pytest.approx(found.total.number / 10, abs=1)
    assert found.total.duration_ms is not None
    assert found.total.duration_ms.p50 == pytest.approx(1000, rel=0.1)
    gaps = {later.at - earlier.at for earlier, later in zip(found.periods, found.periods[1:], strict=False)}
    assert gaps == {timedelta(seconds=step)}


def test_a_tenants_runs_are_by_hour(ended: World, inspector: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_statistics, "LONGEST", timedelta(days=9))
    add_up(ended.database.get(), may_continue=lambda: True)
    found = inspector.performance(PauseScope.TENANT, "acme", within=timedelta(hours=6))
    assert found.step_seconds == 3600
    assert 18 <= found.total.number <= 21
    assert found.earlier is not None
    assert 18 <= found.earlier.number <= 21
    assert inspector.performance(PauseScope.TENANT, "globex").total.number == 0


def test_tenants_are_listed_by_their_trouble_or_by_a_number(deployed: World, inspector: Inspector) -> None:
    # given
    for number in range(3):
        put(deployed, sample_one, f"flood{number}", tenant="flood")
    put(deployed, sample_one, "late", tenant="late")
    put(deployed, sample_one, "held", tenant="late", state="held")
    put(deployed, sample_one, "later", state="scheduled", due_at=(this_minute() + timedelta(hours=1)).isoformat())
    deployed.run("update joblane.tasks set due_at = due_at - interval '10 min' where id = 'late'")
    deployed.run(
        "insert into joblane.task_attempts (task_id, run, attempt, generation, tenant, outcome)"
        " values ('x', 1, 1, 1, 'fast', 'completed'), ('y', 1, 1, 1, 'fast', 'timeout')"
    )
    inspector.pause(PauseScope.TENANT, "flood", reason="flood")
    # when
    found = inspector.tenants()
    # then
    assert [(row.tenant, row.due, row.held, row.later, row.started, row.failed) for row in found] == [
        ("flood", 3, 0, 0, 0, 0),
        ("late", 1, 1, 0, 0, 0),
        ("fast", 0, 0, 0, 2, 1),
        ("", 0, 0, 1, 0, 0),
    ]
    assert [row.pause is not None for row in found] == [True, False, False, False]
    assert found[1].oldest_wait_seconds == pytest.approx(600, abs=30)
    assert found[2].failed_share == 0.5
    assert [row.tenant for row in inspector.tenants(limit=1)] == ["flood"]
    # and in each other order, with tenants without a value last
    first = {
        "tenant": "", "due": "flood", "oldest": "late", "active": "flood", "held": "late", "later": "", "runs": "fast",
        "failed": "fast", "share": "fast",
    }  # fmt: skip
    assert {order.sort for order in LISTINGS[TenantRow].orders.values()} == first.keys()
    for sort, tenant in first.items():
        by = inspector.tenants(sort=sort)
        assert by[0].tenant == tenant, sort
        assert {row.tenant for row in by} == {row.tenant for row in found}
    with pytest.raises(SelectionError, match=r"sort: trouble, tenant, .* are valid, not 'due; drop'"):
        inspector.tenants(sort="due; drop")


def test_a_tenant_is_shown_by_its_types(deployed: World, inspector: Inspector) -> None:
    # given tasks of two tenants
    for number in range(3):
        put(deployed, sample_one, f"due{number}", tenant="acme")
    put(deployed, sample_one, "other", tenant="globex")
    put(deployed, sample_one, "held", tenant="acme", state="held")
    put(deployed, sample_one, "again", tenant="acme", state="retry")
    deployed.run("update joblane.tasks set due_at = now() + interval '1 h' where id = 'again'")
    deployed.run("update joblane.tasks set due_at = now() - interval '10 min' where id = 'due1'")
    deployed.run(
        "insert into joblane.task_attempts (task_id, run, attempt, generation, type, tenant, outcome, wait_ms)"
        " values ('x', 1, 1, 1, $1, 'acme', 'completed', 100), ('y', 1, 1, 1, $1, 'acme', 'timeout', 300),"
        " ('z', 1, 1, 1, 'a:gone', 'acme', 'completed', null), ('o', 1, 1, 1, $1, 'globex', 'timeout', 7)",
        sample_one.type,
    )
    inspector.pause(PauseScope.TENANT, "acme", reason="flood")
    # when
    found = inspector.tenant("acme")
    # then
    first, gone = found.types
    assert (first.type, first.due, first.held, first.retry, first.later) == (sample_one.type, 3, 1, 1, 1)
    assert (first.started, first.failed, first.failed_share, first.wait_ms) == (2, 1, 0.5, 200)
    assert (gone.type, gone.due, gone.started, gone.failed, gone.wait_ms) == ("a:gone", 0, 1, 0, None)
    assert found.oldest_wait_seconds == first.oldest_wait_seconds == pytest.approx(600, abs=60)
    assert found.pause is not None
    # and a tenant without anything, and a name that PostgreSQL refuses
    assert inspector.tenant("nobody").types == ()
    with pytest.raises(SelectionError, match="name: "):
        inspector.tenant("a\0b")


def test_the_last_failures_are_listed_by_their_end(deployed: World, inspector: Inspector) -> None:
    # given a task of long ago that has failed now, one that failed earlier and has completed since, and two others
    for id_, minutes, outcome in (
        ("old", 1, "archived"),
        ("done", 5, "failed"),
        ("good", 0, "completed"),
        ("far", 90, "lost"),
    ):
        put(deployed, sample_one, id_, state="completed")
        deployed.run(
            "insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, finished_at, outcome,"
            " error_type, error_message) values ($1, 1, 2, 1, clock_timestamp() - make_interval(mins => $2::int + 1),"
            " clock_timestamp() - make_interval(mins => $2::int), $3, 'ValueError', 'bad')",
            id_,
            str(minutes),
            outcome,
        )
    deployed.run("update joblane.tasks set created_at = created_at - interval '9 days' where id = 'old'")
    # then
    found = inspector.failures(minutes=60)
    assert [(row.id, row.attempts, row.error_type) for row in found] == [
        ("old", 2, "ValueError"),
        ("done", 2, "ValueError"),
    ]
    assert [row.id for row in inspector.failures(minutes=240, limit=3)] == ["old", "done", "far"]
    with pytest.raises(SelectionError, match=r"^minutes: "):
        inspector.failures(minutes=241)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ((PauseScope.QUEUE, "low"), "kind"),
        ((PauseScope.TYPE, "nul\0"), "name"),
        ((PauseScope.TYPE, "a:b", timedelta(minutes=1)), "within"),
        ((PauseScope.TYPE, "a:b", timedelta(days=31)), "within"),
    ],
)
def test_a_wrong_question_names_its_field(inspector: Inspector, given: tuple[Any, ...], field: str) -> None:
    kind, name, *within = given
    with pytest.raises(SelectionError, match=f"^{field}: "):
        inspector.performance(kind, name, **({"within": within[0]} if within else {}))


TENANT_PLANTS = {
    "runs of all tenants": ("and coalesce(tenant, '') = $2 group by 1\n)\nselect", "group by 1\n)\nselect"),
    "tasks of all tenants": ("where coalesce(tenant, '') = $2 group by 1", "where $2::text is not null group by 1"),
    "tasks that are due later": ("and due_at <= clock_timestamp()) as due", ") as due"),
    "retries are not counted": ("where state = 'retry') as retry", "where state = 'lost') as retry"),
}
"""Fault → a part of the statement, and the fault in its place."""


@pytest.mark.plants
@pytest.mark.parametrize("plant", TENANT_PLANTS)
def test_a_planted_fault_in_the_page_of_a_tenant_is_found(
    deployed: World, inspector: Inspector, monkeypatch: pytest.MonkeyPatch, plant: str
) -> None:
    part, fault = TENANT_PLANTS[plant]
    assert part in tenants.TENANT
    monkeypatch.setattr(tenants, "TENANT", tenants.TENANT.replace(part, fault))
    with pytest.raises(AssertionError):
        test_a_tenant_is_shown_by_its_types(deployed, inspector)
