"""The short way of an ordinary task comes to the same as the functions that decide on any task."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError

from joblane.names import Queue
from joblane.record.driver.database import Database
from joblane.record.row.conditions import ORDINARY
from joblane.record.row.states import State
from joblane.record.sql_functions import FUNCTIONS, VERSION
from joblane.record.task.claim import CLAIM_ONE, Claim, Verdict, arrival, claim
from joblane.record.task.finish import FINISH_ONE, Finish, finish
from joblane.sqs.message import Message
from tests.builders.rows import TOKEN, In, active, archived, put
from tests.integration.record.test_races import WaitUntil, waiting_for_a_lock
from tests.integration.record.test_transitions import row_after
from tests.samples import Sample, sample_one
from tests.ways import Ways, never_short
from tests.world import World

LEASE = timedelta(seconds=120)
MINE = "00000000-0000-4000-8000-0000000000aa"
LIMITED = {"first_due_at": In(-60), "seq": 1}
RESUMED = {"state": "scheduled", "runs": 1, "due_at": In(-1)}
"""A task that has stopped at a wait, whose end has come."""
NOT_ORDINARY: dict[str, list[dict[str, Any]]] = {
    "its type": [{"type": "sample:two"}],
    "waits": [active(60), active(-60), archived()],
    "has not run": [{"runs": 1, "attempts": 1}, {"state": "retry", "runs": 3, "attempts": 2}, RESUMED],
    "no earlier attempt continues": [
        {"used_ms": 5},
        {"snoozes": 1},
        {"mismatch_since": In(-60)},
        {"reason": "by hand"},
    ],
    "due": [{"state": "scheduled", "due_at": In(60)}],
    "no deadline": [{"deadline": In(60)}, {"deadline": "2026-01-01T00:00:00Z"}],
    "no limit": [
        {"key_limit": "sample:one/a", **LIMITED},
        {"total_limit": "sample:one", **LIMITED},
        {"shared_limit": "mail", **LIMITED},
        {"passed": "all"},
    ],
    "no parents": [{"wait_kind": "parents", "place": 1}],
    "takes no key": [{"tick_key": "sample:one/k", "unique_expires_at": In(60)}],
    "nothing is paused": [{}],
}
"""Condition → rows that violate it."""
ORDINARY_ROWS: dict[str, dict[str, Any]] = {
    "due": {},
    "scheduled": {"state": "scheduled", "due_at": In(1)},
    "key to its end": {"unique_key": "sample:one/k", "unique_expires_at": In(60)},
    "key to its start": {"unique_key": "sample:one/k", "unique_expires_at": In(60), "unique_until": "start"},
    "attempts by hand": {"attempts": 3},
    "to be claimed alone": {"claim_alone": True, "generation": 2},
    "options": {"headers": {"a": "b"}, "options": {"timeout": 5}, "batch": "b", "depth": 3, "events": ["completed"]},
}


def claimed(world: World, id_: str, token: str = MINE) -> Claim:
    arrived = arrival(sample_one, Message(sample_one.type, id_, rec=True), id_, Queue.DEFAULT)
    return claim(world.database.get(), [arrived], LEASE, "request", token)[id_]


def claimed_and_row(world: World, columns: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """Return a claim, the row after it and its runs, without what depends on the moment; and remove the task."""
    put(world, sample_one, "it", **columns)
    found = dataclasses.asdict(claimed(world, "it"))
    for name in ("wait_seconds", "waited_ms", "deadline", "mismatch_seconds"):
        found[name] = None if found[name] is None else round(found[name] / 30_000)
    row = row_after(world, "it", lambda *_: None)
    runs = world.run(
        "select run, attempt, generation, outcome, request_id, tenant, type from joblane.runs order by run"
    )
    world.run("delete from joblane.tasks")
    world.run("delete from joblane.task_attempts")
    return found, row, runs


def went_short(world: World) -> bool:
    [[answer]] = world.database.get().run(CLAIM_ONE, "it", sample_one.type, MINE, "60", "request")
    return not isinstance(answer[0], dict)


@pytest.mark.parametrize(
    ("condition", "columns"), [(name, columns) for name, rows in NOT_ORDINARY.items() for columns in rows]
)
def test_each_exception_is_decided_by_the_function(world: World, condition: str, columns: dict[str, Any]) -> None:
    if condition == "nothing is paused":
        world.run("insert into joblane.pauses (scope, name) values ('tenant', 'another')")
    with Ways(lambda: False).switched():
        expected = claimed_and_row(world, columns)
    assert claimed_and_row(world, columns) == expected
    put(world, sample_one, "it", **columns)
    assert not went_short(world)


def test_each_condition_of_an_ordinary_task_has_an_exception() -> None:
    assert NOT_ORDINARY.keys() == {*ORDINARY, "nothing is paused"}


@pytest.mark.parametrize("columns", ORDINARY_ROWS.values(), ids=ORDINARY_ROWS)
def test_an_ordinary_task_is_claimed_as_by_the_function(world: World, columns: dict[str, Any]) -> None:
    with Ways(lambda: False).switched():
        expected = claimed_and_row(world, columns)
    assert claimed_and_row(world, columns) == expected
    assert expected[0]["verdict"] == "run"
    put(world, sample_one, "it", **columns)
    assert went_short(world)


def test_a_claim_whose_answer_was_lost_is_repeated(world: World) -> None:
    put(world, sample_one, "it")
    first, again = claimed(world, "it"), claimed(world, "it")
    assert (again.verdict, again.attempt, again.run) == ("run", first.attempt, first.run)
    assert claimed(world, "it", TOKEN).verdict == "leased"


def test_a_claim_of_a_locked_row_waits_for_it_once(world: World) -> None:
    put(world, sample_one, "it")

    def seconds() -> float:
        began = time.monotonic()
        assert claimed(world, "it").verdict is Verdict.LOCKED
        return time.monotonic() - began

    with world.locked("it"):
        short = seconds()
        with Ways(lambda: False).switched():
            assert short < seconds() + 0.4  # the claim's lock timeout is 0.5 s


# --- The finish ----------------------------------------------------------------------------------------------------


def ended(world: World, columns: dict[str, Any], end: Finish, children: int = 0) -> tuple[Any, ...]:
    """Return the answer of a finish, the row after it and its runs; and remove the task."""
    put(world, sample_one, "it", **columns)
    for child in range(children):
        world.run(
            "insert into joblane.task_parents (child, parent, on_parent_dead) values ($1, 'it', 'hold')",
            f"child-{child}",
        )
    end = dataclasses.replace(end, released=[])
    answer = finish(world.database.get(), [end], waits=False)
    row = row_after(world, "it", lambda *_: None)
    runs = world.run("select run, attempt, outcome, duration_ms, billed_ms, memory_mb, cost_usd from joblane.runs")
    left = world.run("delete from joblane.task_parents returning child")
    world.run("delete from joblane.tasks")
    world.run("delete from joblane.task_attempts")
    return answer, sorted(end.released), end.look, row, runs, left


COMPLETED = Finish(
    "it",
    TOKEN,
    1,
    "completed",
    State.COMPLETED,
    result={"a": "é"},
    duration_ms=5,
    billed_ms=6,
    memory_mb=512,
    cost_usd=1e-7,
)
ENDS: dict[str, tuple[dict[str, Any], Finish, bool]] = {
    "completed": (active(60), COMPLETED, True),
    "without a result or a price": (active(60), Finish("it", TOKEN, 1, "completed", State.COMPLETED), True),
    "its lease is over": (active(-60), COMPLETED, True),
    "has a limit": (active(60, total_limit="sample:one", passed="all", ordered=False, **LIMITED), COMPLETED, True),
    "dirty": (active(60, used_ms=5, mismatch_since=In(-9), sends=3, reason="r", error_type="E"), COMPLETED, True),
    "asked to stop": (active(60, cancel_requested_at=In(-5)), COMPLETED, False),
    "another run holds it": (active(60, lease_token=MINE), COMPLETED, False),
    "nothing is kept": (active(60, retention_seconds=0), COMPLETED, False),
    "a later run": (active(60, runs=2, attempts=2), dataclasses.replace(COMPLETED, run=2), False),
    "a run of another number": (active(60, runs=2, attempts=2), COMPLETED, False),
    "released": ({}, COMPLETED, False),
    "ended already": ({"state": "completed", "runs": 1}, COMPLETED, False),
}


@pytest.mark.parametrize("children", [0, 2])
@pytest.mark.parametrize(("columns", "end", "is_short"), ENDS.values(), ids=ENDS)
def test_an_end_is_recorded_as_by_the_function(
    world: World, columns: dict[str, Any], end: Finish, is_short: bool, children: int
) -> None:
    with Ways(lambda: False).switched():
        expected = ended(world, columns, end, children)
    assert ended(world, columns, end, children) == expected
    put(world, sample_one, "it", **columns)
    [[answer]] = world.database.get().run(FINISH_ONE, "it", end.token, None, "1", None, None, None, "false")
    assert (answer is None) == is_short


def test_a_finish_in_a_strict_transaction_looks_for_children_after_its_commit(world: World) -> None:
    put(world, sample_one, "it", **active(60))
    connection = world.database.get()
    connection.execute_simple("begin isolation level repeatable read")
    end = dataclasses.replace(COMPLETED, released=[])
    assert finish(connection, [end], waits=False) == {"it"}
    connection.execute_simple("commit")
    assert end.look


@pytest.mark.parametrize("allowed", [True, False], ids=["short way", "functions"])
def test_a_finish_sees_a_child_that_is_claimed_while_it_waits(
    world: World, wait_until: WaitUntil, allowed: bool
) -> None:
    end = dataclasses.replace(COMPLETED, released=[])
    put(world, sample_one, "it", **active(60))
    with Database(world.url) as other, Ways(lambda: allowed).switched(), ThreadPoolExecutor(1) as thread:
        # given a claim that has locked the parent of its task
        other.get().execute_simple("begin")
        other.get().run("insert into joblane.task_parents (child, parent, on_parent_dead) values ('c', 'it', 'hold')")
        other.get().run(f"select joblane.open_parents_{VERSION}('c', false)")
        # when the parent ends, and this claim is committed
        done = thread.submit(lambda: finish(world.database.get(), [end], waits=not allowed))
        wait_until(lambda: waiting_for_a_lock(world))
        other.get().execute_simple("commit")
        assert done.result(20) == {"it"}
    # then the finish lets the child go
    assert end.released == ["c"]


# --- The enqueue -----------------------------------------------------------------------------------------------------


ENQUEUES: dict[str, dict[str, Any]] = {
    "due": {},
    "later": {"process_in": timedelta(hours=1)},
    "of a tenant": {"tenant": "acme", "max_retry": 2, "retention": timedelta(days=2)},
}


@pytest.mark.parametrize("options", ENQUEUES.values(), ids=ENQUEUES)
def test_an_enqueue_writes_the_same_row_and_the_switch_counts_its_way(world: World, options: dict[str, Any]) -> None:
    rows, found = [], []
    world.lane(sample_one)
    for allowed in (True, False):
        ways = Ways(partial(bool, allowed))
        with ways.switched():
            world.client.enqueue(sample_one, Sample(number=7), task_id="it", **options)
        rows.append(row_after(world, "it", lambda *_: None))
        found.append(ways.taken())
        world.run("delete from joblane.tasks")
    assert rows[0] == rows[1]
    assert found == [
        {"enqueues allowed the short way": 1, "enqueues by the short way": 1, "enqueues by the functions": 0},
        {"enqueues by the short way": 0, "enqueues by the functions": 1},
    ]


@pytest.mark.parametrize("allowed", [True, False], ids=["short way", "functions"])
def test_the_switch_counts_the_way_of_a_claim_and_of_a_finish(world: World, allowed: bool) -> None:
    put(world, sample_one, "it")
    ways = Ways(lambda: allowed)
    with ways.switched():
        assert world.deliver(sample_one, {"type": sample_one.type, "id": "it", "rec": True}) == []
    taken, other = ("short way", "functions") if allowed else ("functions", "short way")
    for step in ("claims", "finishes"):
        assert (ways.counts[f"{step} by the {taken}"], ways.counts[f"{step} by the {other}"]) == (1, 0)


def test_a_storm_whose_tasks_never_go_the_short_way_fails() -> None:
    counts = {"claims allowed the short way": 30, "claims by the functions": 30, "enqueues allowed the short way": 29}
    assert list(never_short(counts)) == ["none of 30 claims went the short way"]
    assert list(never_short(counts | {"claims by the short way": 1})) == []


# --- Planted faults --------------------------------------------------------------------------------------------------

CHILDREN = "if exists (select from joblane.task_parents e where e.parent = task)"
PLANTED: list[tuple[str, str, str, str, str]] = [
    *(("claim_one", text, "true", "exception", name) for name, text in ORDINARY.items()),
    ("claim_one", "if not exists (select from joblane.pauses) then", "if true then", "exception", "nothing is paused"),
    ("finish_one", "t.lease_token = token", "true", "end", "another run holds it"),
    ("finish_one", "and t.cancel_requested_at is null", "", "end", "asked to stop"),
    ("finish_one", "and t.retention_seconds <> 0", "", "end", "nothing is kept"),
    ("finish_one", "and t.runs = 1", "", "end", "a later run"),
    ("finish_one", CHILDREN, CHILDREN.replace("if ", "if false and ", 1), "end", "completed"),
]
"""A function, a text there and the fault, the table and the name of its row that finds it."""
BEGIN = "clock constant timestamptz := clock_timestamp();"


@pytest.mark.parametrize(("function", "old", "new", "table", "name"), PLANTED)
def test_each_planted_fault_is_found(world: World, function: str, old: str, new: str, table: str, name: str) -> None:
    text = FUNCTIONS[function]
    assert old in text, "the function has changed: the fault can no longer be planted by this text"
    world.run(text.replace(old, new))

    def find() -> None:
        if table == "exception":
            for columns in NOT_ORDINARY[name]:
                test_each_exception_is_decided_by_the_function(world, name, columns)
        else:
            columns, end, is_short = ENDS[name]
            test_an_end_is_recorded_as_by_the_function(world, columns, dataclasses.replace(end, run=1), is_short, 2)

    with pytest.raises((AssertionError, DatabaseError)):
        find()


def test_a_finish_that_looks_for_children_with_an_old_snapshot_is_found(world: World, wait_until: WaitUntil) -> None:
    text = FUNCTIONS["finish_one"]
    assert BEGIN in text
    assert CHILDREN in text
    early = f"{BEGIN} early constant boolean := exists (select from joblane.task_parents e where e.parent = task);"
    world.run(text.replace(BEGIN, early).replace(CHILDREN, "if early"))
    with pytest.raises(AssertionError):
        test_a_finish_sees_a_child_that_is_claimed_while_it_waits(world, wait_until, True)
