"""Why the tasks of a type start late: each cause of the runbook is found with its numbers and its command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.inspector.errors import SelectionError
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import Check, Grade
from joblane.record.task_types import register_limits
from tests.builders.rows import FOR_PARENTS, In, active
from tests.integration.inspector.scene import AnyTask, Scene, is_like
from tests.samples import sample_one, sample_single
from tests.world import World

ORDER = ["waits", "pause", "limits", "tenants", "lanes", "durations", "arrivals", "failures"]
GOOD, WARNING, BAD = Grade.GOOD, Grade.WARNING, Grade.BAD
LATE: dict[str, Any] = {"due_at": In(-7200), "created_at": In(-7200)}
SINGLE = sample_single.type
RUNS = """
insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, finished_at, type, queue, outcome,
                                   wait_ms, duration_ms)
select gen_random_uuid(), 1, 1, 0, at, at, 'sample:one', 'default', $2, 10, $3::int
  from (select clock_timestamp() - make_interval(secs => $4::float8) as at from generate_series(1, $1::int)) x
"""


def runs(on: Scene, number: int, seconds_ago: float, duration_ms: int, outcome: str = "completed") -> Scene:
    return on.sql(RUNS, str(number), outcome, str(duration_ms), str(seconds_ago))


def put_many(on: Scene, number: int, **columns: Any) -> Scene:
    for at in range(number):
        on.put(f"t{at}", **columns)
    return on


def paused(on: Scene, kind: str, name: str) -> None:
    on.put("a", tenant="acme", **LATE).put("b", tenant="acme", **LATE).put("c", **LATE)
    on.act("pause", kind, name, reason="provider is down").act("pause", "tenant", "another")


def put_tenants(on: Scene) -> None:
    """Put a due task of a paused tenant, and more tenants than are read, each with more tasks."""
    [columns] = on.put("paused", tenant="acme", **LATE).world.run(
        "select string_agg(quote_ident(column_name), ', ') from information_schema.columns"
        " where table_schema = 'joblane' and table_name = 'tasks' and column_name not in ('id', 'tenant')"
    )
    on.sql(
        f"insert into joblane.tasks (id, tenant, {columns[0]})"
        f" select 't' || n, 'tenant' || n / 2, {columns[0]} from joblane.tasks, generate_series(0, 1021) as n"
    ).act("pause", "tenant", "acme")


@dataclass(frozen=True)
class Finds:
    """``found``, ``do``: with "…" for any text. ``only``: no other check is bad."""

    given: Callable[[Scene], object]
    what: str
    grade: Grade
    found: str
    do: str = "…"
    task: AnyTask = sample_one
    only: bool = False


def same(on: Scene) -> Scene:
    return on


def by_a_pause(kind: str, name: str, number: int) -> tuple[Finds, ...]:
    text = f"…{kind} {name} was paused … by op: provider is down…{number} due tasks wait for its end…"
    return (
        Finds(lambda on: paused(on, kind, name), "pause", BAD, text, f"`joblane resume {kind} {name}`"),
        Finds(same, "waits", BAD, "3 tasks are due, the oldest for 2 h…"),
    )


CAUSES = {
    "a pause of the type": by_a_pause("type", "sample:one", 3),
    "a pause of its queue": by_a_pause("queue", "default", 3),
    "a pause of a tenant": by_a_pause("tenant", "acme", 2),
    "a pause of a tenant with few of many due tasks": (
        Finds(put_tenants, "pause", BAD, "…1 due task waits for its end…"),
        Finds(same, "waits", BAD, "1,023 tasks are due…"),
    ),
    "a limit whose slots are taken": (
        Finds(
            lambda on: on.put(
                "runs", sample_single, total_limit=SINGLE, passed="type_time", seq=1, first_due_at=In(-60), **active(60)
            ).put("held", sample_single, state="held", **LATE),
            f"limit {SINGLE}",
            BAD,
            "1 of 1 slots are taken, 1 by tasks that run; 1 wait",
            f"`joblane limits set {SINGLE} --max-total 2 --reason …` raises it",
            sample_single,
        ),
    ),
    "a limit that an operator has set to 0": (
        Finds(
            lambda on: on.limit(SINGLE, max_total=0).put("held", sample_single, state="held", **LATE),
            f"limit {SINGLE}",
            BAD,
            "it is 0, set by op, so none of its tasks starts; 1 wait",
            f"`joblane limits reset {SINGLE}` returns to the declared values",
            sample_single,
        ),
    ),
    "a limit with free slots": (
        Finds(
            lambda on: on.put("held", sample_single, state="held", waits_for=SINGLE, place=1, **LATE),
            f"limit {SINGLE}",
            WARNING,
            "it has free slots, and 1 task is held",
            "`joblane schedules run jobs:sweep:0` starts them",
            sample_single,
        ),
    ),
    "limits that are not registered": (
        Finds(
            lambda on: on.sql("delete from joblane.limits"),
            "limits",
            WARNING,
            "…the database lacks its limits…",
            task=sample_single,
        ),
    ),
    "a tenant with most due tasks": (
        Finds(
            lambda on: put_many(on, 24, tenant="acme", **LATE).put("other", tenant="globex", **LATE),
            "tenants",
            WARNING,
            "tenant acme has 24 of 25 due tasks",
            "…`joblane pause tenant acme --for 1h`…",
        ),
    ),
    "a lane in which nothing runs, or that is full": (
        Finds(lambda on: on.put("due", **LATE), "lane default", WARNING, "nothing runs, and 1 task is due"),
        Finds(
            lambda on: on.put("runs", **active(60)),
            "lane default",
            Grade.GOOD,
            "1 run at a time, and 1 task is due",
            "…`concurrency_budget`…",
        ),
    ),
    "runs that take longer than before, and then fail": (
        Finds(
            lambda on: runs(
                runs(
                    on.sql(
                        "update joblane.run_statistics_until set until = date_trunc('minute', now() - interval '6 h')"
                    ),
                    20,
                    5 * 3600,
                    100,
                ),
                6,
                72,
                1_000,
            ),
            "durations",
            WARNING,
            "half of the runs take 939 ms, and 99 ms over the last day",
            only=True,
        ),
        Finds(
            lambda on: runs(on, 6, 72, 100, "failed"),
            "failures",
            WARNING,
            "6 of 12 recent runs failed; 0 tasks wait for a retry",
        ),
    ),
    "tasks that wait for a retry long after an outage": (
        Finds(
            lambda on: put_many(on, 6, state="retry", due_at=In(3600), created_at=In(-7200)),
            "failures",
            WARNING,
            "0 of 0 recent runs failed; 6 tasks wait for a retry",
            "`joblane errors --type sample:one` shows why",
        ),
    ),
    "more tasks that arrive than end": (
        Finds(
            lambda on: put_many(on, 8, due_at=In(-1)).put("later", state="scheduled", due_at=In(7_300)),
            "arrivals",
            WARNING,
            "9 tasks came in the last 15 minutes, and 0 ended",
        ),
        Finds(same, "waits", GOOD, "8 tasks are due, …"),
        Finds(same, "scheduled", GOOD, "1 task is due later, the first in 2 h: these are not late"),
    ),
    "tasks that wait for others": (
        Finds(
            lambda on: put_many(on, 3, state="held", **FOR_PARENTS, **LATE),
            "waits",
            GOOD,
            "no task is due and waits; 3 wait for other tasks",
        ),
    ),
    "runs that have stopped": (
        Finds(
            lambda on: put_many(on, 5, **active(-3600)).put("due", **LATE),
            "leases",
            WARNING,
            "5 active tasks are not running: their leases ended more than 5 min ago",
            "…--lease-over…",
        ),
        Finds(same, "lane default", WARNING, "nothing runs, and 1 task is due"),
    ),
    "a late sweep": (
        Finds(
            lambda on: on.declare(sample_one, jobs_sweep).put(
                "swept", jobs_sweep, payload={}, state="completed", finished_at=In(-13 * 3600)
            ),
            "jobs:sweep",
            BAD,
            "it last completed 13 h ago…",
        ),
    ),
}


def bad(checks: Sequence[Check]) -> set[str]:
    return {check.what for check in checks if check.grade in (BAD, WARNING) and check.what != "jobs:sweep"}


@pytest.fixture
def scene(scene: Scene) -> Scene:
    """A deployed stage, with the limits of one type."""
    scene.sql("delete from joblane.limits").world.deploy(scene.scope.tasks.values())
    register_limits(scene.world.database.get(), {SINGLE: sample_single})
    return scene


@pytest.mark.parametrize("case", CAUSES.values(), ids=CAUSES.keys())
def test_a_cause_is_found_with_its_numbers_and_its_command(scene: Scene, case: tuple[Finds, ...]) -> None:
    for finds in case:
        finds.given(scene)
        checks = scene.inspector.why_slow(finds.task.type)
        [check] = [check for check in checks if check.what == finds.what]
        assert (check.grade, is_like(check.found, finds.found)) == (finds.grade, True), check
        assert is_like(check.do, finds.do), check
        if finds.only:
            assert bad(checks) == {finds.what}


def test_a_type_without_tasks_is_not_slow_and_the_list_has_the_runbooks_order(scene: Scene) -> None:
    checks = scene.inspector.why_slow("sample:one")
    assert [check.what for check in checks if check.what in ORDER] == ORDER
    assert bad(checks) == set()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        *(("sample:oen", "there is no task type"), ("default", "there is no task type"), ("", "there is no task type")),
        *((3, "there is no task type"), ("SAMPLE:ONE", "there is no task type .* Did you mean 'sample:one'")),
    ],
)
def test_a_name_that_is_no_type_is_refused_with_the_nearest(
    deployed: World, inspector: Inspector, name: Any, says: str
) -> None:
    with pytest.raises(SelectionError, match=says):
        inspector.why_slow(name)
