"""Errors: failed runs, tasks in retry and archived tasks by their cause, and the marks of operators."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane.inspector.actions import causes as cause_marks
from joblane.inspector.errors import SelectionError
from joblane.inspector.inspector import Inspector
from joblane.inspector.stage.trends import causes as causes_sql
from joblane.inspector.views import Cause, CauseState
from joblane.record.driver.database import Database
from joblane.sweep import causes as causes_sweep
from joblane.sweep.causes import note_causes
from tests.builders.rows import In, active, archived, put
from tests.bulks import Bulks
from tests.integration.inspector.scene import of
from tests.samples import sample_one, sample_tick
from tests.world import World

KNOWN, RESOLVED, IGNORED, OPEN = CauseState.KNOWN, CauseState.RESOLVED, CauseState.IGNORED, CauseState.OPEN
RUN = """
insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, finished_at, outcome, error_type,
                                   error_message, fingerprint, type, queue, tenant)
select $1, $2::int, 1, 0, now() - make_interval(secs => $3::float8), now(), 'failed', $4, $5, $6, $7, 'default', $8
"""


def fail(
    world: World,
    id_: str,
    fingerprint: str,
    *,
    run: int = 1,
    ago: float = 60,
    error: str = "ConnectionError",
    message: str = "no route to host 10.0.0.1",
    type_: str = "sample:one",
    tenant: str | None = None,
) -> None:
    """Write a failed run."""
    world.run(RUN, id_, str(run), str(ago), error, message, fingerprint, type_, tenant)


def in_retry(world: World, id_: str, fingerprint: str, **columns: Any) -> None:
    error: dict[str, Any] = {"error_type": "ConnectionError", "fingerprint": fingerprint, "due_at": In(60)}
    put(world, sample_one, id_, **error | {"state": "retry", "attempts": 1, "runs": 1} | columns)


def causes(inspector: Inspector, **asked: Any) -> list[tuple[str, int, int, int]]:
    """Fingerprint, failed runs, tasks in retry and archived tasks of each cause."""
    found = inspector.errors(**asked).causes
    return [(one.fingerprint, one.runs, one.retry, one.archived) for one in found]


def only(inspector: Inspector, **asked: Any) -> Cause:
    [cause] = inspector.errors(**asked).causes
    return cause


def sweep(world: World) -> int:
    return note_causes(world.database.get(), may_continue=lambda: True)


@pytest.fixture
def world(bulks: Bulks) -> World:
    return bulks.world


def test_an_outage_whose_tasks_retry_comes_before_the_cause_of_archived_tasks(
    inspector: Inspector, world: World
) -> None:
    # given an outage, and a few tasks that were archived with another error
    for number in range(5):
        in_retry(world, f"retry{number}", "outage")
        for run in (1, 2):
            fail(world, f"retry{number}", "outage", run=run, ago=30 * run, tenant=f"tenant-{number % 2}")
    put(world, sample_one, "declined", **archived(fingerprint="declined", error_message="card 7 declined"))
    fail(world, "declined", "declined", run=4, ago=90, error="ValueError", message="card 7 declined")
    # then
    for sort in ("now", "runs", "last"):
        assert causes(inspector, sort=sort) == [("outage", 10, 5, 0), ("declined", 1, 0, 1)]
    first = inspector.errors(types=("sample:one",), within=timedelta(minutes=15)).causes[0]
    assert (first.error, first.tenants, first.state) == ("ConnectionError: no route to host #", 2, "new")
    assert first.example in {f"retry{number}" for number in range(5)}
    # and the bars have each run in its part of the time
    assert (len(first.bars), sum(first.bars), first.bars[0]) == (24, 10, 0)


def test_errors_of_the_last_hour_come_first_and_new_ones_before_others(inspector: Inspector, world: World) -> None:
    # given a large error of the morning, a small one that has been there for days, and a new one
    for run in range(1, 6):
        fail(world, "morning", "over", run=run, ago=7200)
    for run, ago in enumerate((2 * 86_400, 60, 50, 40), 1):
        fail(world, "steady", "steady", run=run, ago=ago)
    fail(world, "outage", "outage")
    sweep(world)
    # then
    orders = {sort: [one[0] for one in causes(inspector, sort=sort)] for sort in ("now", "runs")}
    assert orders == {"now": ["outage", "steady", "over"], "runs": ["over", "steady", "outage"]}


def test_archived_tasks_whose_runs_lie_before_the_time_are_listed(inspector: Inspector, world: World) -> None:
    put(world, sample_one, "it", **archived(fingerprint="aaaa", error_message="no order 7"))
    fail(world, "it", "aaaa", ago=7200)
    put(world, sample_one, "hand", **archived(fingerprint=None, error_type=None))
    found = inspector.errors(within=timedelta(minutes=5)).causes
    assert {(one.fingerprint, one.error, one.runs, one.archived) for one in found} == {
        ("aaaa", "ValueError: no order #", 0, 1),
        ("", "Archived: attempt # of # failed", 0, 1),
    }
    assert all(one.bars == (0,) * 24 for one in found)


@pytest.mark.parametrize("swept", [True, False])
def test_a_task_that_waits_longer_than_the_time_has_the_time_of_its_last_run(
    inspector: Inspector, world: World, swept: bool
) -> None:
    in_retry(world, "it", "aaaa", started_at=In(-172_800))
    fail(world, "it", "aaaa", ago=172_800)
    assert sweep(world) == 1 or not swept
    if not swept:
        world.run("delete from joblane.causes")
    cause = only(inspector)
    assert (cause.runs, cause.retry, cause.state) == (0, 1, OPEN)
    assert {round((datetime.now(UTC) - at).total_seconds(), -3) for at in (cause.first_at, cause.last_at)} == {173_000}
    # and its mark holds, even after its runs have expired
    world.run("delete from joblane.task_attempts")
    assert inspector.mark_errors(("aaaa",), RESOLVED, reason="deployed").before == {"aaaa": OPEN}
    assert only(inspector).state is RESOLVED


def test_errors_are_chosen_by_type_tenant_and_time(inspector: Inspector, world: World) -> None:
    fail(world, "one", "aaaa", tenant="acme")
    fail(world, "two", "aaaa", tenant="other")
    fail(world, "three", "bbbb", type_=sample_tick.type, ago=7200)
    assert causes(inspector) == [("aaaa", 2, 0, 0), ("bbbb", 1, 0, 0)]
    assert causes(inspector, tenant="acme") == [("aaaa", 1, 0, 0)]
    assert causes(inspector, types=(sample_tick.type,)) == [("bbbb", 1, 0, 0)]
    assert causes(inspector, within=timedelta(hours=1)) == [("aaaa", 2, 0, 0)]
    found = inspector.errors(limit=1)
    assert (len(found.causes), found.number, found.runs, found.exact) == (1, 2, 3, False)
    wrong: list[dict[str, Any]] = [
        {"sort": "age"}, {"types": ("no:such",)}, {"within": timedelta(minutes=1)}, {"within": timedelta(days=31)},
        {"limit": 0}, {"limit": 501}, {"state": "gone"}, {"tenant": "a b"},
    ]  # fmt: skip
    for given in wrong:
        with pytest.raises(SelectionError):
            inspector.errors(**given)


def test_two_types_with_one_fingerprint_are_two_causes(inspector: Inspector, world: World) -> None:
    fail(world, "one", "aaaa")
    fail(world, "two", "aaaa", type_=sample_tick.type, ago=120)
    found = inspector.errors().causes
    assert [(one.type, one.runs, one.example) for one in found] == [("sample:one", 1, "one"), ("sample:tick", 1, "two")]
    # and a mark is for both, whether a sweep has seen them or not
    assert sweep(world) == 2
    inspector.mark_errors(("aaaa",), KNOWN, reason="the same bug")
    assert [one.state for one in inspector.errors().causes] == [KNOWN, KNOWN]


def test_the_version_and_the_times_of_a_cause_outlive_its_runs(inspector: Inspector, world: World) -> None:
    # given
    world.run(
        "insert into joblane.deploys (at, done_at, version)"
        " values (now() - interval '3 hours', now(), 'v1'), (now(), now(), 'v2')"
    )
    fail(world, "it", "aaaa", ago=7200, message="x" * 1_000_000 + "\nsecond line")
    before = only(inspector)
    assert (before.first_version, before.last_version, before.message) == ("v1", "v1", "x" * 300)
    # when
    assert (sweep(world), sweep(world)) == (1, 0)
    world.run("delete from joblane.task_attempts")
    fail(world, "other", "aaaa", ago=-0.001)
    # then
    after = only(inspector)
    assert (after.first_at, after.first_version, after.last_version) == (before.first_at, "v1", "v2")
    assert (after.message, after.runs) == (before.message, 1)


def test_errors_of_a_version_are_those_of_runs_that_started_in_it(inspector: Inspector, world: World) -> None:
    # given a deploy, another one, the first one again, and one that has not ended; and runs at these times
    world.run(
        "insert into joblane.deploys (at, done_at, version) select now() - hours * interval '1 hour', done, version"
        " from (values (3, now(), 'v1'), (2, now(), 'v2'), (1, now(), 'v1'), (0.5, null, 'v3'), (99, now(), 'v0'))"
        " as x(hours, done, version)"
    )
    for run, hours in enumerate((2.5, 1.5, 4), 1):
        fail(world, "it", "aaaa", run=run, ago=hours * 3600, tenant=f"tenant-{run}")
    fail(world, "other", "bbbb", ago=60)
    put(world, sample_one, "dead", **archived(fingerprint="cccc"))
    # then
    assert causes(inspector, version="v1") == [("bbbb", 1, 0, 0), ("aaaa", 1, 0, 0)]
    assert causes(inspector, version="v2") == [("aaaa", 1, 0, 0)]
    assert causes(inspector, version="v3") == causes(inspector, version="other") == []
    found = inspector.errors(version="v2")
    assert (found.number, found.runs, found.exact, found.versions) == (1, 1, True, ("v1", "v2", "v0"))
    # and all but the runs is that of the error in all versions
    [of_version], [_, _, of_all] = found.causes, sorted(inspector.errors().causes, key=lambda one: one.runs)
    assert (sum(of_version.bars), of_version.tenants) == (1, 1)
    assert (of_version.first_at, of_version.last_at) == (of_all.first_at, of_all.last_at)
    with pytest.raises(SelectionError, match="version"):
        inspector.errors(version="a\0")


def test_dead_letters_since_a_time_begin_with_the_cause_that_archived_most_since(
    inspector: Inspector, world: World
) -> None:
    for number in range(5):
        put(world, sample_one, f"old{number}", **archived(fingerprint="old", finished_at=In(-7200)))
    put(world, sample_one, "old", **archived(fingerprint="old"))
    for number in range(2):
        put(world, sample_one, f"now{number}", **archived(fingerprint="now"))
    assert [group.fingerprint for group in inspector.dead().groups] == ["old", "now"]
    since = datetime.now(UTC) - timedelta(hours=1)
    assert [(one.fingerprint, one.archived) for one in inspector.dead(since=since).groups] == [("now", 2), ("old", 6)]


# --- Marks ---------------------------------------------------------------------------------------------------------


def test_known_errors_follow_the_others_and_stay_known(inspector: Inspector, world: World) -> None:
    fail(world, "loud", "loud", ago=30)
    fail(world, "quiet", "quiet", ago=60)
    marked = inspector.mark_errors(("loud",), KNOWN, reason="the provider knows")
    assert (marked.state, marked.before) == (KNOWN, {"loud": "new"})
    fail(world, "again", "loud", ago=1)
    first, second = inspector.errors().causes
    assert (first.fingerprint, second.fingerprint, second.runs) == ("quiet", "loud", 2)
    assert second.note is not None
    assert (second.state, second.note.who, second.note.note) == (KNOWN, "op", "the provider knows")
    # and are as before once they are open
    assert inspector.mark_errors(("loud",), OPEN).before == {"loud": KNOWN}
    assert [(one.fingerprint, one.state, one.note) for one in inspector.errors().causes] == [
        ("loud", "new", None),
        ("quiet", "new", None),
    ]


@pytest.mark.parametrize("swept", [True, False], ids=["after a sweep", "before a sweep"])
def test_a_resolved_error_is_new_again_once_a_later_run_fails(inspector: Inspector, world: World, swept: bool) -> None:
    fail(world, "it", "aaaa", ago=200_000)
    within = timedelta(days=30)
    assert sweep(world) == 1
    assert only(inspector, within=within).state is OPEN  # it is older than a day
    inspector.mark_errors(("aaaa",), RESOLVED, reason="fixed in v7")
    # a run that started before does not count
    fail(world, "late", "aaaa", ago=1)
    assert only(inspector, within=within).state is RESOLVED
    fail(world, "again", "aaaa", ago=0)
    if swept:
        assert sweep(world) == 1
        assert world.run("select since > marked_at is not false from joblane.causes") == [[True]]
    found = only(inspector, within=within)
    assert (found.state, found.note) == (CauseState.NEW, None)


def test_an_ignored_error_is_listed_with_archived_tasks_only(inspector: Inspector, world: World) -> None:
    fail(world, "it", "aaaa")
    fail(world, "other", "bbbb")
    inspector.mark_errors(("aaaa",), IGNORED, reason="not ours")
    found = inspector.errors()
    assert ([one.fingerprint for one in found.causes], found.ignored, found.runs) == (["bbbb"], 1, 2)
    assert [one.fingerprint for one in inspector.errors(state=IGNORED).causes] == ["aaaa"]
    # but no dead letter is invisible
    put(world, sample_one, "dead", **archived(fingerprint="aaaa"))
    assert [(one.fingerprint, one.state) for one in inspector.errors().causes] == [("bbbb", "new"), ("aaaa", IGNORED)]
    assert [group.fingerprint for group in inspector.dead().groups] == ["aaaa"]


def test_several_errors_are_marked_together_or_not_at_all(inspector: Inspector, world: World) -> None:
    for fingerprint in ("aaaa", "bbbb"):
        fail(world, fingerprint, fingerprint)
    wrong: list[tuple[Any, Any, Any]] = [
        (("aaaa", "cccc"), KNOWN, "why"),
        (("aaaa",), KNOWN, "  "),
        (("aaaa",), KNOWN, None),
        (("a b",), KNOWN, "why"),
        ((), KNOWN, "why"),
        ("aaaa", KNOWN, "why"),
        (tuple(map(str, range(101))), KNOWN, "why"),
        (("aaaa",), CauseState.NEW, "why"),
    ]
    for fingerprints, state, reason in wrong:
        with pytest.raises(SelectionError):
            inspector.mark_errors(fingerprints, state, reason=reason)
    assert world.run("select count(*)::int from joblane.causes where mark is not null") == [[0]]
    assert inspector.audit() == ()
    inspector.mark_errors(("aaaa", "bbbb", "aaaa"), KNOWN, reason="maintenance")
    assert {one.state for one in inspector.errors().causes} == {KNOWN}
    assert sorted((one.target, one.reason, one.details["state"]) for one in inspector.audit(action="mark_errors")) == [
        ("cause:aaaa", "maintenance", "known"),
        ("cause:bbbb", "maintenance", "known"),
    ]


# --- The sweep -----------------------------------------------------------------------------------------------------


def test_a_sweep_reads_no_run_again_that_an_earlier_one_has_seen(inspector: Inspector, world: World) -> None:
    """The time of the last failure is written once an hour, and the runs of the last hours alone are read."""
    fail(world, "it", "aaaa", ago=86_400)
    assert sweep(world) == 1
    fail(world, "again", "aaaa", ago=0.1)
    assert (sweep(world), sweep(world)) == (1, 0)
    fail(world, "later", "aaaa", ago=0)
    fail(world, "before", "bbbb", ago=50_000)  # it started long before the last run that was seen
    assert sweep(world) == 0
    assert {one.fingerprint for one in inspector.errors().causes} == {"aaaa", "bbbb"}


def test_a_cause_expires_long_after_its_last_failure_unless_it_is_ignored(inspector: Inspector, world: World) -> None:
    for fingerprint in ("old", "ignored", "young"):
        fail(world, fingerprint, fingerprint)
    inspector.mark_errors(("ignored",), IGNORED, reason="not ours")
    inspector.mark_errors(("old",), KNOWN, reason="ours")
    sweep(world)
    world.run("delete from joblane.task_attempts")
    world.run("update joblane.causes set last_at = last_at - interval '181 days' where fingerprint <> 'young'")
    sweep(world)
    kept = "select array_agg(fingerprint order by fingerprint) from joblane.causes"
    assert world.run(kept) == [[["ignored", "young"]]]


def test_many_causes_are_written_in_parts_and_bounded(inspector: Inspector, world: World) -> None:
    world.run(
        "insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, outcome, error_type,"
        " error_message, fingerprint, type)"
        " select 'it' || n, 1, 1, 0, now() - n * interval '1 s', 'failed', 'ValueError', 'm', md5(n::text),"
        " 'sample:one' from generate_series(1, 1200) n"
    )
    assert sweep(world) == 1200
    found = inspector.errors(limit=500)
    assert (len(found.causes), found.number, found.runs, found.exact) == (500, 1200, 1200, False)


def test_lost_runs_have_a_cause_while_their_task_retries(inspector: Inspector, world: World) -> None:
    for id_, runs in (("first", 1), ("later", 2)):  # a first run has had no row of its own
        put(world, sample_one, id_, **active(-60, runs=runs))
        world.run("update joblane.task_attempts set type = 'sample:one'")
        assert world.deliver(sample_one, of(id_)) == []
    found = only(inspector)
    assert (found.error, found.type, found.runs) == ("Lost: the run did not report its end", "sample:one", 2)


def test_a_message_holds_no_value_of_a_redacted_field(inspector: Inspector, world: World) -> None:
    """It is the message of the run, whose redacted values the worker has removed, without ids and numbers."""
    fail(world, "it", "aaaa", message="no account 'PLANTED' for 4711")
    sweep(world)
    assert only(inspector).message == "no account '…' for #"
    assert "PLANTED" not in str(world.run("select message from joblane.causes"))


# --- Deleted tasks -------------------------------------------------------------------------------------------------


def test_a_deleted_task_takes_the_message_of_its_cause_along(inspector: Inspector, world: World) -> None:
    # given two tasks with the same error, one of which has failed with another error before
    for id_ in ("one", "two"):
        put(world, sample_one, id_, **archived(fingerprint="aaaa", error_message="no Jo Doe"))
        fail(world, id_, "aaaa", run=2, message="no Jo Doe")
    fail(world, "one", "bbbb", message="Jo Doe is late")
    sweep(world)
    # then a message stays as long as another task has it, and the cause stays
    inspector.delete("one")
    assert kept_messages(world) == {"aaaa": "no Jo Doe", "bbbb": ""}
    inspector.delete("two")
    assert kept_messages(world) == {"aaaa": "", "bbbb": ""}
    assert {one.error for one in inspector.errors().causes} == {"ConnectionError"}
    # and the next run that fails has one again, before and after a sweep
    fail(world, "two later", "aaaa", ago=-0.001, message="no Al Roe")
    assert "ConnectionError: no Al Roe" in {one.error for one in inspector.errors().causes}
    world.run("update joblane.causes set last_at = last_at - interval '2 hours'")
    sweep(world)
    assert kept_messages(world) == {"aaaa": "no Al Roe", "bbbb": ""}


def kept_messages(world: World) -> dict[str, str]:
    return dict(world.run("select fingerprint, message from joblane.causes"))


# --- Locks ---------------------------------------------------------------------------------------------------------

BACKWARDS = json.dumps(
    [{"fingerprint": name, "type": "sample:one", "again_at": "2999-01-01T00:00Z"} for name in ("bbbb", "aaaa")]
)
WRITERS: dict[str, Callable[[Inspector, Database], Any]] = {
    "a mark": lambda inspector, _: inspector.mark_errors(("aaaa", "bbbb"), KNOWN, reason="why"),
    "an undo": lambda _, database: database.get().run(cause_marks.RESTORE, BACKWARDS),
    "a sweep": lambda _, database: database.get().run(causes_sweep.REOPEN, BACKWARDS),
    "a delete": lambda inspector, _: inspector.delete("it"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_writers_of_causes_lock_them_in_one_order(inspector: Inspector, world: World, writer: str) -> None:
    put(world, sample_one, "it", **archived(fingerprint="aaaa"))
    for run, fingerprint in enumerate(("bbbb", "aaaa"), 1):
        fail(world, "it", fingerprint, run=run)
        sweep(world)
    world.run("update joblane.causes set mark = 'resolved', marked_at = now(), marked_by = 'op', note = 'why'")
    if writer == "a mark":  # its statement writes the causes of runs, and marks the others
        world.run("delete from joblane.task_attempts where fingerprint = 'aaaa'")
        world.run("update joblane.tasks set fingerprint = null")
    lock = "select 1 from joblane.causes where fingerprint = $1 for update"
    blocked = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with world.database.another() as own, world.database.another() as other, ThreadPoolExecutor(1) as threads:
        other.get().execute_simple("begin")
        other.get().run(lock, "aaaa")
        waiting = threads.submit(WRITERS[writer], inspector, own)
        while world.run(blocked) == [[0]]:
            assert not waiting.done()
        other.get().run(lock, "bbbb")  # a deadlock, if the writer has locked this one first
        other.get().commit()
        waiting.result()


# --- Planted faults ------------------------------------------------------------------------------------------------

Scenario = Callable[[Inspector, World], None]
PLANTS: dict[str, tuple[Any, str, str, str, Scenario]] = {
    "only archived tasks are grouped": (
        causes_sql, "FIND", "order by started_at desc limit", "and false order by started_at desc limit",
        test_an_outage_whose_tasks_retry_comes_before_the_cause_of_archived_tasks,
    ),
    "tasks in retry are not counted": (
        causes_sql, "FIND", "fingerprint is not null and finished_at is null", "false",
        test_an_outage_whose_tasks_retry_comes_before_the_cause_of_archived_tasks,
    ),
    "archived tasks are listed only with runs in the time": (
        causes_sql, "FIND", "runs r full join tasks", "runs r left join tasks",
        test_archived_tasks_whose_runs_lie_before_the_time_are_listed,
    ),
    "two types of a fingerprint are one": (
        causes_sql, "FIND", "select fingerprint, type, tenant,", "select fingerprint, 'sample:one' as type, tenant,",
        test_two_types_with_one_fingerprint_are_two_causes,
    ),
    "an error that is over is first": (
        causes_sql, "FIND", "$5 = 'now' and last_at", "false and last_at",
        test_errors_of_the_last_hour_come_first_and_new_ones_before_others,
    ),
    "a new error is not before the others": (
        causes_sql, "FIND", "1 + (state = 'new')::int", "1",
        test_errors_of_the_last_hour_come_first_and_new_ones_before_others,
    ),
    "known errors are first": (
        causes_sql, "FIND", "'ignored'], state) nulls first", "'ignored'], state) nulls last",
        test_known_errors_follow_the_others_and_stay_known,
    ),
    "a resolved error stays resolved": (
        causes_sql, "FIND", "c.mark <> 'resolved' or", "true or",
        lambda inspector, world: test_a_resolved_error_is_new_again_once_a_later_run_fails(inspector, world, False),
    ),
    "the sweep leaves a resolved error as it is": (
        causes_sweep, "REOPEN", "c.marked_at < x.again_at", "false",
        lambda inspector, world: test_a_resolved_error_is_new_again_once_a_later_run_fails(inspector, world, True),
    ),
    "an ignored error hides archived tasks": (
        causes_sql, "FIND", "state <> 'ignored' or archived > 0", "state <> 'ignored'",
        test_an_ignored_error_is_listed_with_archived_tasks_only,
    ),
    "the sweep reads all runs again": (
        causes_sweep, "FIND", "select max(last_at) from", "select min(last_at) - interval '1 year' from",
        test_a_sweep_reads_no_run_again_that_an_earlier_one_has_seen,
    ),
    "an ignored error expires": (
        causes_sweep, "REMOVE", "mark is distinct from 'ignored'", "true",
        test_a_cause_expires_long_after_its_last_failure_unless_it_is_ignored,
    ),
    "the runs of all versions are counted": (
        causes_sql, "FIND", "filter (where counts) as runs", "as runs",
        test_errors_of_a_version_are_those_of_runs_that_started_in_it,
    ),
    "a deploy that has not ended is a version": (
        causes_sql, "FIND", "as until from joblane.deploys where done_at is not null", "as until from joblane.deploys",
        test_errors_of_a_version_are_those_of_runs_that_started_in_it,
    ),
    "the version is the latest one": (
        causes_sweep, "WRITE", "d.at <= x.first_at", "true",
        test_the_version_and_the_times_of_a_cause_outlive_its_runs,
    ),
}  # fmt: skip
"""Fault → the statement, a part of it and the fault in its place, and the test that finds it."""


@pytest.mark.plants
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_found(
    inspector: Inspector, world: World, monkeypatch: pytest.MonkeyPatch, plant: str
) -> None:
    module, name, part, fault, finds = PLANTS[plant]
    statement = getattr(module, name)
    assert part in statement
    monkeypatch.setattr(module, name, statement.replace(part, fault))
    with pytest.raises((AssertionError, ValueError)):  # a ValueError: another number of errors
        finds(inspector, world)
