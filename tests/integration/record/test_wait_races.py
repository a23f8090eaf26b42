"""Races between a run that stops at a wait and a signal, forced, and their planted faults."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from joblane.errors import DatabaseUnavailableError
from joblane.inspector.actions.changes import change
from joblane.inspector.filter import BulkAction
from joblane.names import Queue
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.row.transitions import CANCEL
from joblane.record.sql_functions import VERSION
from joblane.record.task import waits as statements
from joblane.record.task.claim import Verdict, arrival, claim
from joblane.record.task.debounce import PUSH
from joblane.record.task.finish import Finish
from joblane.record.task.insert import REPLACE
from joblane.record.task.stop import Stop
from joblane.record.task.waits import EXPIRE, expire, read_history
from joblane.sqs.message import Message
from tests.builders.rows import TOKEN, In, active, put
from tests.builders.waits import (
    APPROVAL,
    HOUR,
    LEASE,
    Others,
    check_plant,
    claimed,
    send,
    stop_of,
    stopped,
    unheard,
    woken,
)
from tests.integration.record.test_races import WaitUntil, waiting_for_a_lock
from tests.patience import PATIENCE_SECONDS
from tests.samples import sample_one, sample_only
from tests.world import World


def begin_run(world: World, connection: Connection, level: str = "read committed") -> None:
    """Begin the transaction of a run that has looked for the signal."""
    put(world, sample_one, "it", **active(60))
    connection.execute_simple(f"begin isolation level {level}")
    assert read_history(connection, "it").signals == {}


def signal_after_the_look(world: World, others: Others) -> None:
    """A signal commits after the run has looked, and before it stops."""
    run, signaller = others(), others()
    begin_run(world, run)
    send(signaller)
    assert woken(signaller) == []
    end = stopped(run, stop_of())
    run.execute_simple("commit")
    assert end is not None
    assert (end.delay_seconds, world.row("it")["state"]) == (0, "pending")
    assert unheard(world) == []  # the stop has heard it
    assert claimed(world).verdict is Verdict.RUN


def signal_during_the_stop(world: World, others: Others) -> None:
    """A signal commits after the stop has looked, and before it commits: its wake-up waits for the row."""
    run, signaller = others(), others()
    begin_run(world, run)
    stopped(run, stop_of())
    send(signaller)
    found: list[str] = []
    waiting = threading.Thread(target=lambda: found.extend(woken(signaller)))
    waiting.start()
    ends = threading.Event()
    while not waiting_for_a_lock(world) and waiting.is_alive():
        ends.wait(0.005)
    run.execute_simple("commit")
    waiting.join(PATIENCE_SECONDS)
    assert found == ["it"]
    assert unheard(world) == []
    assert claimed(world).verdict is Verdict.RUN


def signal_after_the_stop(world: World, others: Others) -> None:
    run, signaller = others(), others()
    begin_run(world, run)
    stopped(run, stop_of())
    run.execute_simple("commit")
    send(signaller)
    assert woken(signaller) == ["it"]
    assert woken(signaller) == []
    row = world.row("it")
    assert (row["state"], row["sends"]) == ("pending", 0)
    assert claimed(world).verdict is Verdict.RUN


def stop_with_an_old_snapshot(world: World, others: Others) -> None:
    """A run in repeatable read does not see the signal, and looks again after its commit. Otherwise the sweep does"""
    run, signaller = others(), others()
    begin_run(world, run, "repeatable read")
    send(signaller)
    assert woken(signaller) == []
    end = stopped(run, stop_of())
    run.execute_simple("commit")
    assert end is not None
    assert end.wakes
    assert end.delay_seconds == pytest.approx(HOUR, abs=1)
    assert unheard(world) == ["approval"]
    assert woken(run) == ["it"]


def second_signal_during_a_wake_up(world: World, others: Others) -> None:
    """A signal that commits between two statements of a wake-up stays unheard."""
    put(world, sample_one, "it", **active(60))
    stopped(world.database.get(), stop_of(stop=Stop("b", "b", HOUR)))
    [[text]] = world.run("select pg_get_functiondef(oid) from pg_proc where proname = $1", f"wake_{VERSION}")
    looked = "and not g.heard);"
    assert looked in text
    world.run(text.replace(looked, f"{looked} perform pg_advisory_xact_lock(1);").replace("250ms", "5s"))
    signaller, waker = others(), others()
    send(signaller, "a")
    found: list[str] = []
    with Database(world.url) as holder:
        holder.get().run("select pg_advisory_lock(1)")
        waiting = threading.Thread(target=lambda: found.extend(woken(waker)))
        waiting.start()
        ends = threading.Event()
        while not waiting_for_a_lock(world) and waiting.is_alive():
            ends.wait(0.005)
        send(signaller, "b")
    waiting.join(PATIENCE_SECONDS)
    assert found == []
    assert unheard(world) == ["b"]
    assert woken(signaller) == ["it"]


def other_wait_of_the_task(world: World, others: Others) -> None:
    """A signal for an earlier wait wakes no task that waits for another one now."""
    signaller = others()
    put(world, sample_one, "it", **active(60))
    stopped(world.database.get(), stop_of(stop=Stop("old", "old", 1)))
    world.later("it")
    claimed(world)
    stopped(world.database.get(), stop_of(2))
    send(signaller, "old")
    assert woken(signaller) == []
    assert world.row("it")["state"] == "scheduled"
    assert unheard(world) == []


def stop_again(world: World, others: Others) -> None:
    """A wait whose second stop is the last run is open."""
    signaller = others()
    put(world, sample_one, "it", **active(60))
    stopped(world.database.get(), stop_of())
    world.later("it")
    claimed(world)
    end = stopped(world.database.get(), stop_of(2))
    assert end is not None
    assert end.delay_seconds <= HOUR
    send(signaller)
    assert woken(signaller) == ["it"]


RACES = [
    signal_after_the_look, signal_during_the_stop, signal_after_the_stop, stop_with_an_old_snapshot,
    second_signal_during_a_wake_up, other_wait_of_the_task, stop_again,
]  # fmt: skip


@pytest.mark.parametrize("race", RACES)
def test_no_wake_up_is_lost(world: World, others: Others, race: Callable[[World, Others], None]) -> None:
    race(world, others)


@pytest.mark.parametrize(("end", "counts"), [("commit", False), ("rollback", True)])
def test_an_open_transaction_of_a_signaller_delays_no_run_but_a_second_signal(
    world: World, others: Others, wait_until: WaitUntil, end: str, counts: bool
) -> None:
    put(world, sample_one, "it", **active(60))
    first, second = others(), others()
    first.execute_simple("begin")
    assert send(first)
    stop = stopped(world.database.get(), stop_of())
    assert stop is not None
    assert stop.delay_seconds == pytest.approx(HOUR, abs=1)
    found: list[bool | None] = []
    waiting = threading.Thread(target=lambda: found.append(send(second, value="2")))
    waiting.start()
    wait_until(lambda: waiting_for_a_lock(world))
    first.execute_simple(end)
    waiting.join(PATIENCE_SECONDS)
    assert found == [counts]
    assert woken(first) == ["it"]


def test_a_second_signal_gives_up_after_a_while_and_the_first_one_counts(world: World, others: Others) -> None:
    put(world, sample_one, "it")
    [[limits]] = world.run("select proconfig::text from pg_proc where oid = 'joblane.signal'::regproc")
    assert "lock_timeout=5s" in limits
    world.run("alter function joblane.signal set lock_timeout = '10ms'")
    first = others()
    first.execute_simple("begin")
    assert send(first)
    with pytest.raises(DatabaseUnavailableError, match="lock timeout"):
        world.client.signal("it", "approval", 2)
    first.execute_simple("commit")
    assert read_history(first, "it").signals == {"approval": "1"}


def test_a_signal_that_is_rolled_back_leaves_its_name_free(world: World, others: Others) -> None:
    put(world, sample_one, "it")
    first = others()
    first.execute_simple("begin")
    send(first)
    first.execute_simple("rollback")
    assert send(others(), value="2")


def test_a_wake_up_leaves_a_locked_row_to_the_sweep_and_continues_the_others(world: World, others: Others) -> None:
    for id_ in ("a", "b"):
        put(world, sample_one, id_, **active(60))
        stopped(world.database.get(), stop_of(id_=id_))
        send(world.database.get(), id_=id_)
    waker = others()
    with world.locked("a"):
        assert woken(waker, "a", "b") == ["b"]
    assert unheard(world) == ["approval"]
    assert woken(waker, "a", "b") == ["a"]


def at_the_end_of_a_wait(world: World, connection: Connection, level: str = "read committed") -> None:
    """Begin the transaction of a run that comes to a wait whose time has passed, and has found no signal."""
    put(world, sample_one, "it", **active(60))
    stopped(connection, stop_of(stop=replace(APPROVAL, seconds=0)))
    claimed(world)
    connection.execute_simple(f"begin isolation level {level}")
    assert read_history(connection, "it").signals == {}


def expired(connection: Connection) -> str | None:
    """Let the wait expire, and commit. Return the value of the signal that came before."""
    came: list[str] = []
    assert expire(connection, "it", TOKEN, name="approval", signal="approval", came=came)
    connection.execute_simple("commit")
    return came[0] if came else None


def signal_before_the_expiry(world: World, others: Others) -> None:
    """A signal that commits before the statement of the expiry counts: the wait does not expire."""
    run, signaller = others(), others()
    at_the_end_of_a_wait(world, run)
    assert send(signaller)
    assert expired(run) == "1"
    assert not read_history(run, "it").waits["approval"].expired


def signal_after_the_expiry(world: World, others: Others, *, level: str = "read committed", before: bool) -> None:
    """A signal that the expiry cannot see is kept, and the expiry holds in each later run."""
    run, signaller = others(), others()
    at_the_end_of_a_wait(world, run, level)
    signaller.execute_simple("begin")
    if before:
        assert send(signaller)
    if level != "read committed":
        signaller.execute_simple("commit")
    assert expired(run) is None
    if not before:
        assert send(signaller)
    signaller.execute_simple("commit")
    history = read_history(run, "it")
    assert (history.waits["approval"].expired, history.signals) == (True, {"approval": "1"})
    assert unheard(world) == ["approval"]
    assert stopped(run, stop_of(2, Stop("again", "again", HOUR))) is not None
    assert woken(signaller) == []  # it wakes no other wait
    assert unheard(world) == []


EXPIRIES: dict[str, Callable[[World, Others], None]] = {
    "before it": signal_before_the_expiry,
    "open before, committed after it": partial(signal_after_the_expiry, before=True),
    "after it": partial(signal_after_the_expiry, before=False),
    "committed after an old snapshot": partial(signal_after_the_expiry, before=True, level="repeatable read"),
}


@pytest.mark.parametrize("moment", EXPIRIES)
def test_a_signal_and_an_expiry_have_one_outcome(world: World, others: Others, moment: str) -> None:
    EXPIRIES[moment](world, others)


def test_a_run_that_lost_its_lease_lets_no_wait_expire(world: World) -> None:
    put(world, sample_one, "it", **active(60))
    stopped(world.database.get(), stop_of())
    assert not expire(world.database.get(), "it", TOKEN, name="approval", signal="approval", came=[])
    assert not read_history(world.database.get(), "it").waits["approval"].expired


def cancel(connection: Connection) -> list[Any]:
    return connection.run(CANCEL, "it")


def act(action: BulkAction) -> Callable[[Connection], list[Any]]:
    return lambda connection: change(connection, action, ["it"], who="op")  # it skips a locked row


ENDS: dict[str, tuple[Callable[[Connection], list[Any]], str]] = {
    "cancel": (cancel, "cancelled"),
    "archive": (act(BulkAction.ARCHIVE), "archived"),
    "delete": (act(BulkAction.DELETE), "cancelled"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_task_that_is_ended_at_the_moment_of_its_stop_ends(
    world: World, others: Others, wait_until: WaitUntil, end: str
) -> None:
    run, operator = others(), others()
    ends, state = ENDS[end]
    begin_run(world, run)
    stopped(run, stop_of())
    found: list[list[Any]] = []
    waiting = threading.Thread(target=lambda: found.append(ends(operator)))
    waiting.start()
    if end == "cancel":
        wait_until(lambda: waiting_for_a_lock(world))
    else:
        waiting.join(PATIENCE_SECONDS)
        assert found == [[]]
    run.execute_simple("commit")
    waiting.join(PATIENCE_SECONDS)
    if end != "cancel":
        assert ends(operator)
    assert world.row("it")["state"] == state
    assert send(run) is (state == "archived")  # kept for a retry
    assert woken(run) == []


def test_a_stop_at_the_moment_of_a_cancel_is_refused(world: World, others: Others, wait_until: WaitUntil) -> None:
    run, operator = others(), others()
    begin_run(world, run)
    operator.execute_simple("begin")
    cancel(operator)
    assert stopped(run, stop_of()) is None  # it leaves the locked row
    found: list[Finish | None] = []
    waiting = threading.Thread(target=lambda: found.append(stopped(run, stop_of(), waits=True)))
    waiting.start()
    wait_until(lambda: waiting_for_a_lock(world))
    operator.execute_simple("commit")
    waiting.join(PATIENCE_SECONDS)
    run.execute_simple("rollback")
    assert found == [None]
    assert (world.row("it")["state"], world.run("select from joblane.task_waits")) == ("active", [])


NEW: dict[str, Any] = {
    "type": sample_only.type, "queue": "default", "payload": {"number": 9}, "payload_digest": "d", "max_attempts": 1,
    "retention_seconds": 60, "unique_seconds": 60,
}  # fmt: skip
DEBOUNCED = {"rest": {"asks": 1, "longest_seconds": 60}, "keep": "last", "unique_until": "start", "delay": 10}


@pytest.mark.parametrize("statement", [REPLACE, PUSH], ids=["replace", "push"])
@pytest.mark.parametrize(
    ("level", "moment", "changed"),
    [
        ("read committed", "before the statement", False),
        ("read committed", "while it waits for the row", True),
        ("read committed", "after it", True),
        ("repeatable read", "before the statement", True),  # and after the snapshot
        ("repeatable read", "after it", True),
    ],
)
def test_a_signal_that_an_enqueue_cannot_see_counts_for_the_new_payload(
    world: World, others: Others, wait_until: WaitUntil, statement: str, level: str, moment: str, changed: bool
) -> None:
    """As if it came after the enqueue: the signal is for the task, and locks no row of it."""
    key = f"{sample_only.type} it"
    put(world, sample_only, "it", {"number": 1}, unique_key=key, unique_expires_at=In(600))
    producer, signaller = others(), others()
    found: list[Any] = []

    def enqueue() -> None:
        rows = [NEW | {"id": "new", "unique_key": key} | (DEBOUNCED if statement == PUSH else {})]
        found.extend(row[0] for row in producer.run(statement, json.dumps(rows)))

    producer.execute_simple(f"begin isolation level {level}")
    producer.run("select 1")  # the snapshot
    signaller.execute_simple("begin")
    assert send(signaller)
    if moment == "before the statement":
        signaller.execute_simple("commit")
        enqueue()
    elif moment == "after it":
        enqueue()
        signaller.execute_simple("commit")
    else:
        with world.locked("it"):
            waiting = threading.Thread(target=enqueue)
            waiting.start()
            wait_until(lambda: waiting_for_a_lock(world))
            signaller.execute_simple("commit")
        waiting.join(PATIENCE_SECONDS)
    producer.execute_simple("commit")
    assert found == (["it"] if changed else [])
    assert world.row("it")["payload"] == {"number": 9 if changed else 1}
    assert read_history(signaller, "it").signals == {"approval": "1"}
    # the next enqueue sees it
    producer.execute_simple("begin")
    enqueue()
    producer.execute_simple("commit")
    assert found == (["it"] if changed else [])


def test_no_enqueue_replaces_a_task_that_stops_while_the_statement_waits(
    world: World, others: Others, wait_until: WaitUntil
) -> None:
    for number in (1, 2):
        columns = {"unique_key": f"{sample_only.type} {number}", "unique_expires_at": In(600)}
        put(world, sample_only, f"t{number}", {"number": number}, **columns)
    rows = [NEW | {"id": f"new{number}", "unique_key": f"{sample_only.type} {number}"} for number in (1, 2)]
    replacer = others()
    replaced: list[str] = []
    with world.locked("t1") as holder:
        waiting = threading.Thread(
            target=lambda: replaced.extend(row[0] for row in replacer.run(REPLACE, json.dumps(rows)))
        )
        waiting.start()
        wait_until(lambda: waiting_for_a_lock(world))
        arrived = arrival(sample_only, Message(sample_only.type, "t2", rec=True), "t2", Queue.DEFAULT)
        assert claim(world.database.get(), [arrived], LEASE, "r", TOKEN)["t2"].verdict is Verdict.RUN
        stopped(world.database.get(), stop_of(id_="t2"))
        holder.get().rollback()
        waiting.join(PATIENCE_SECONDS)
    assert replaced == ["t1"]
    assert world.row("t2")["payload"] == {"number": 2}


# --- Planted faults ------------------------------------------------------------------------------------------------


PLANTED: list[tuple[str, str, str, Callable[[World, Others], None]]] = [
    ("suspend", "g.name = s.signal) then", "false) then", signal_after_the_look),
    ("wake", "for no key update;", ";", signal_during_the_stop),
    ("wake", "continue when t.state = 'active';", "", stop_with_an_old_snapshot),
    ("wake", "g.name = any (names);", "true;", second_signal_during_a_wake_up),
    ("wake", "w.run = t.runs", "true", other_wait_of_the_task),
    ("suspend", "set run = excluded.run,", "set", stop_again),
    ("suspend", "<> 'read committed'", "= 'nothing'", stop_with_an_old_snapshot),
    ("wake", "w.signal = any (names)", "false", signal_after_the_stop),
    ("wake", "t.state = 'scheduled' and", "false and", stop_again),
]
"""A function, a text there, the fault, and the race that finds it."""


@pytest.mark.parametrize(("function", "old", "new", "race"), PLANTED)
def test_each_planted_fault_is_found(
    world: World, others: Others, function: str, old: str, new: str, race: Callable[[World, Others], None]
) -> None:
    check_plant(world, function, old, new, partial(race, world, others))


EXPIRY_FAULTS: list[tuple[str, str, Callable[[World, Others], None]]] = [
    (" and not exists (select from came)", "", signal_before_the_expiry),
    ("select (select value from came) from held", "select null from held", signal_before_the_expiry),
    ("set expired_at = clock_timestamp()", "set expired_at = null", EXPIRIES["after it"]),
]
"""A text of the statement of an expiry, the fault, and the interleaving that finds it."""


@pytest.mark.parametrize(("old", "new", "race"), EXPIRY_FAULTS)
def test_each_planted_fault_of_an_expiry_is_found(
    world: World, others: Others, monkeypatch: pytest.MonkeyPatch, old: str, new: str, race: Callable[..., None]
) -> None:
    assert old in EXPIRE, "the statement has changed: the fault can no longer be planted by this text"
    monkeypatch.setattr(statements, "EXPIRE", EXPIRE.replace(old, new))
    with pytest.raises(AssertionError):
        race(world, others)
