"""Trouble: the true cause comes first, and a quiet stage says that all is well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from joblane import Job
from joblane.inspector.errors import SelectionError
from joblane.inspector.sentences.trouble import need_line, trouble_line
from joblane.inspector.stage import glance
from joblane.inspector.stage.doctor import doctor, sessions, trouble, work
from joblane.inspector.views import Grade, TypeNow
from joblane.record.driver.connection import Connection
from joblane.record.schedules import register
from joblane.sqs.tick import id_of
from joblane.sweep.lowered_limits import Lowered
from joblane.tasks.limit import Rate
from tests.builders.rows import In
from tests.builders.snapshots import session, swept
from tests.integration.inspector.scene import Scene, is_like
from tests.samples import Sample, sample_one, sample_rated, sample_sharing, sample_tick, sample_tree

MINUTE, HOUR = 60, 3600
ATTEMPTS = """
insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, finished_at, type, queue, outcome,
                                   wait_ms)
select $1 || n, 1, 1, 1, now() - interval '5 min', now(), $2, 'default', $3, $4::int from generate_series(1, $5::int) n
"""


@pytest.fixture
def scene(scene: Scene) -> Scene:
    """With the schedules of the code."""
    register(scene.world.database.get(), scene.scope.tasks)
    return scene


def run(on: Scene, type_: str, outcome: str, number: int, wait_ms: int = 100) -> Scene:
    """Write runs that have ended within the last five minutes."""
    return on.sql(ATTEMPTS, f"{type_}-{outcome}-", type_, outcome, str(wait_ms), str(number))


def fail(on: Scene, number: int) -> Scene:
    """Write failed runs with one error."""
    return run(on, "sample:one", "failed", number).sql(
        "update joblane.task_attempts set fingerprint='f1', error_type='ConnectionError', error_message='no route'"
        " where outcome = 'failed'"
    )


def needs(on: Scene) -> list[str]:
    return [need_line(check) for check in on.inspector.trouble().needs]


def late(on: Scene, tenant: str, number: int, minutes: int = 30) -> Scene:
    for n in range(number):
        on.put(f"{tenant}-{n}", due_at=In(-minutes * MINUTE), created_at=In(-minutes * MINUTE), tenant=tenant)
    return on


def hold(on: Scene, number: int = 3, minutes: int = 20) -> Scene:
    """Let critical tasks wait for the shared limit."""
    for n in range(number):
        waits = {"wait_kind": "limit", "waits_for": "shared", "shared_limit": "shared", "total_limit": None, "seq": n}
        since = In(-minutes * MINUTE)
        on.put(f"h{n}", sample_sharing, queue="critical", state="held", due_at=since, first_due_at=since, **waits)
    return on


def miss_a_tick(on: Scene) -> Scene:
    on.sql("update joblane.schedules set looked_for_from = now() - interval '90 min' where name = 'sample:tick:0'")
    [[hour]] = on.world.run("select date_trunc('hour', now(), 'UTC') - interval '2 h'")
    return on.put(id_of("sample:tick", "0", hour), sample_tick, state="completed")


def test_a_quiet_stage_is_well(scene: Scene) -> None:
    run(scene, "sample:one", "completed", 20)
    found = scene.inspector.trouble()
    assert (found.needs, found.number, found.grade) == ((), 0, Grade.GOOD)
    assert trouble_line(found) == "All is well: nothing needs you now."


FIRST: dict[str, tuple[Callable[[Scene], object], str, str, str]] = {
    "a limit of 0 that holds critical tasks, with failures elsewhere": (
        lambda on: run(hold(on.limit("shared", total=0)), "sample:one", "failed", 9),
        "limit shared: 0 at a time was set … ago by op: r. Declared: 2 at a time. 3 tasks wait, the oldest for 20 min…",
        "`joblane limits reset shared` returns to the declared values",
        "/limits/show?name=shared",
    ),
    "a rate that an operator has lowered": (
        lambda on: (
            on.limit("sample:rated", rate=Rate(1, timedelta(hours=1)))
            .send("a", "b", "c", task=sample_rated)
            .sql("update joblane.tasks set first_due_at = first_due_at - interval '1 h'")
        ),
        "limit sample:rated: 1 an hour was set … Declared: 1 a second, burst 2. 2 tasks wait, the oldest for 1 h; …",
        "`joblane limits reset sample:rated` …",
        "/limits/show?name=sample%3Arated",
    ),
    "a bad release": (
        lambda on: fail(run(on, "sample:one", "completed", 30), 207),
        "runs of sample:one: 207 of 237 runs in the last 15 minutes failed (87%): [new] ConnectionError: no route",
        "`joblane errors --within 1h --type sample:one` shows its errors; `joblane pause type sample:one` stops it",
        "/errors?within=1h&type=sample%3Aone",
    ),
    "an error that is new, of a type that seldom fails": (
        lambda on: fail(run(on, "sample:one", "completed", 200), 2),
        "error of sample:one: new for 5 min: 2 runs failed: ConnectionError: no route",
        "`joblane errors --within 1h --type sample:one` shows it",
        "/errors?within=1h&type=sample%3Aone",
    ),
    "a tenant that floods a type": (
        lambda on: late(late(late(on, "acme", 40), "globex", 9), "initech", 9),
        "waits of sample:one: 58 tasks are due, the oldest for 30 min; the target is …. Tenant acme has 40 of them",
        "`joblane pause tenant acme --for 1h` lets the others run; `joblane why sample:one` says why",
        "/runs/why?type=sample%3Aone",
    ),
    "late tasks of many tenants": (
        lambda on: late(late(late(on, "acme", 9), "globex", 9), "initech", 9),
        "waits of sample:one: 27 tasks are due, the oldest for 30 min; the target is 10 min",
        "`joblane why sample:one` says why",
        "…",
    ),
    "a missed tick": (
        miss_a_tick,
        "schedule sample:tick:0: … of its ticks of the last day are missing, …",
        "…`joblane schedules run sample:tick:0`…",
        "/schedules/show?name=sample%3Atick%3A0",
    ),
    "a pause for which tasks wait": (
        lambda on: late(on, "acme", 2, minutes=1).pause("type", "sample:one"),
        "type sample:one: paused by ann: they asked (2 due tasks wait)",
        "`joblane resume type sample:one` ends it",
        "/runs?type=sample%3Aone",
    ),
    "a declared limit that makes tasks late": (
        hold,
        "limits of sample:sharing: 3 tasks wait for a limit, the oldest for 20 min; the target is 10 min",
        "`joblane why sample:sharing` says for which",
        "…",
    ),
}


@pytest.mark.parametrize("given", FIRST.values(), ids=FIRST)
def test_the_true_cause_comes_first(scene: Scene, given: tuple[Callable[[Scene], object], str, str, str]) -> None:
    happens, line, do, where = given
    happens(scene)
    first = scene.inspector.trouble().needs[0]
    assert is_like(need_line(first), line), need_line(first)
    assert is_like(first.do, do), first.do
    assert is_like(first.path, where), first.path


def test_an_old_snapshot_is_named_with_the_statement_that_ends_it(scene: Scene) -> None:
    with session(scene.world.url, "begin isolation level repeatable read; select 'a query of a dump'"):
        swept(scene.world, 40, 30, 20)
        [found] = scene.inspector.trouble().needs
    assert (found.what, found.grade) == ("snapshots", Grade.WARNING)
    assert "pg_terminate_backend" in found.do


def test_a_dead_member_of_a_batch_holds_its_callback(scene: Scene) -> None:
    for name, dead in (("import-7", 2), ("whole", 0)):
        batch = scene.world.client.batch(name, on_success=Job(sample_one, Sample()))
        batch.enqueue_many([Job(sample_one, Sample(), task_id=f"{name}-{n}") for n in range(3)])
        batch.seal()
        for n in range(dead):
            scene.act("archive", f"{name}-{n}")
    [found] = [check for check in scene.inspector.trouble().needs if check.what.startswith("batch")]
    assert need_line(found) == "batch import-7: 2 archived members hold its callback on_success"
    assert (found.do.partition(" runs")[0], found.path) == (
        "`joblane batch retry import-7`",
        "/batches/show?id=import-7",
    )
    assert found in scene.inspector.doctor()


def test_connections_and_statements_of_others_are_trouble(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "FULL_PERCENT", 0)
    monkeypatch.setattr(sessions, "LONG", "select 7, 'app', 'dump', 3600::float8")
    needs = scene.inspector.trouble().needs
    assert [(check.what, check.grade) for check in needs] == [("connections", Grade.BAD), ("statements", Grade.WARNING)]


def test_a_pause_for_which_no_task_waits_is_no_trouble(scene: Scene) -> None:
    assert needs(scene.pause("type", "sample:one").put("it", due_at=In(HOUR))) == []


def test_bad_things_come_before_warnings_and_the_rest_is_counted(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(scene.limit("sample:tree", max_total=1).limit("shared", total=0), minutes=1)
    run(run(scene, "sample:one", "failed", 9), "sample:two", "completed", 9)
    found = scene.inspector.trouble()
    assert [check.what for check in found.needs] == ["limit shared", "runs of sample:one", "limit sample:tree"]
    assert trouble_line(found) == "3 things need you, and 2 are urgent."
    monkeypatch.setattr(trouble, "MOST", 2)
    assert (len(scene.inspector.trouble().needs), scene.inspector.trouble().number) == (2, 3)


def test_the_live_tasks_and_the_latest_runs_are_read_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    statements, execute = Counter[str](), Connection.run

    def counted(connection: Connection, sql: str, *parameters: Any) -> Any:
        statements[sql] += 1
        return execute(connection, sql, *parameters)

    monkeypatch.setattr(Connection, "run", counted)
    for operation in (scene.inspector.now, scene.inspector.doctor):
        statements.clear()
        operation()
        read = [sql for sql in statements.elements() if "joblane.runs" in sql and f"'{glance.MINUTES} min'" in sql]
        assert (statements[glance.LIVE_ROWS], read) == (1, [glance.LATEST])


def test_what_a_role_may_not_check_is_not_called_well(scene: Scene) -> None:
    scene.sql("create role reader").sql("grant usage on schema joblane to reader")
    scene.scope.connection.execute_simple("set role reader")
    found = scene.inspector.trouble()
    assert found.grade is Grade.UNKNOWN
    scene.scope.connection.execute_simple("reset role")
    scene.sql("drop owned by reader").sql("drop role reader")


@pytest.mark.parametrize(
    ("due", "tenant"),
    [
        ({"acme": 84, "globex": 76, "initech": 76}, None),
        ({"acme": 84, "globex": 20, "initech": 20}, "acme"),
        ({"acme": 300}, None),
        ({"acme": 19, "globex": 1}, None),
        ({"acme": 50, "globex": 50}, "acme"),
        ({"": 50, "globex": 5}, None),
        ({"acme": 84} | {f"t{n}": 10 for n in range(15)}, "acme"),
    ],
)
def test_a_tenant_floods_a_type_with_a_third_of_the_tasks_and_twice_its_share(
    due: dict[str, int], tenant: str | None
) -> None:
    assert work.flooding(Counter(due)) == tenant


# --- The types ------------------------------------------------------------------------------------------------------


def rows(on: Scene) -> dict[str, TypeNow]:
    return {row.type: row for row in on.inspector.now(minutes=15).types}


def test_types_come_worst_first(scene: Scene) -> None:
    run(run(scene, "sample:one", "failed", 6), "sample:one", "completed", 6)
    run(scene, "sample:tree", "completed", 90)
    late(scene, "acme", 1, minutes=1)
    hold(scene)
    found = list(rows(scene).values())
    assert [row.type for row in found[:3]] == ["sample:one", "sample:sharing", "sample:tree"]
    assert all(row.is_empty for row in found[3:])
    assert {row.type for row in found} == set(scene.scope.tasks)


def test_a_type_has_the_figures_of_its_tasks_and_runs(scene: Scene) -> None:
    run(run(scene, "sample:one", "failed", 2), "sample:one", "completed", 6, wait_ms=900_000)
    late(scene, "acme", 2)
    for n, hours in enumerate((0.5, 5, 30)):
        scene.put(f"dead-{n}", state="archived", created_at=In(-HOUR * hours), finished_at=In(-HOUR * hours))
    scene.pause("queue", "default")
    one = rows(scene)["sample:one"]
    assert (one.started, one.failed, sum(one.minutes), len(one.minutes)) == (8, 2, 8, 15)
    assert (sum(one.failures), len(one.failures)) == (2, 15)
    assert all(failed <= number for failed, number in zip(one.failures, one.minutes, strict=True))
    assert (one.due, one.oldest_wait_seconds, one.dead, one.dead_hour) == (2, None, 2, 1)
    assert (one.failed_share, [pause.name for pause in one.pauses]) == (0.25, ["default"])
    assert one.wait_p95_ms == pytest.approx(900_000, rel=0.1)
    assert (one.failing, one.waiting) == (Grade.WARNING, Grade.WARNING)


def test_runs_under_a_former_name_count_for_the_type(scene: Scene) -> None:
    renamed = sample_tree.types
    assert rows(run(scene, "gone:type", "completed", 1))["gone:type"].target_seconds is None
    assert renamed == (sample_tree.type,)


@pytest.mark.parametrize("minutes", [0, 241, -1])
def test_a_wrong_period_is_refused(scene: Scene, minutes: int) -> None:
    with pytest.raises(SelectionError, match="minutes"):
        scene.inspector.now(minutes=minutes)


# --- Planted faults ---------------------------------------------------------------------------------------------------

PLANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "limits are not read": lambda patch: patch.setattr(trouble, "lowered", lambda connection: []),
    "a limit of 0 is a warning": lambda patch: patch.setattr(Lowered, "stops", False),
    "effects come first": lambda patch: patch.setattr(trouble, "PARTS", (*trouble.PARTS[4:], *trouble.PARTS[:4])),
    "grades are not sorted": lambda patch: patch.setattr(doctor, "ORDER", (Grade.WARNING, Grade.BAD, Grade.UNKNOWN)),
}


@pytest.mark.plants
@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_a_planted_fault_is_found(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    plant(monkeypatch)
    check = partial(test_bad_things_come_before_warnings_and_the_rest_is_counted, scene, monkeypatch)
    with pytest.raises((AssertionError, IndexError)):
        check()
