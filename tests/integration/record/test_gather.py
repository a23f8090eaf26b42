"""Waits for children in the database: each race of a run that stops and the end of a child, forced, and its plant."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from joblane.inspector.actions.changes import change
from joblane.inspector.filter import BulkAction
from joblane.record.driver.connection import Connection
from joblane.record.flow.release import Release
from joblane.record.row.states import State
from joblane.record.sql_functions import FUNCTIONS, VERSION
from joblane.record.task.claim import Verdict
from joblane.record.task.finish import Finish, finish
from joblane.record.task.row_by_row import run_rows
from joblane.record.task.stop import Stop
from joblane.record.task.waits import READ_CHILDREN, read_children, read_history
from joblane.sweep import held
from tests.builders.rows import TOKEN, In, active, put
from tests.builders.waits import Others, claimed, stop_of, stopped
from tests.integration.record.test_races import waiting_for_a_lock
from tests.patience import PATIENCE_SECONDS
from tests.samples import sample_one
from tests.world import World

Race = Callable[[World, Others], None]


def wait(world: World, *ids: str, deadline: float | None = None, **columns: Any) -> None:
    """Put children, whose runs are in progress, and a task that waits for them."""
    for id_ in ids:
        put(world, sample_one, id_, **active(60))
    put(world, sample_one, "it", **active(60, deadline=deadline and In(deadline), **columns))
    end = stopped(world.database.get(), stop_of(stop=Stop("w", children=ids)))
    assert end is not None
    assert (end.state, end.delay_seconds) == (State.HELD, 0)


def run_early(world: World) -> None:
    """Run the task before its children have ended, as an operator does."""
    assert change(world.database.get(), BulkAction.RUN, ["it"], who="op")
    assert claimed(world).verdict is Verdict.RUN


def stop_again(connection: Connection, run: int = 2) -> Finish:
    end = stopped(connection, stop_of(run, Stop("w")))
    assert end is not None
    assert (end.state, end.delay_seconds) == (State.SCHEDULED, 0)
    return end


def complete(connection: Connection, id_: str) -> list[str]:
    """Complete a child. Return the tasks that it lets go."""
    end = Finish(id_, TOKEN, 1, "completed", State.COMPLETED, result={"of": id_})
    assert finish(connection, [end]) == {id_}
    return end.released


def released(connection: Connection, *ids: str) -> list[str]:
    return [turn.id for turns in Release((), ids).steps(lambda step: step(connection)) for turn in turns]


def waits_for(world: World, id_: str = "it") -> list[str]:
    return [p for (p,) in world.run("select parent from joblane.task_parents where child = $1 order by 1", id_)]


# --- A stop --------------------------------------------------------------------------------------------------------


def test_a_run_that_stops_for_children_is_held_until_the_last_of_them_ends(world: World) -> None:
    wait(world, "a", "b", deadline=300)
    row, connection = world.row("it"), world.database.get()
    assert (row["state"], row["wait_kind"], row["place"] is None, row["runs"]) == ("held", "parents", False, 1)
    assert row["sweep_at"] == row["deadline"]
    assert (waits_for(world), world.outcomes("it")) == (["a", "b"], ["waiting"])
    history = read_history(connection, "it")
    assert (history.waits["w"].children, history.waits["w"].expired) == (2, False)
    assert complete(connection, "b") == ["it"]
    assert released(connection, "it") == []
    assert claimed(world).verdict is Verdict.HELD
    assert complete(connection, "a") == ["it"]
    assert released(connection, "it") == ["it"]
    assert released(connection, "it") == []
    assert claimed(world).verdict is Verdict.RUN
    rows = read_children(connection, "it", name="w", most_bytes=100)
    assert [row[:4] for row in rows] == [[id_, sample_one.type, "completed", False] for id_ in ("a", "b")]
    assert [row[5] for row in rows] == ['{"of": "a"}', '{"of": "b"}']
    assert [row[4:] for row in read_children(connection, "it", name="w", most_bytes=21)] == [[22, None]] * 2


def test_at_its_deadline_a_task_that_waits_for_children_is_archived(world: World) -> None:
    wait(world, "a", deadline=300)
    world.run("update joblane.tasks set deadline = clock_timestamp() where id = 'it'")
    assert claimed(world).verdict is Verdict.ARCHIVED
    assert world.row("a")["state"] == "active"


ORDERED: dict[str, Any] = {
    "key_limit": "sample:one/a", "shared_limit": "mail", "first_due_at": In(-60), "seq": 1, "passed": "all",
}  # fmt: skip


def keeps_its_key(world: World, others: Others) -> None:
    """An ordered task keeps the slot of its key, even in a pause, and its place; and gives its other slots back."""
    wait(world, "a", ordered=True, **ORDERED)
    assert world.row("it")["passed"] == "key_slot"
    world.run("insert into joblane.pauses (scope, name) values ('type', $1)", sample_one.type)
    before = world.row("it")
    assert run_rows(world.database.get(), held.LEAVE, ["it"]) == []
    world.sweep()
    assert world.row("it") == before
    world.run("delete from joblane.pauses")
    complete(world.database.get(), "a")
    assert released(world.database.get(), "it") == ["it"]
    row = world.row("it")
    assert (row["passed"], row["first_due_at"]) == ("key_slot", before["first_due_at"])


def frees_its_slots(world: World, others: Others) -> None:
    wait(world, "a", **ORDERED)
    assert world.row("it")["passed"] is None


# --- Races ---------------------------------------------------------------------------------------------------------


def child_ends_between_the_read_and_the_stop(world: World, others: Others) -> None:
    wait(world, "a")
    run_early(world)
    run = others()
    run.execute_simple("begin")
    assert [row[3] for row in read_children(run, "it", name="w", most_bytes=100)] == [True]
    assert complete(others(), "a") == []
    stop_again(run)
    run.execute_simple("commit")
    row = world.row("it")
    assert (row["state"], row["place"], waits_for(world)) == ("pending", None, [])
    assert claimed(world).verdict is Verdict.RUN


def stop_again_with_an_old_snapshot(world: World, others: Others) -> None:
    """The run does not see that the child has ended. The claim of its message does."""
    wait(world, "a")
    run_early(world)
    run = others()
    run.execute_simple("begin isolation level repeatable read")
    assert [row[3] for row in read_children(run, "it", name="w", most_bytes=100)] == [True]
    assert complete(others(), "a") == []
    stop_again(run)
    run.execute_simple("commit")
    row = world.row("it")
    assert (row["state"], waits_for(world)) == ("pending", ["a"])
    assert claimed(world).verdict is Verdict.RUN
    assert waits_for(world) == []


def child_ends_during_the_stop(world: World, others: Others, **columns: Any) -> None:
    """A child has looked for the task before it stops again, and commits after it: the claim waits for the child."""
    wait(world, "a", **columns)
    run_early(world)
    child = others()
    child.execute_simple("begin")
    assert complete(child, "a") == []
    stop_again(others())
    row = world.row("it")
    assert (row["state"], row["place"], waits_for(world)) == ("pending", None, ["a"])
    found: list[Verdict] = []
    waiting = threading.Thread(target=lambda: found.append(claimed(world).verdict))
    waiting.start()
    ends = threading.Event()
    while not waiting_for_a_lock(world) and waiting.is_alive():
        ends.wait(0.005)
    child.execute_simple("commit")
    waiting.join(PATIENCE_SECONDS)
    assert found == [Verdict.RUN]


def child_ends_during_the_stop_of_a_callback(world: World, others: Others) -> None:
    child_ends_during_the_stop(world, others, callback_of="b")


def two_children_end_at_the_same_moment(world: World, others: Others) -> None:
    """The task continues once."""
    wait(world, "a", "b")
    first, second = others(), others()
    for connection, id_ in ((first, "a"), (second, "b")):
        connection.execute_simple("begin")
        assert complete(connection, id_) == ["it"]
    first.execute_simple("commit")
    assert released(first, "it") == []
    second.execute_simple("commit")
    assert released(second, "it") == ["it"]
    assert released(first, "it") == []


def child_ends_with_an_old_snapshot(world: World, others: Others) -> None:
    """A run of a child began before the task stopped again. It looks for tasks that wait after its commit."""
    wait(world, "a")
    run_early(world)
    child = others()
    child.execute_simple("begin isolation level repeatable read")
    child.run("select from joblane.tasks limit 1")
    stop_again(others())
    assert claimed(world).verdict is Verdict.HELD
    end = Finish("a", TOKEN, 1, "completed", State.COMPLETED)
    assert finish(child, [end]) == {"a"}
    child.execute_simple("commit")
    assert end.look
    [turns, *more] = [*Release(["a"]).steps(lambda step: step(child))]
    assert [turn.id for turn in [*turns, *(turn for each in more for turn in each)]] == ["it"]


def parent_that_is_revived(world: World, others: Others) -> None:
    """A task that waits for its children waits no more for the tasks after which it ran, and for late members."""
    put(world, sample_one, "before", state="archived", attempts=4, dead_sent_at=In(-5))
    world.run("insert into joblane.batches (id, on_end, sealed_at) values ('b', 'it', clock_timestamp())")
    wait(world, "a", after=["before"], on_parent_dead="run", callback_of="b")
    world.run("insert into joblane.task_children (parent, child) values ('before', 'it')")
    assert change(world.database.get(), BulkAction.RETRY, ["before"], who="op")
    put(world, sample_one, "late", batch="b")
    world.run(f"select joblane.link_task_{VERSION}(t) from joblane.tasks t where id = 'late'")
    assert waits_for(world) == ["a"]


RACES: list[Race] = [
    child_ends_between_the_read_and_the_stop, stop_again_with_an_old_snapshot, child_ends_during_the_stop,
    child_ends_during_the_stop_of_a_callback, two_children_end_at_the_same_moment, child_ends_with_an_old_snapshot,
    parent_that_is_revived, keeps_its_key, frees_its_slots,
]  # fmt: skip


@pytest.mark.parametrize("race", RACES)
def test_no_end_of_a_child_is_missed(world: World, others: Others, race: Race) -> None:
    race(world, others)


def test_the_children_of_a_wait_are_looked_up_by_keys_in_large_tables(world: World) -> None:
    world.run(
        "insert into joblane.task_waits (task_id, name, children, run)"
        " select n::text, 'w', array['t1', 't2'], 1 from generate_series(1, 20000) as n"
    )
    for number in range(3):
        put(world, sample_one, f"t{number}")
    world.run("analyze joblane.task_waits")
    world.run("set plan_cache_mode = force_generic_plan")
    world.run(f"prepare planned(text, text, text) as {READ_CHILDREN}")
    plan = "\n".join(row[0] for row in world.run("explain execute planned('5', 'w', '5')"))
    assert not re.findall(r"Seq Scan on \w+", plan), plan


# --- Planted faults ------------------------------------------------------------------------------------------------

PLANTED: list[tuple[str, str, str, Race]] = [
    ("suspend", "is_held := s.children is not null;", "is_held := true;", child_ends_during_the_stop),
    ("suspend", "where c.id = any (awaited) and", "where false and", stop_again_with_an_old_snapshot),
    ("open_parents", "order by t.id for share;", ";", child_ends_during_the_stop),
    ("claim", "(t.callback_of is not null and t.runs = 0)", "t.callback_of is not null",
     child_ends_during_the_stop_of_a_callback),
    ("wait_again", " and t.runs = 0", "", parent_that_is_revived),
    ("link_task", " and c.runs = 0", "", parent_that_is_revived),
    ("suspend", "then 'key_slot' end", "then 'key_slot' else t.passed end", frees_its_slots),
    ("release_children", "coalesce(t.first_due_at, ", "(", keeps_its_key),
]  # fmt: skip
"""A function, a text there, the fault, and the race that finds it."""


@pytest.mark.parametrize(("function", "old", "new", "race"), PLANTED)
def test_each_planted_fault_is_found(
    world: World, others: Others, function: str, old: str, new: str, race: Race
) -> None:
    text = FUNCTIONS[function]
    assert old in text, "the function has changed: the fault can no longer be planted by this text"
    world.run(text.replace(old, new))
    with pytest.raises(AssertionError):
        race(world, others)


def test_a_sweep_that_takes_the_key_of_a_task_that_waits_for_children_is_found(
    world: World, others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    skips = " and wait_kind is distinct from 'parents'"
    assert skips in held.LEAVE
    monkeypatch.setattr(held, "LEAVE", held.LEAVE.replace(skips, ""))
    with pytest.raises(AssertionError):
        keeps_its_key(world, others)
