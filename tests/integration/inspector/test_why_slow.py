"""Why the tasks of a type start late: each cause of the runbook is found with its numbers and its command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.views import Check, Grade
from joblane.record.task_types import register_limits
from joblane.tasks.task import Task
from tests.builders.rows import FOR_PARENTS, In, active, put
from tests.samples import sample_one, sample_single
from tests.world import World

ORDER = ["waits", "pause", "limits", "tenants", "lanes", "durations", "arrivals", "failures", "jobs:sweep"]
LATE = In(-7200)


def found(inspector: Inspector, what: str, task: Task[Any, Any] = sample_one) -> Check:
    [check] = [check for check in inspector.why_slow(task.type) if check.what == what]
    return check


def of(scope: Scope, *tasks: Task[Any, Any]) -> Inspector:
    """An inspector of a stage with these tasks."""
    return Inspector(Scope(scope.database, scope.sqs, scope.prefix, {task.type: task for task in tasks}, "op"))


def runs(world: World, number: int, *, hours_ago: float, duration_ms: int, outcome: str = "completed") -> None:
    world.run(
        "insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, finished_at, type, queue,"
        " outcome, wait_ms, duration_ms)"
        " select gen_random_uuid(), 1, 1, 0, at, at, $2, 'default', $3, 10, $4::int"
        " from (select clock_timestamp() - make_interval(secs => $5::float8) as at from generate_series(1, $1::int)) x",
        str(number),
        sample_one.type,
        outcome,
        str(duration_ms),
        str(3600 * hours_ago),
    )


def bad(checks: Sequence[Check]) -> list[str]:
    return [check.what for check in checks if check.grade in (Grade.BAD, Grade.WARNING) and check.what != "jobs:sweep"]


def test_a_type_without_tasks_is_not_slow_and_the_list_has_the_runbooks_order(
    deployed: World, inspector: Inspector
) -> None:
    checks = inspector.why_slow(sample_one.type)
    assert [check.what for check in checks if check.what in ORDER] == [what for what in ORDER if what != "jobs:sweep"]
    assert bad(checks) == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [(PauseScope.TYPE, sample_one.type), (PauseScope.QUEUE, "default"), (PauseScope.TENANT, "acme")],
)
def test_a_pause_of_the_type_its_queue_or_a_tenant_is_named(
    deployed: World, inspector: Inspector, kind: PauseScope, name: str
) -> None:
    # given
    for number, tenant in enumerate(["acme", "acme", None]):
        put(deployed, sample_one, f"t{number}", tenant=tenant, due_at=LATE, created_at=LATE)
    inspector.pause(kind, name, reason="provider is down")
    inspector.pause(PauseScope.TENANT, "another")
    # when
    check = found(inspector, "pause")
    # then
    assert check.grade == Grade.BAD
    assert f"{kind} {name} was paused" in check.found
    assert "by op: provider is down" in check.found
    assert f"{2 if kind is PauseScope.TENANT else 3} due tasks wait for its end" in check.found
    assert check.do == f"`joblane resume {kind} {name}`"
    assert found(inspector, "waits").grade == Grade.BAD
    assert "3 tasks are due, the oldest for 2 h" in found(inspector, "waits").found


def test_a_limit_whose_slots_are_taken_is_named(deployed: World, scope: Scope) -> None:
    # given
    inspector = of(scope, sample_single)
    assert "the database lacks its limits" in found(inspector, "limits", sample_single).found
    register_limits(deployed.database.get(), {sample_single.type: sample_single})
    put(
        deployed,
        sample_single,
        "runs",
        total_limit=sample_single.type,
        passed="type_time",
        seq=1,
        first_due_at=In(-60),
        **active(60),
    )
    put(deployed, sample_single, "held", state="held", due_at=LATE, created_at=LATE)
    # when
    check = found(inspector, f"limit {sample_single.type}", sample_single)
    # then
    assert check.grade == Grade.BAD
    assert "1 run and 1 of 1 slots are taken; 1 wait" in check.found
    assert check.do == f"`joblane limits set {sample_single.type} --max-total 2 --reason …` raises it"


def test_a_tenant_with_most_due_tasks_is_named(deployed: World, inspector: Inspector) -> None:
    for number in range(25):
        put(deployed, sample_one, f"t{number}", tenant="acme" if number else "globex", due_at=LATE)
    check = found(inspector, "tenants")
    assert (check.grade, check.found) == (Grade.WARNING, "tenant acme has 24 of 25 due tasks")
    assert "`joblane pause tenant acme`" in check.do


def test_a_lane_in_which_nothing_runs_or_that_is_full_is_named(deployed: World, inspector: Inspector) -> None:
    # given
    put(deployed, sample_one, "due", due_at=LATE)
    assert found(inspector, "lane default").found == "nothing runs, and 1 task is due"
    # when
    put(deployed, sample_one, "runs", **active(60))
    # then
    check = found(inspector, "lane default")
    assert check.found == "1 run at a time, and 1 task is due"
    assert "`concurrency_budget`" in check.do


def test_runs_that_take_longer_than_before_and_runs_that_fail_are_named(deployed: World, inspector: Inspector) -> None:
    # given
    deployed.run("update joblane.run_statistics_until set until = date_trunc('minute', now() - interval '6 h')")
    runs(deployed, 20, hours_ago=5, duration_ms=100)
    runs(deployed, 6, hours_ago=0.02, duration_ms=1_000)
    assert bad(inspector.why_slow(sample_one.type)) == ["durations"]
    check = found(inspector, "durations")
    assert (check.grade, check.found) == (Grade.WARNING, "half of the runs take 939 ms, and 99 ms over the last day")
    # when
    runs(deployed, 6, hours_ago=0.02, duration_ms=100, outcome="failed")
    # then
    check = found(inspector, "failures")
    assert (check.grade, check.found) == (Grade.WARNING, "6 of 12 recent runs failed; 0 tasks wait for a retry")


def test_more_tasks_that_arrive_than_end_and_those_that_are_due_later_are_counted(
    deployed: World, inspector: Inspector
) -> None:
    for number in range(8):
        put(deployed, sample_one, f"t{number}", due_at=In(-1))
    put(deployed, sample_one, "later", state="scheduled", due_at=In(7_300))
    assert found(inspector, "waits").found.startswith("8 tasks are due, ")
    check = found(inspector, "arrivals")
    assert (check.grade, check.found) == (Grade.WARNING, "9 tasks came in the last 15 minutes, and 0 ended")
    assert found(inspector, "scheduled").found == "1 task is due later, the first in 2 h: these are not late"
    assert found(inspector, "scheduled").grade == Grade.GOOD


def test_tasks_that_wait_for_others_are_not_said_to_wait_for_a_limit(deployed: World, inspector: Inspector) -> None:
    for number in range(3):
        put(deployed, sample_one, f"t{number}", state="held", **FOR_PARENTS, due_at=LATE, created_at=LATE)
    assert found(inspector, "waits").found == "no task is due and waits; 3 wait for other tasks"


def test_held_tasks_of_a_limit_with_free_slots_are_named(deployed: World, scope: Scope) -> None:
    # given
    inspector = of(scope, sample_single)
    register_limits(deployed.database.get(), {sample_single.type: sample_single})
    limit = sample_single.type
    put(deployed, sample_single, "held", state="held", waits_for=limit, place=1, due_at=LATE, created_at=LATE)
    # when
    check = found(inspector, f"limit {limit}", sample_single)
    # then
    assert (check.grade, check.found) == (Grade.WARNING, "it has free slots, and 1 task is held")
    assert check.do == "`joblane schedules run jobs:sweep:0` starts them"


def test_tasks_that_wait_for_a_retry_long_after_an_outage_are_named(deployed: World, inspector: Inspector) -> None:
    for number in range(6):
        put(deployed, sample_one, f"t{number}", state="retry", due_at=In(3600), created_at=LATE)
    check = found(inspector, "failures")
    assert (check.grade, check.found) == (Grade.WARNING, "0 of 0 recent runs failed; 6 tasks wait for a retry")
    assert "--state retry" in check.do


def test_runs_that_have_stopped_do_not_count_as_running(deployed: World, inspector: Inspector) -> None:
    # given
    for number in range(5):
        put(deployed, sample_one, f"t{number}", **active(-3600))
    put(deployed, sample_one, "due", due_at=LATE, created_at=LATE)
    # when
    check = found(inspector, "leases")
    # then
    assert check.grade == Grade.WARNING
    assert check.found == "5 active tasks are not running: their leases ended more than 5 min ago"
    assert "--lease-over" in check.do
    assert found(inspector, "lane default").found == "nothing runs, and 1 task is due"


def test_a_pause_of_a_tenant_with_few_of_many_due_tasks_is_named(deployed: World, inspector: Inspector) -> None:
    # given more tenants than are read, each with more tasks than the paused one
    put(deployed, sample_one, "paused", tenant="acme", due_at=LATE, created_at=LATE)
    [columns] = deployed.run(
        "select string_agg(quote_ident(column_name), ', ') from information_schema.columns"
        " where table_schema = 'joblane' and table_name = 'tasks' and column_name not in ('id', 'tenant')"
    )
    deployed.run(
        f"insert into joblane.tasks (id, tenant, {columns[0]})"
        f" select 't' || n, 'tenant' || n / 2, {columns[0]} from joblane.tasks, generate_series(0, 1021) as n"
    )
    inspector.pause(PauseScope.TENANT, "acme")
    # when
    check = found(inspector, "pause")
    # then
    assert check.grade == Grade.BAD
    assert "1 due task waits for its end" in check.found
    assert "1,023 tasks are due" in found(inspector, "waits").found


def test_a_late_sweep_is_named(deployed: World, scope: Scope) -> None:
    inspector = of(scope, sample_one, jobs_sweep)
    put(deployed, jobs_sweep, "swept", {}, state="completed", finished_at=In(-13 * 3600))
    check = found(inspector, "jobs:sweep")
    assert check.grade == Grade.BAD
    assert "it last completed 13 h ago" in check.found


@pytest.mark.parametrize("name", ["sample:oen", "default", "", 3])
def test_a_name_that_is_no_type_is_refused_with_the_nearest(deployed: World, inspector: Inspector, name: Any) -> None:
    with pytest.raises(SelectionError, match="there is no task type"):
        inspector.why_slow(name)


def test_a_type_in_capital_letters_is_not_far(deployed: World, inspector: Inspector) -> None:
    with pytest.raises(SelectionError, match="Did you mean 'sample:one'"):
        inspector.why_slow(sample_one.type.upper())
