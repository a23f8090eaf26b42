"""Waits and signals in the database: stops, signals, and the plans of the statements."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError
from sqlalchemy.orm import Session

from joblane.errors import SignalError
from joblane.quotas import MAX_DELAY_SECONDS
from joblane.record.row.conditions import UNDER_WAY
from joblane.record.task import waits as statements
from joblane.record.task.claim import Verdict
from joblane.record.task.stop import Stop
from joblane.record.task.waits import EXPIRE, READ, READ_SIGNAL, SIGNAL, read_history
from tests.builders.rows import In, active, archived, put
from tests.builders.waits import (
    HOUR,
    Others,
    check_plant,
    claimed,
    seconds_to,
    send,
    stop_of,
    stopped,
    unheard,
    woken,
)
from tests.integration.record.test_races import WaitUntil, waiting_for_a_lock
from tests.patience import PATIENCE_SECONDS
from tests.samples import sample_one
from tests.world import World

# --- A stop --------------------------------------------------------------------------------------------------------


def test_a_first_run_that_stops_becomes_a_row_of_attempts(world: World) -> None:
    put(world, sample_one, "it", **active(60, request_id="request", tenant="acme"))
    assert stopped(world.database.get(), stop_of()) is not None
    row = world.row("it")
    assert (row["state"], row["attempts"], row["runs"], row["lease_token"]) == ("scheduled", 0, 1, None)
    [run] = world.attempts("it")
    assert (run["run"], run["attempt"], run["outcome"], run["duration_ms"]) == (1, 1, "waiting", 7)
    assert (run["request_id"], run["tenant"], run["type"]) == ("request", "acme", sample_one.type)
    assert run["finished_at"] is not None
    assert run["wait_ms"] is not None


def test_a_later_run_that_stops_ends_its_row_and_what_a_failed_attempt_left(world: World) -> None:
    left = {"error_type": "E", "error_message": "e", "fingerprint": "f", "used_ms": 5, "sends": 2, "snoozes": 1}
    put(world, sample_one, "it", **active(60, runs=4, attempts=3, mismatch_since=In(-5), **left))
    stopped(world.database.get(), stop_of(4))
    row = world.row("it")
    assert [row[name] for name in (*left, "mismatch_since", "attempts", "runs")] == [
        None, None, None, 0, 0, 1, None, 0, 4,
    ]  # fmt: skip
    assert world.outcomes("it") == ["waiting"]
    assert claimed(world).verdict is Verdict.WAIT


@pytest.mark.parametrize(
    ("stop", "due", "sweep"),
    [
        (Stop("a", seconds=60), 60, 120),
        (Stop("a", seconds=MAX_DELAY_SECONDS), MAX_DELAY_SECONDS, MAX_DELAY_SECONDS + 60),
        (Stop("a", seconds=2 * HOUR), 2 * HOUR, 2 * HOUR - MAX_DELAY_SECONDS),
        (Stop("a", seconds=2 * HOUR, again=60), 60, 120),
        (Stop("a", seconds=30, again=60), 30, 90),
    ],
)
def test_a_stop_is_due_at_its_end_and_far_ones_have_no_message(
    world: World, stop: Stop, due: float, sweep: float
) -> None:
    put(world, sample_one, "it", **active(60))
    end = stopped(world.database.get(), stop_of(stop=stop))
    assert end is not None
    assert end.delay_seconds == pytest.approx(due, abs=1)
    assert (end.waits_long, end.wakes) == (due > MAX_DELAY_SECONDS, False)
    assert seconds_to(world, "due_at") == pytest.approx(due, abs=5)
    assert seconds_to(world, "sweep_at") == pytest.approx(sweep, abs=5)


def test_a_sleep_until_a_time_ends_at_it_and_no_task_waits_past_its_deadline(world: World) -> None:
    put(world, sample_one, "it", **active(60, deadline=In(300)))
    stopped(world.database.get(), stop_of(stop=Stop("a", at=datetime.now(UTC) + timedelta(hours=1))))
    [[until]] = world.run("select extract(epoch from until - clock_timestamp())::float8 from joblane.task_waits")
    assert until == pytest.approx(HOUR, abs=5)
    assert seconds_to(world, "due_at") == pytest.approx(300, abs=5)


def test_the_first_stop_sets_the_end_of_a_wait(world: World) -> None:
    put(world, sample_one, "it", **active(60))
    stopped(world.database.get(), stop_of())
    world.run("update joblane.task_waits set until = until - interval '50 min'")
    world.later("it")
    assert (claimed(world).run, claimed(world).attempt) == (2, 1)
    end = stopped(world.database.get(), stop_of(2, Stop("approval", "approval", 5 * HOUR)))
    assert end is not None
    assert end.delay_seconds == pytest.approx(600, abs=5)
    assert world.outcomes("it") == ["waiting", "waiting"]


def test_a_wait_that_a_deleted_task_left_is_not_that_of_a_first_run(world: World) -> None:
    put(world, sample_one, "it", **active(60))
    stopped(world.database.get(), stop_of())
    world.run("delete from joblane.tasks")
    world.run("update joblane.task_waits set until = until - interval '50 min'")
    put(world, sample_one, "it", **active(60))
    end = stopped(world.database.get(), stop_of())
    assert end is not None
    assert end.delay_seconds == pytest.approx(HOUR, abs=5)


def test_a_run_that_lost_its_task_or_was_cancelled_does_not_stop(world: World) -> None:
    held: dict[str, dict[str, Any]] = {
        "taken": {"lease_token": "00000000-0000-4000-8000-000000000002"},
        "cancelled": {"cancel_requested_at": In(-1)},
    }
    for id_, columns in held.items():
        put(world, sample_one, id_, **active(60, **columns))
        for waits in (False, True):
            assert stopped(world.database.get(), stop_of(id_=id_), waits=waits) is None
    put(world, sample_one, "ended", state="completed")
    assert stopped(world.database.get(), stop_of(id_="ended"), waits=True) is None
    assert world.run("select from joblane.task_waits") == []


def test_a_stop_leaves_a_locked_row_or_waits_for_it(world: World, others: Others) -> None:
    put(world, sample_one, "it", **active(60))
    connection = others()
    with world.locked("it") as holder:
        assert stopped(connection, stop_of()) is None
        waiting = threading.Thread(target=stopped, args=(connection, stop_of()), kwargs={"waits": True})
        waiting.start()
        while not waiting_for_a_lock(world):
            pass
        holder.get().rollback()
        waiting.join(PATIENCE_SECONDS)
    assert world.row("it")["state"] == "scheduled"


def test_an_ordered_task_keeps_its_key_and_gives_its_other_slots_back(world: World) -> None:
    limits: dict[str, Any] = {
        "key_limit": "sample:one/a",
        "shared_limit": "mail",
        "first_due_at": In(-60),
        "seq": 1,
        "passed": "all",
    }
    put(world, sample_one, "ordered", **active(60, ordered=True, **limits))
    put(world, sample_one, "any", **active(60, **{**limits, "key_limit": "sample:one/b"}))
    for id_ in ("ordered", "any"):
        stopped(world.database.get(), stop_of(id_=id_))
    assert [world.row(id_)["passed"] for id_ in ("ordered", "any")] == ["key_slot", None]


# --- A signal ------------------------------------------------------------------------------------------------------


def test_the_first_signal_of_a_name_counts(world: World) -> None:
    put(world, sample_one, "it")
    connection = world.database.get()
    assert [send(connection, value="1"), send(connection, value="2"), send(connection, "other", "null")] == [
        True, False, True,
    ]  # fmt: skip
    assert read_history(connection, "it").signals == {"approval": "1", "other": "null"}
    assert woken(connection) == []
    assert unheard(world) == []


@pytest.mark.parametrize(
    ("columns", "accepted"),
    [
        ({"state": "completed"}, False),
        ({"state": "cancelled"}, False),
        (archived(), True),
        (archived(cleared=True, payload=None), False),
        ({"state": "held"}, True),
        (active(60), True),
    ],
)
def test_a_signal_counts_while_its_task_may_run(world: World, columns: dict[str, Any], accepted: bool) -> None:
    put(world, sample_one, "it", **columns)
    assert send(world.database.get()) is accepted


def test_a_signal_of_an_unknown_task_ends_no_transaction(world: World) -> None:
    connection = world.database.get()
    connection.execute_simple("begin")
    assert send(connection, id_="nobody") is None
    connection.execute_simple("commit")
    with pytest.raises(DatabaseError, match="there is no task 'nobody'"):
        world.run("select joblane.signal('nobody', 'approval')")


def test_sql_sends_a_signal_and_the_value_of_none_is_null(world: World) -> None:
    put(world, sample_one, "it")
    assert world.run(
        "select joblane.signal('it', 'a'), joblane.signal('it', 'b', '1e20'), joblane.signal('it', 'a')"
    ) == [[True, True, False]]
    assert world.run("select joblane.signal('it', 'c', null, 'op')") == [[True]]
    assert read_history(world.database.get(), "it").signals == {"a": "null", "b": "1e20", "c": "null"}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("", "1", "signal: 1 to 100 printable"),
        ("é", "1", "signal: 1 to 100 printable"),
        ("a" * 101, "1", "signal: 1 to 100 printable"),
        ("a", json.dumps("x" * 65_535), "value: at most 65,536 bytes are required, not 65537"),
    ],
)
def test_a_wrong_signal_is_refused(world: World, name: str, value: str, problem: str) -> None:
    put(world, sample_one, "it")
    with pytest.raises(DatabaseError, match=problem):
        world.run("select joblane.signal('it', $1, $2::text::json)", name, value)


@pytest.mark.parametrize(("number", "size"), [(1_000, 1), (16, 65_530)])
def test_a_task_gets_a_limited_number_and_size_of_signals(
    world: World, session: Session, number: int, size: int
) -> None:
    put(world, sample_one, "it")
    world.run(
        "insert into joblane.task_signals (task_id, name, value)"
        " select 'it', n::text, to_json(repeat('x', $1::int)) from generate_series(1, $2::int) as n",
        str(size),
        str(number),
    )
    with pytest.raises(DatabaseError, match="gets no more"):
        world.run("select joblane.signal('it', 'a', to_json(repeat('x', 1000)))")
    with pytest.raises(SignalError, match="signal: the task has 1,000 signals"):
        world.client.signal("it", "a", "x" * 1000)
    with pytest.raises(SignalError, match="signal: the task has 1,000 signals"):
        world.client.signal("it", "a", "x" * 1000, session=session)


def test_a_signal_of_a_task_that_is_deleted_before_the_commit_is_removed(world: World, others: Others) -> None:
    put(world, sample_one, "it")
    signaller = others()
    signaller.execute_simple("begin")
    assert send(signaller)
    world.run("delete from joblane.tasks where id = 'it'")
    signaller.execute_simple("commit")
    assert woken(world.database.get()) == []
    assert world.run("select name from joblane.task_signals") == []


def test_a_wake_up_with_an_old_snapshot_leaves_its_task_to_the_sweep(
    world: World, others: Others, wait_until: WaitUntil
) -> None:
    put(world, sample_one, "it")
    assert send(world.database.get())
    holder, waker = others(), others()
    holder.execute_simple("begin")
    holder.run("update joblane.tasks set depth = depth")
    waker.execute_simple("set default_transaction_isolation = 'repeatable read'")
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.extend(waker.run(statements.WAKE, ["it"])))
    thread.start()
    wait_until(lambda: waiting_for_a_lock(world))
    holder.execute_simple("commit")
    thread.join(PATIENCE_SECONDS)
    assert [answer["later"] for (answer,) in answers] == [["it"]]
    assert unheard(world) == ["approval"]


# --- Plans ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        (READ, ["text"]),
        (READ_SIGNAL, ["text"] * 2),
        (EXPIRE, ["text"] * 4),
        (SIGNAL, ["text"]),
        (f"select {UNDER_WAY} from joblane.tasks t where t.id = $1", ["text"]),
    ],
)
def test_each_statement_of_a_run_and_of_a_signal_looks_up_keys_in_large_tables(
    world: World, statement: str, parameters: list[str]
) -> None:
    world.run("insert into joblane.task_waits select n::text, 'a', 'a', now(), 1 from generate_series(1, 20000) as n")
    world.run(
        "insert into joblane.task_signals (task_id, name, value)"
        " select n::text, 'a', '1' from generate_series(1, 20000) as n"
    )
    world.run("insert into joblane.task_steps select n::text, 'a', '1' from generate_series(1, 20000) as n")
    for number in range(3):
        put(world, sample_one, f"t{number}")
    world.run("analyze joblane.task_waits, joblane.task_signals, joblane.task_steps")
    world.run("set plan_cache_mode = force_generic_plan")
    world.run(f"prepare planned({', '.join(parameters)}) as {statement}")
    given = ", ".join(["'{}'"] * len(parameters)) if statement != EXPIRE else "'t1', gen_random_uuid()::text, 'a', 'a'"
    plan = "\n".join(row[0] for row in world.run(f"explain execute planned({given})"))
    assert not re.findall(r"Seq Scan on (?!tasks)\w+", plan), plan


# --- Planted faults ------------------------------------------------------------------------------------------------

PLANTED: list[tuple[str, str, Callable[[World], None]]] = [
    (
        "attempts = 0",
        "attempts = t.attempts",
        test_a_later_run_that_stops_ends_its_row_and_what_a_failed_attempt_left,
    ),
    (
        "then 'key_slot' end",
        "then 'key_slot' else t.passed end",
        test_an_ordered_task_keeps_its_key_and_gives_its_other_slots_back,
    ),
    (
        "then excluded.until else w.until end",
        "then excluded.until else excluded.until end",
        test_the_first_stop_sets_the_end_of_a_wait,
    ),
]
"""A text in the function of a stop, the fault, and the test that finds it."""


@pytest.mark.parametrize(("old", "new", "test"), PLANTED)
def test_each_planted_fault_is_found(world: World, old: str, new: str, test: Callable[[World], None]) -> None:
    check_plant(world, "suspend", old, new, partial(test, world))
