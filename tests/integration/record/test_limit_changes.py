"""Changes of limits: they hold at once, raised limits start waiting tasks, and nothing is written for bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from joblane import JobClient, TaskContext
from joblane.client.client import client_within
from joblane.errors import LimitError
from joblane.record.driver.database import Database
from joblane.record.flow import limit_changes
from joblane.record.flow.free_slots import delay
from joblane.record.flow.limit_status import LimitKind, rate_of
from joblane.record.row.states import Passed
from joblane.record.sql_functions import VERSION
from joblane.record.task_types import register_limits
from joblane.tasks.limit import Flow, Rate
from joblane.tasks.task import Task
from tests.patience import PATIENCE_SECONDS
from tests.samples import (
    Sample,
    behaviour,
    sample_keyed,
    sample_one,
    sample_rated,
    sample_sharing,
    sample_single,
    sample_tree,
)
from tests.stories import (
    Story,
    cancel,
    enqueue,
    lane,
    play,
    reset_limit,
    sent,
    set_limit,
    sql,
    step,
    stories,
    sweep,
    while_locked,
)
from tests.world import World

HOUR = timedelta(hours=1)
DELAY = 1000
END = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
KEYED, SINGLE, TREE = sample_keyed.type, sample_single.type, sample_tree.type


@pytest.fixture
def jobs(limited: World) -> JobClient:
    limited.make("jobs-low-jobs-sweep")
    return limited.client


@step
def put(world: World, task: Task[Any, Any], *ids: str, number: int = 7, tenant: str = "acme") -> None:
    """Enqueue tasks, and deliver their messages one after the other."""
    world.lane(task)
    for id_ in ids:
        world.client.enqueue(task, Sample(number=number), task_id=id_, tenant=tenant)
        world.take(task)
    for id_ in ids:
        deliver(task, id_)(world)


@step
def deliver(world: World, task: Task[Any, Any], id_: str) -> None:
    world.deliver(task, {"type": task.type, "id": id_, "rec": True})


@step
def states(world: World, *ids: str) -> list[str]:
    return [world.row(id_)["state"] for id_ in ids]


@step
def woken(world: World) -> bool:
    return bool(world.depth("jobs-low-jobs-sweep"))


@step
def delayed(world: World, names: list[str | None], seconds: float) -> None:
    """Delay the tasks of a limit, as a handler does that another service has refused."""
    delay(world.database.get(), names, seconds)


@step
def end_changes(world: World) -> None:
    """Let the time of all changes be over."""
    world.run("update joblane.limit_changes set until = clock_timestamp()")


@step
def seconds_until_due(world: World, *ids: str) -> list[int]:
    rows = world.run("select id, extract(epoch from due_at - clock_timestamp())::float8 from joblane.tasks")
    return [round(dict(rows)[id_] + 1.9, -1) for id_ in ids]  # up to seven seconds late


@step
def delay_of(world: World, name: str) -> int | None:
    """Return the seconds for which a limit is delayed."""
    until = world.client.limits.get(name).delayed_until
    return round((until - datetime.now(UTC)) / timedelta(seconds=10)) * 10 if until else None


@step
def change_of(world: World, name: str) -> tuple[Any, ...] | None:
    """Return the values and the facts of the change of a limit."""
    change = world.client.limits.get(name).change
    return (change.values.at_a_time, change.values.rate, change.reason, change.until) if change else None


@step
def is_set(world: World) -> list[list[Any]]:
    return world.run("select name, slots from joblane.limit_changes order by name")


# --- Raised and lowered --------------------------------------------------------------------------------------------


# --- Rates ---------------------------------------------------------------------------------------------------------


WAITING, KEYS = "cdefg", ["b0", "b1", "b2"]
RATED = [f"r{number:02}" for number in range(20)]
FIRST_DUE = "(select min(due_at) from joblane.tasks where finished_at is null)"


@step
def due_in(world: World, *ids: str) -> list[float]:
    """Return the seconds until tasks are due, after the first of all that have not ended."""
    rows = world.run(f"select id, extract(epoch from due_at - {FIRST_DUE})::float8 from joblane.tasks")
    return [round(dict(rows)[id_], 3) for id_ in ids]


def due_soonest(world: World) -> float:
    ((seconds,),) = world.run(f"select extract(epoch from {FIRST_DUE} - clock_timestamp())::float8")
    return float(seconds)


@step
def wait_for_times(world: World, step: timedelta = HOUR) -> None:
    """Let two tasks use a burst up, and five wait for their times, which are ``step`` apart."""
    world.client.limits.set(sample_rated.type, rate=Rate(1, step, burst=2))
    put(sample_rated, *"abcdefg")(world)
    assert states(*"abcdefg")(world) == ["completed"] * 2 + ["pending"] * 5
    assert due_in(*WAITING)(world) == [number * step.total_seconds() for number in range(5)]


def end_by_the_sweep(world: World, jobs: JobClient) -> None:
    """The tasks would otherwise wait for hours for the times of a rate that is not in force any more."""
    jobs.limits.set(sample_rated.type, until=datetime.now(UTC) + HOUR, rate=Rate(1, 2 * HOUR, burst=2))
    end_of_changes()(world)
    assert is_set()(world) == []


def change_after_a_delay(world: World, jobs: JobClient) -> None:
    """A delay that is over has no effect."""
    delay(world.database.get(), [None, sample_rated.type, None], 0)
    jobs.limits.set(sample_rated.type, rate=Rate(1, timedelta(minutes=10), burst=1))


def change_to(rate: Rate) -> Callable[[World, JobClient], object]:
    return lambda world, jobs: jobs.limits.set(sample_rated.type, rate=rate)


@pytest.mark.parametrize(
    ("change", "step", "due"),
    [
        (change_to(Rate(1, 10 * HOUR, burst=1)), 36_000, [0, 1, 2, 3, 4]),
        (change_to(Rate(1, 2 * HOUR, burst=5)), 7200, [0, 0, 0, 1, 2]),
        (change_after_a_delay, 600, [0, 1, 2, 3, 4]),
        (lambda world, jobs: jobs.limits.reset(sample_rated.type), 1, [0, 1, 2, 3, 4]),
        (end_by_the_sweep, 1, [0, 1, 2, 3, 4]),
    ],
    ids=["slower", "a larger burst", "after a delay", "reset", "a change that has ended"],
)
def test_another_rate_gives_waiting_tasks_other_times_in_their_order(
    limited: World, jobs: JobClient, change: Callable[[World, JobClient], object], step: int, due: list[int]
) -> None:
    wait_for_times()(limited)
    limited.take(sample_rated)
    change(limited, jobs)
    assert [round(seconds / step, 1) for seconds in due_in(*WAITING)(limited)] == due
    if due[1] == 0:  # a larger burst is used at once
        assert due_soonest(limited) <= 0
    else:  # the burst was used up
        assert 0.9 * step - 5 < due_soonest(limited) <= step
    assert all(limited.row(id_)["passed"] == Passed.TYPE_TIME for id_ in WAITING)
    put(sample_rated, "new")(limited)
    assert round(due_in("new")(limited)[0] / step) == due[-1] + 1


@step
def wait_by_key(world: World, /, **rate: Any) -> None:
    """Let a task of each of three keys start, and another wait an hour."""
    world.client.limits.set(KEYED, max_per_key=9, rate=Rate(1, HOUR), **rate)
    for number in range(3):
        put(sample_keyed, f"a{number}", f"b{number}", number=number)(world)
    assert [seconds > 3000 for seconds in seconds_until_due(*KEYS)(world)] == [True] * 3


def test_the_sweep_locks_no_limit_whose_times_are_right(
    limited: World, jobs: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_times()(limited)
    wait_by_key()(limited)
    delayed([None, None, "shared"], DELAY)(limited)
    locked: list[list[str]] = []
    monkeypatch.setattr(limit_changes, "_lock", lambda _, names: locked.append(list(names)))
    limited.sweep()
    assert locked == []
    jobs.cancel("f")
    jobs.cancel("g")
    limited.sweep()
    assert locked == [[sample_rated.type]]


# --- Rates of a limit that a handler has delayed -------------------------------------------------------------------


@step
def end_of_changes(world: World) -> None:
    """Let the time of all changes be over. Unlike a reset, this keeps delays."""
    end_changes()(world)
    world.sweep()


# --- At the same time as a claim -----------------------------------------------------------------------------------


def test_a_task_that_a_claim_has_just_left_waiting_is_served(
    limited: World, jobs: JobClient, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    jobs.limits.set(SINGLE, max_total=0)
    limited.lane(sample_single)
    jobs.enqueue(sample_single, Sample(), task_id="a")
    claim = "select joblane.claim_@version($1, gen_random_uuid(), 60, null)".replace("@version", VERSION)
    message = {"id": "a", "type": SINGLE, "queue": "default", "rec": True, "limits": []}
    with closing(Database(limited.url).get()) as other, ThreadPoolExecutor() as threads:
        other.execute_simple("begin")
        [[[answer]]] = other.run(claim, json.dumps([message]))
        assert answer["verdict"] == "held"
        change = threads.submit(jobs.limits.set, SINGLE, max_total=1)
        waits = "select count(*) from pg_stat_activity where wait_event = 'advisory' and datname = current_database()"
        wait_until(lambda: limited.run(waits) == [[1]])
        other.execute_simple("commit")
        change.result(timeout=PATIENCE_SECONDS)
    assert states("a")(limited) == ["pending"]


# --- In a handler whose transaction is open ------------------------------------------------------------------------


@behaviour
def changes_a_limit_and_fails(payload: Sample, ctx: TaskContext) -> None:
    ctx.session.execute(text("select 1"))
    used = ctx._producer
    shared = client_within(used.database(), used.sqs, used.prefix)
    with pytest.raises(LimitError, match="transaction is open, and a change of limits commits: use a new JobClient"):
        shared.limits.set(SINGLE, max_total=0)
    with JobClient() as own:
        own.limits.reset(SINGLE)
        own.cancel("a")
    raise ValueError("it fails")


# --- What is shown -------------------------------------------------------------------------------------------------


def test_get_shows_the_values_and_who_has_and_waits_for_the_slots(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(TREE, max_total=0)
    put(sample_tree, "a", "b", number=7)(limited)
    put(sample_tree, "c", number=8)(limited)
    jobs.limits.set(TREE, max_total=1, reason="one by one")
    of_key, total = jobs.limits.get(TREE, key="7"), jobs.limits.get(TREE)
    assert (of_key.name, of_key.key, of_key.kind) == (TREE, "7", LimitKind.KEY)
    assert (of_key.declared.at_a_time, of_key.in_force.at_a_time, of_key.change) == (2, 2, None)
    assert (of_key.taken, of_key.running, of_key.turns, of_key.held) == (2, 0, 1, 0)
    assert (total.kind, total.declared.at_a_time, total.in_force.at_a_time) == (LimitKind.TOTAL, 3, 1)
    assert (total.taken, total.turns, total.held) == (1, 1, 2)
    assert total.oldest_held_at is not None
    assert total.change is not None
    assert (total.change.reason, total.change.values.at_a_time) == ("one by one", 1)
    assert total.change.by
    limited.run("update joblane.tasks set state = 'active', lease_until = now() where id = 'a'")
    assert (jobs.limits.get(TREE).running, jobs.limits.get(TREE).turns) == (1, 0)
    shared = jobs.limits.get("shared")
    assert (shared.kind, shared.declared.at_a_time, shared.taken, shared.running) == (LimitKind.SHARED, 2, 1, 1)


def test_get_of_a_key_says_whether_its_change_is_its_own_or_that_of_each_key(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(KEYED, max_per_key=0, reason="all")
    jobs.limits.set(KEYED, key="7", max_per_key=3, reason="one")
    own, inherited, each = jobs.limits.get(KEYED, key="7"), jobs.limits.get(KEYED, key="8"), jobs.limits.get(KEYED)
    found = [(one.change.reason, one.change.kind) for one in (own, inherited, each) if one.change]
    assert found == [("one", LimitKind.KEY), ("all", LimitKind.EACH_KEY), ("all", LimitKind.EACH_KEY)]
    assert (own.own_change, inherited.own_change, each.own_change) == (own.change, None, each.change)


def test_get_shows_the_times_of_a_rate(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(sample_rated.type, rate=Rate(2, HOUR, burst=2))
    put(sample_rated, *"abc")(limited)
    found = jobs.limits.get(sample_rated.type)
    assert found.in_force.rate == Rate(2, HOUR, burst=2)
    assert found.declared.rate == Rate(1, timedelta(seconds=1), burst=2)
    assert found.timed == 1
    assert found.next_start_at is not None
    assert timedelta(minutes=58) < found.next_start_at - datetime.now(UTC) <= HOUR


@pytest.mark.parametrize("rate", [Rate(7, timedelta(minutes=1)), Rate(500_000, timedelta(days=1)), Rate(3, HOUR)])
def test_a_rate_is_shown_as_it_was_declared(rate: Rate) -> None:
    assert rate_of(rate.step.total_seconds(), 1) == rate


# --- Limits that are not declared any more -------------------------------------------------------------------------


@step
def undeclare(world: World, *names: str) -> None:
    for name in names:
        world.run("delete from joblane.limits where name = $1", name)


@pytest.mark.parametrize(
    ("task", "set_", "of", "undeclared"),
    [
        (sample_single, {"max_total": 0}, {}, SINGLE),
        (sample_tree, {"max_total": 0}, {}, TREE),  # its other limits are declared
        (sample_keyed, {"max_per_key": 0}, {"key": "7"}, f"{KEYED}/"),
    ],
    ids=["of a type", "of a type with others", "of a key"],
)
def test_what_is_set_for_an_undeclared_limit_is_shown_and_reset(
    limited: World, jobs: JobClient, task: Task[Any, Any], set_: dict[str, Any], of: dict[str, Any], undeclared: str
) -> None:
    jobs.limits.set(task.type, **set_, **of, reason="a bad release")
    put(task, "a")(limited)
    undeclare(undeclared)(limited)
    assert states("a")(limited) == ["held"]
    found = jobs.limits.get(task.type, **of)
    assert (found.is_declared, found.in_force.at_a_time, found.held) == (False, 0, 1)
    if of:
        assert (jobs.limits.get(KEYED).kind, jobs.limits.get(KEYED).held) == (LimitKind.EACH_KEY, 1)
        with pytest.raises(LimitError, match="nothing is set for sample:keyed/; `joblane limits` shows what is"):
            jobs.limits.reset(KEYED)
        with pytest.raises(LimitError, match="declares no key"):
            jobs.limits.reset(KEYED, key="8")
    jobs.limits.reset(task.type, **of)
    assert (states("a")(limited), is_set()(limited)) == (["pending"], [])


# --- Bad input -----------------------------------------------------------------------------------------------------

BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("sample:keyd", {"max_per_key": 1}, "name", "the nearest first: sample:keyed"),
    ("", {"total": 1}, "name", "is named ''"),
    ("shared", {"key": "7", "total": 1}, "key", "a shared limit, which has no keys"),
    (SINGLE, {"key": "7", "max_per_key": 1}, "key", "declares no key"),
    (KEYED, {"key": "x" * 201, "max_per_key": 1}, "key", "1 to 200 printable ASCII"),
    (KEYED, {"max_per_key": -1}, "max_per_key", "an integer from 0 to 10000"),
    (KEYED, {"max_per_key": True}, "max_per_key", "an integer"),
    (KEYED, {"max_total": 1}, "max_total", "does not declare max_total"),
    (KEYED, {"total": 1}, "total", "is a task type"),
    (TREE, {"key": "7", "max_total": 1}, "max_total", "leave out the key"),
    ("shared", {"max_total": 1}, "max_total", "give total"),
    ("shared", {"rate": Rate(0, HOUR)}, "rate", "starts: an integer from 1"),
    ("shared", {"rate": 5}, "rate", "a Rate is required"),
    ("shared", {"rate": Rate(1, 24 * HOUR, 3651)}, "rate", "burst: at most 3,650 at this rate"),
    ("shared", {}, "total", "give a number of tasks, a rate, or both"),
    ("shared", {"total": 1, "until": datetime.now(UTC) - HOUR}, "until", "in the future"),
    ("shared", {"total": 1, "until": datetime(2030, 1, 1)}, "until", "aware"),  # noqa: DTZ001 - the test
    ("shared", {"total": 1, "reason": "x" * 501}, "reason", "at most 500"),
]


@pytest.mark.parametrize(("name", "values", "field", "problem"), BAD)
def test_bad_input_is_named_and_nothing_is_written(
    limited: World, jobs: JobClient, name: str, values: dict[str, Any], field: str, problem: str
) -> None:
    with pytest.raises(LimitError, match=problem) as caught:
        jobs.limits.set(name, **values)
    assert caught.value.field == field
    assert is_set()(limited) == []
    assert limited.run("select count(*) from joblane.audit") == [[0]]
    assert jobs.limits.get("shared").declared.at_a_time == 2  # the client can be used again


@step
def declare(world: World, flow: Flow) -> None:
    """Deploy another flow of the rated type."""
    register_limits(world.database.get(), {sample_rated.type: replace(sample_rated, flow=flow)})


# --- Stories ---------------------------------------------------------------------------------------------------------

STORIES: dict[str, Story] = {
    "a limit of 0 holds new tasks and raising it sends as many as fit": [
        set_limit(KEYED, key="7", max_per_key=0, reason="the account is moved"),
        put(sample_keyed, "a", "b", "c"),
        states("a", "b", "c").gives(["held", "held", "held"]),
        set_limit(KEYED, key="7", max_per_key=2),
        states("a", "b", "c").gives(["pending", "pending", "held"]),
        sent(sample_keyed).gives(["a", "b"]),
        woken().gives(True),
        deliver(sample_keyed, "a"),
        states("a", "c").gives(["completed", "pending"]),
    ],
    "lowering stops no task that has a slot": [
        set_limit(SINGLE, max_total=0),
        put(sample_single, "a", "b", "c"),
        set_limit(SINGLE, max_total=2),
        states("a", "b", "c").gives(["pending", "pending", "held"]),
        set_limit(SINGLE, max_total=1),
        deliver(sample_single, "a"),
        # b still has its slot
        states("a", "b", "c").gives(["completed", "pending", "held"]),
        deliver(sample_single, "b"),
        states("b", "c").gives(["completed", "pending"]),
    ],
    "a shared limit is raised for all types": [
        set_limit("shared", total=0),
        put(sample_tree, "a"),
        put(sample_sharing, "b"),
        states("a", "b").gives(["held", "held"]),
        reset_limit("shared"),
        states("a", "b").gives(["pending", "pending"]),
        sent(sample_tree).gives(["a"]),
        sent(sample_sharing).gives(["b"]),
    ],
    "the limit of each key is raised for more keys than one statement serves": [
        set_limit(KEYED, max_per_key=0),
        set_limit(KEYED, key="3", max_per_key=0),
        *(put(sample_keyed, f"t{number:02}", number=number) for number in range(60)),
        sql("select from joblane.tasks where state <> 'held'").gives([]),
        reset_limit(KEYED),
        # its own value stays
        sql("select id from joblane.tasks where state = 'held'").gives([["t03"]]),
        reset_limit(KEYED, key="3"),
        states("t03").gives(["pending"]),
    ],
    "a change ends at its time": [
        set_limit(SINGLE, max_total=0, until=END),
        put(sample_single, "a"),
        end_changes(),
        change_of(SINGLE).gives(None),
        sweep(),
        states("a").gives(["pending"]),
    ],
    "a later change keeps what it does not name": [
        set_limit("shared", total=9, reason="more", until=END),
        set_limit("shared", rate=Rate(5, timedelta(minutes=1), burst=3), reason="slower"),
        # an end that nobody named would otherwise be lost, and the change stay for good
        change_of("shared").gives((9, Rate(5, timedelta(minutes=1), burst=3), "slower", END)),
    ],
    "a change that is over leaves no end to the next": [
        set_limit("shared", total=9, until=END),
        end_changes(),
        set_limit("shared", total=8),
        change_of("shared").gives((8, None, None, None)),
    ],
    "a message that comes too early is not sent again": [
        wait_for_times(timedelta(minutes=10)),
        set_limit(sample_rated.type, rate=Rate(1, timedelta(minutes=12), burst=1)),
        # Rows that are due later than SQS can delay a message wait alone: their early message is acknowledged.
        sql("select id from joblane.tasks where sweep_at > due_at and finished_at is null").gives([["c"]]),
    ],
    "a faster rate wakes the sweep that sends the messages": [
        wait_for_times(),
        sent(sample_rated),
        reset_limit(sample_rated.type),
        woken().gives(True),
        sweep(sent=5),
        sql("update joblane.tasks set due_at = clock_timestamp() where finished_at is null"),
        *(deliver(sample_rated, id_) for id_ in WAITING),
        states(*WAITING).gives(["completed"] * 5),
    ],
    "without a rate the waiting tasks start now": [
        set_limit(KEYED, key="7", rate=Rate(1, HOUR)),
        put(sample_keyed, "a", "b"),
        seconds_until_due("b").gives([3600]),
        reset_limit(KEYED, key="7"),
        seconds_until_due("b").gives([0]),
        sql("select * from joblane.rates").gives([]),
        deliver(sample_keyed, "b"),
        states("a", "b").gives(["completed", "completed"]),
    ],
    "the rate of each key is changed for all keys but those with their own": [
        set_limit(KEYED, rate=Rate(1, HOUR)),
        set_limit(KEYED, key="2", rate=Rate(1, timedelta(minutes=10))),
        *(put(sample_keyed, f"a{number}", f"b{number}", number=number) for number in range(3)),
        set_limit(KEYED, rate=Rate(1, timedelta(minutes=1))),
        seconds_until_due("b0", "b1", "b2").gives(pytest.approx([60, 60, 600], abs=30)),
    ],
    "the sweep gives the times that a locked task has prevented": [
        wait_for_times(),
        while_locked(
            "d",
            set_limit(sample_rated.type, rate=Rate(2, HOUR)),
            sweep(),
            due_in(*WAITING).gives([0, 3600, 7200, 10_800, 14_400]),
        ),
        sweep(),
        due_in(*WAITING).gives([0, 1800, 3600, 5400, 7200]),
    ],
    "a locked task of a key does not keep the other keys from new times": [
        wait_by_key(),
        while_locked(
            "b0",
            set_limit(KEYED, rate=Rate(1, timedelta(minutes=1))),
            seconds_until_due(*KEYS).gives(pytest.approx([3600, 60, 60], abs=40)),
        ),
        sweep(),
        seconds_until_due(*KEYS).gives(pytest.approx([60] * 3, abs=40)),
    ],
    "the end of a change gives the keys new times once no task is locked": [
        wait_by_key(until=END),
        end_changes(),
        while_locked("b0", sweep()),
        sweep(),
        seconds_until_due(*KEYS).gives(pytest.approx([0] * 3, abs=100)),
        is_set().gives([]),
    ],
    "a change of a key with a locked task stops no other limit": [
        set_limit(KEYED, key="7", max_per_key=5, rate=Rate(1, HOUR)),
        put(sample_keyed, "a", "b"),
        while_locked("b", set_limit(KEYED, key="7", rate=Rate(1, timedelta(minutes=1))), put(sample_sharing, "other")),
        states("other").gives(["completed"]),
    ],
    "the sweep gives back the times of cancelled tasks": [
        set_limit(sample_rated.type, rate=Rate(1, timedelta(minutes=1))),
        put(sample_rated, *RATED),
        *(cancel(id_) for id_ in RATED[1:-2]),
        sweep(),
        due_in(*RATED[-2:]).gives([0, 60]),
        sql(f"select {FIRST_DUE} <= clock_timestamp() + interval '60 s'").gives([[True]]),
        sql("create table before as select * from joblane.rates"),
        sweep(),
        sql("select from joblane.rates join before using (name, next_at)").gives([[]]),
        put(sample_rated, "new"),
        due_in("new").gives([120]),
    ],
    "the sweep gives back the times of paused tasks": [
        set_limit(sample_rated.type, rate=Rate(1, timedelta(minutes=1))),
        put(sample_rated, *RATED[:10]),
        sql("insert into joblane.pauses (scope, name) values ('tenant', 'acme')"),
        sql("update joblane.tasks set due_at = clock_timestamp() where finished_at is null"),
        *(deliver(sample_rated, id_) for id_ in RATED[1:10]),
        sweep(),
        put(sample_rated, "new", tenant="other"),
        seconds_until_due("new").gives([60]),
    ],
    "the sweep removes what is known of a rate that has long been idle": [
        set_limit(KEYED, max_per_key=9, rate=Rate(1, HOUR)),
        *(put(sample_keyed, f"a{number}", number=number) for number in range(4)),
        delayed([f"{KEYED}/2", None, None], DELAY),
        sql("update joblane.rates set next_at = now() - interval '2 hours' where name ~ '[012]$'"),
        sql("update joblane.rates set next_at = now() - interval '50 minutes' where name ~ '3$'"),
        sweep(),
        sql("select name from joblane.rates order by 1").gives([[f"{KEYED}/2"], [f"{KEYED}/3"]]),
    ],
    "without a rate the delay of another service stays": [
        set_limit(KEYED, key="7", rate=Rate(1, HOUR), max_per_key=9),
        put(sample_keyed, "a", "b", "c"),
        delayed([f"{KEYED}/7", None, None], DELAY),
        set_limit(KEYED, key="7", max_per_key=9),
        # later than the delay
        seconds_until_due("b", "c").gives([3600, 7200]),
        end_of_changes(),
        set_limit(KEYED, key="7", max_per_key=9),
        put(sample_keyed, "d"),
        seconds_until_due("b", "c", "d").gives([DELAY] * 3),
        set_limit(KEYED, key="7", rate=Rate(1, HOUR)),
        seconds_until_due("b", "c", "d").gives([DELAY, DELAY + 3600, DELAY + 7200]),
    ],
    "a reset ends the delay of a limit without a rate": [
        delayed([None, None, "shared"], DELAY),
        put(sample_sharing, "a", "b"),
        seconds_until_due("a", "b").gives([DELAY] * 2),
        reset_limit("shared", reason="the service is back"),
        seconds_until_due("a", "b").gives([0, 0]),
        deliver(sample_sharing, "a"),
        put(sample_tree, "c"),
        states("a", "c").gives(["completed", "completed"]),
        sql("select reason, details from joblane.audit").gives(
            [["the service is back", {"limits": [], "delays": ["shared"]}]]
        ),
        reset_limit("shared").fails(LimitError, "nothing is set for shared"),
    ],
    "a reset ends the delay of a limit with a rate": [
        set_limit(sample_rated.type, rate=Rate(1, timedelta(minutes=1))),
        put(sample_rated, *"abc"),
        delayed([None, sample_rated.type, None], DELAY),
        seconds_until_due("b", "c").gives([DELAY, DELAY + 60]),
        delay_of(sample_rated.type).gives(DELAY),
        reset_limit(sample_rated.type),
        seconds_until_due("b", "c").gives([0, 0]),
        delay_of(sample_rated.type).gives(None),
    ],
    "a delay holds for tasks of a first rate that the sweep plans later": [
        delayed([None, None, "shared"], DELAY),
        sql("update joblane.limits set slots = null, step = interval '1 minute', burst = 3 where name = 'shared'"),
        put(sample_sharing, *"abcdef"),
        seconds_until_due(*"abcdef").gives([DELAY] * 3 + [DELAY + 60, DELAY + 120, DELAY + 180]),
        sweep(),
        seconds_until_due(*"abcdef").gives([DELAY + 60 * number for number in range(6)]),
    ],
    "a limit is delayed by a day at most": [
        delayed([None, None, "shared"], 315_360_000.0),
        put(sample_sharing, "a"),
        seconds_until_due("a").gives([86_400]),
    ],
    "a client of the handler changes limits and cancels at once": [
        # Its transaction is another one: its rollback undoes neither, and the waiting task does not wait for its end.
        set_limit(SINGLE, max_total=0),
        put(sample_single, "a", "b"),
        lane(sample_one),
        enqueue(sample_one, Sample(do="changes_a_limit_and_fails"), task_id="handler"),
        deliver(sample_one, "handler"),
        states("a", "b").gives(["cancelled", "pending"]),
        is_set().gives([]),
        sent(sample_single).gives(["a", "b"]),
    ],
    "a change is in the audit": [
        set_limit("shared", total=9, reason="more"),
        reset_limit("shared", reason="done"),
        sql(
            "select action, target, reason, details - 'before', who like '%@%' from joblane.audit order by number"
        ).gives(
            [
                ["set_limit", "limit:shared", "more", {"set": {"shared": {"at_a_time": 9}}}, True],
                ["reset_limit", "limit:shared", "done", {"limits": ["shared"]}, True],
            ]
        ),
    ],
    "an undeclared limit cannot be set": [
        set_limit("shared", total=0),
        undeclare("shared"),
        set_limit("shared", total=5).fails(LimitError, "no limit, and no type with a limit, is named 'shared'"),
        reset_limit("shared"),
        reset_limit("shared").fails(LimitError, "no limit, and no type with a limit, is named 'shared'"),
    ],
    "a reset of nothing is an error": [
        reset_limit(TREE).fails(LimitError, "nothing is set for sample:tree and sample:tree/"),
    ],
    "two values of one call are set together or not at all": [
        set_limit(TREE, max_per_key=1, max_total=2),
        is_set().gives([[TREE, 2], [f"{TREE}/", 1]]),
        set_limit(TREE, max_per_key=5, max_total=-2).fails(LimitError, "max_total: an integer"),
        is_set().gives([[TREE, 2], [f"{TREE}/", 1]]),
    ],
    **{
        f"another rate keeps the delay of another service: {rate}": [
            set_limit(sample_rated.type, rate=Rate(1, timedelta(minutes=1), burst=2)),
            put(sample_rated, *"abcd"),
            delayed([None, sample_rated.type, None], DELAY),
            put(sample_rated, "e"),
            seconds_until_due(*"cde").gives([DELAY, DELAY + 60, DELAY + 120]),
            set_limit(sample_rated.type, rate=rate),
            put(sample_rated, "new"),
            seconds_until_due(*"cde", "new").gives([DELAY + seconds for seconds in after]),
            end_of_changes(),
            # one a second, rounded
            seconds_until_due(*"cde", "new").gives([DELAY] * 4),
        ]
        for rate, after in (
            (Rate(1, timedelta(minutes=10)), [0, 600, 1200, 1800]),
            (Rate(1, timedelta(seconds=10)), [0, 10, 20, 30]),
            (Rate(1, timedelta(minutes=10), burst=3), [0, 600, 1200, 1800]),
            (Rate(1, HOUR), [0, 3600, 7200, 10_800]),
        )
    },
    **{
        f"the sweep after a deploy plans a changed rate anew: {declared}": [
            sql("update joblane.limits set step = interval '1 hour', burst = 1 where name = 'sample:rated'"),
            put(sample_rated, *"abcd"),
            due_in(*"bcd").gives([0, 3600, 7200]),
            declare(Flow(max_total=9, rate=declared)),
            sweep(),
            due_in(*"bcd").gives([0, step_seconds, 2 * step_seconds]),
            sql(f"select {FIRST_DUE} <= clock_timestamp() + interval '{step_seconds} s'").gives([[True]]),
            put(sample_rated, "new"),
            states("new").gives([state]),
        ]
        for declared, step_seconds, state in (
            (Rate(1, timedelta(minutes=1)), 60, "pending"),
            (Rate(1, 10 * HOUR), 36_000, "pending"),
            (None, 0, "completed"),
        )
    },
}


@pytest.mark.usefixtures("jobs")
@stories(STORIES)
def test_story(limited: World, story: Story) -> None:
    play(limited, story)
