"""The runs of a type or a tenant over time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.inspector import Inspector
from joblane.sweep import run_statistics
from joblane.sweep.run_statistics import add_up
from tests.builders.rows import put
from tests.integration.sweep.test_run_statistics import this_minute
from tests.samples import sample_one
from tests.world import World


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
    assert found.step_seconds == step
    assert sum(period.counts.number for period in found.periods) == found.total.number
    assert found.total.cost_usd == pytest.approx(0.001 * found.total.number)
    if added or within <= timedelta(hours=2):
        assert found.total.unsuccessful == pytest.approx(found.total.number / 10, abs=1)
    assert found.total.duration_ms is not None
    assert found.total.duration_ms.p50 == pytest.approx(1000, rel=0.1)
    gaps = {later.at - earlier.at for earlier, later in zip(found.periods, found.periods[1:], strict=False)}
    assert gaps == {timedelta(seconds=step)}


def test_a_tenants_runs_are_by_hour(ended: World, inspector: Inspector) -> None:
    add_up(ended.database.get(), may_continue=lambda: True)
    found = inspector.performance(PauseScope.TENANT, "acme", within=timedelta(hours=6))
    assert found.step_seconds == 3600
    assert 18 <= found.total.number <= 21
    assert inspector.performance(PauseScope.TENANT, "globex").total.number == 0


def test_tenants_are_listed_by_their_due_tasks(deployed: World, inspector: Inspector) -> None:
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
    assert [row.tenant for row in inspector.tenants(limit=1)] == ["flood"]


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
