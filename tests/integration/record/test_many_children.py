"""Tasks with more children than one statement releases: two, in these tests."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError

from joblane.inspector.filter import BulkAction
from joblane.names import SWEEP, Queue, lane_name
from joblane.record.flow import release as release_module
from joblane.record.flow.release import Release
from joblane.record.row.conditions import MOST_RELEASED, MOST_WAIT_AGAIN
from joblane.record.row.states import State
from joblane.record.sql_functions import FUNCTIONS
from joblane.record.task.claim import Verdict
from joblane.record.task.finish import Finish, finish
from joblane.sweep import parents as parents_module
from joblane.sweep.duties import Duties
from joblane.sweep.next_sweep import NextSweep
from joblane.sweep.parents import Parents
from joblane.sweep.sends import Sends
from joblane.sweep.sweep import sweep
from joblane.tasks.job import Job
from tests.integration.record.test_parents import (
    HELD,
    RUN,
    act,
    ask,
    deliver,
    finish_open,
    put,
    release,
    second,
    states,
)
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, sample_one
from tests.world import PREFIX, World

CHILDREN = [f"c{n}" for n in range(5)]
CALLBACK = Job(sample_one, Sample(do="nothing", number=0))
LANE = lane_name(PREFIX, Queue.LOW, SWEEP)


@pytest.fixture(autouse=True)
def few(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.make(LANE)
    monkeypatch.setattr(release_module, "MOST_RELEASED", 2)
    install(world, FUNCTIONS)


def install(world: World, functions: dict[str, str]) -> None:
    for name in ("finish", "let_go", "release_children", "open_parents"):
        text = re.sub(f"(limit|offset) {MOST_RELEASED}", r"\1 2", functions[name])
        world.run(text.replace("lock_timeout = '5s'", "lock_timeout = '200ms'"))


def family(world: World, **options: Any) -> None:
    """A parent that runs, and its children, held."""
    put(world, "a", max_retry=0)
    put(world, *CHILDREN, after=["a"], **options)
    assert [ask(world, child) for child in CHILDREN] == [HELD] * 5
    assert ask(world, "a") is RUN


def ended(world: World, state: State = State.COMPLETED) -> Finish:
    """Record the end of the parent's run. The worker is killed after that."""
    row = world.row("a")
    end = Finish("a", row["lease_token"], row["runs"], str(state), state, reason="because")
    assert finish(world.database.get(), [end]) == {"a"}
    return end


def rows_left(world: World) -> int:
    return int(world.run("select count(*) from joblane.task_parents")[0][0])


# --- The finish ------------------------------------------------------------------------------------------------------


def test_a_finish_lets_the_first_children_go_and_leaves_the_others_to_the_release(world: World) -> None:
    family(world)
    end = ended(world)
    assert (len(end.released), end.look, rows_left(world)) == (2, True, 3)
    turns = release(world.database.get(), ["a"], end.released)
    assert sorted(turn.id for turn in turns) == CHILDREN
    assert rows_left(world) == 0


def test_a_finish_of_several_tasks_has_one_bound_for_all(world: World) -> None:
    put(world, "a", "b")
    put(world, "of-a", after=["a"])
    put(world, "of-b", "also-of-b", after=["b"])
    for id_ in ("a", "b"):
        assert ask(world, id_) is RUN
    rows = {id_: world.row(id_) for id_ in ("a", "b")}
    ends = [Finish(id_, row["lease_token"], row["runs"], "completed", State.COMPLETED) for id_, row in rows.items()]
    assert finish(world.database.get(), ends) == {"a", "b"}
    assert [len(end.released) for end in ends] in ([1, 1], [0, 2])
    assert sum(end.look for end in ends) == 1


@pytest.mark.parametrize("state", [State.COMPLETED, State.CANCELLED])
def test_the_sweep_finds_the_rest_if_the_worker_dies_after_the_finish(world: World, state: State) -> None:
    family(world)
    ended(world, state)
    world.sweep()
    assert states(world, *CHILDREN) == ["pending" if state is State.COMPLETED else "cancelled"] * 5
    assert rows_left(world) == 0


def test_a_child_that_is_inserted_while_the_finish_runs_does_not_wait(world: World) -> None:
    family(world)
    with second(world) as handler:
        end = finish_open(handler, world, "a")
        put(world, "late", after=["a"])
        handler.get().commit()
    assert ask(world, "late") is RUN
    assert sorted(turn.id for turn in release(world.database.get(), ["a"], end.released)) == CHILDREN
    assert rows_left(world) == 0


def test_two_releases_at_once_release_each_child_once(world: World) -> None:
    family(world)
    end = ended(world)
    with second(world) as one, second(world) as other:
        first, connection = Release(["a"], end.released), one.get()
        connection.execute_simple("begin")
        turns = next(first.steps(lambda step: step(connection)))  # has deleted rows, and not committed
        turns += release(other.get(), ["a"], end.released)
        connection.commit()
        for more in first.steps(lambda step: step(connection)):
            turns += more
    assert first.is_done
    assert sorted(turn.id for turn in turns) == CHILDREN


def test_a_cancel_of_a_parent_that_has_completed_changes_nothing(world: World) -> None:
    family(world)
    ended(world)
    assert world.client.cancel("a") is None
    act(world, BulkAction.DELETE, "a")
    world.sweep()
    assert states(world, *CHILDREN) == ["pending"] * 5


@pytest.mark.parametrize(
    ("state", "is_held", "fate"),
    [(State.COMPLETED, True, RUN), (State.COMPLETED, False, RUN), (State.ARCHIVED, True, HELD)],
    ids=["held, completed", "first claimed after the end", "held, dead"],
)
def test_a_claim_knows_the_end_of_the_parent_whose_row_is_left(
    world: World, state: State, is_held: bool, fate: Verdict
) -> None:
    put(world, "a")
    put(world, *CHILDREN, after=["a"])
    if is_held:
        assert [ask(world, child) for child in CHILDREN] == [HELD] * 5
    assert ask(world, "a") is RUN
    ended(world, state)
    assert [ask(world, child) for child in CHILDREN] == [fate] * 5
    world.sweep()
    assert {world.row(child)["runs"] for child in CHILDREN} == {int(fate is RUN)}


def test_a_callback_waits_for_the_members_beyond_the_rows_that_are_read(world: World) -> None:
    with world.client.batch("b", on_end=CALLBACK) as batch:
        for member in ("m1", "m2", "m3"):
            batch.enqueue(sample_one, Sample(do="nothing", number=0), task_id=member)
    world.run("update joblane.tasks set state = 'completed' where id in ('m1', 'm2')")
    assert ask(world, "b:on_end") is HELD


# --- The release -----------------------------------------------------------------------------------------------------


def test_the_children_of_a_dead_parent_are_cancelled_in_parts(world: World) -> None:
    family(world, on_parent_dead="cancel")
    put(world, "grandchild", after=["c4"])
    assert run_ended(world, State.ARCHIVED) == []
    assert states(world, *CHILDREN, "grandchild") == ["cancelled"] * 6
    assert rows_left(world) == 0


def run_ended(world: World, state: State) -> list[str]:
    end = ended(world, state)
    assert end.look
    return [turn.id for turn in release(world.database.get(), ["a"], end.released)]


def test_the_rows_of_children_that_do_not_wait_any_more_stop_no_release(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_module, "PAUSES_SECONDS", ())
    family(world)
    put(world, "last", after=["a"])
    for child in CHILDREN:
        act(world, BulkAction.CANCEL, child)
    assert run_ended(world, State.CANCELLED) == []
    assert states(world, "last") == ["cancelled"]
    assert rows_left(world) == 0


def test_a_release_reads_no_row_that_a_dead_parent_keeps(world: World) -> None:
    family(world)
    ended(world, State.ARCHIVED)
    following = Release(["a"])
    assert list(following.steps(lambda step: step(world.database.get()))) == [[]]
    assert following.is_done
    assert rows_left(world) == 5


def test_a_cancelled_callback_leaves_the_rows_of_its_members_to_the_sweep(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parents_module, "PAGE", 2)
    monkeypatch.setattr(parents_module, "ENDED", parents_module.ENDED.replace("limit 5000", "limit 2"))
    with world.client.batch("b", on_success=CALLBACK) as batch:
        for member in CHILDREN:
            batch.enqueue(sample_one, Sample(do="nothing", number=0), task_id=member)
    assert world.client.cancel("c0") is State.CANCELLED
    assert states(world, "b:on_success") == ["cancelled"]
    assert rows_left(world) == 3
    sends = Sends(world.database.get(), world.sqs)
    steps = Parents(PREFIX, sends, Duties(sends.connection, sends.following)).steps()
    next(steps)
    assert rows_left(world) == 1, "of a page"
    world.sweep()
    assert rows_left(world) == 0


def test_of_many_children_the_first_wait_again_for_a_parent_that_is_retried(world: World) -> None:
    world.run(FUNCTIONS["wait_again"].replace(f"limit {MOST_WAIT_AGAIN}", "limit 2"))
    put(world, "b")
    put(world, "a", max_retry=0)
    put(world, *CHILDREN, after=["a", "b"], on_parent_dead="run")
    assert ask(world, "a") is RUN
    assert run_ended(world, State.ARCHIVED) == []
    act(world, BulkAction.RETRY, "a")
    assert world.run("select child from joblane.task_parents where parent = 'a'") == [["c0"], ["c1"]]


# --- Limited time ----------------------------------------------------------------------------------------------------


CALLERS: dict[str, Callable[[World], object]] = {
    "a client": lambda world: world.client.cancel("a"),
    "an operator": lambda world: act(world, BulkAction.CANCEL, "a"),
    "a worker": lambda world: deliver(world, "a"),
}


@pytest.mark.parametrize("who", CALLERS)
def test_the_end_of_a_parent_wakes_the_sweep_for_children_that_take_too_long(
    world: World, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    put(world, "a", max_retry=0)
    put(world, *CHILDREN, after=["a"], on_parent_dead="cancel")
    world.run("update joblane.tasks set payload = '{\"do\": \"dies_at_once\"}' where id = 'a'")
    monkeypatch.setattr(release_module, "RELEASE_SECONDS", 0)
    woken = world.depth(LANE)
    CALLERS[who](world)
    assert states(world, *CHILDREN) == ["held"] * 5
    assert world.depth(LANE) > woken
    world.sweep()
    assert states(world, *CHILDREN) == ["cancelled"] * 5


def test_other_threads_of_a_client_enqueue_while_it_follows_a_chain(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(world, "c0")
    for child, parent in zip(CHILDREN[1:], CHILDREN, strict=False):
        put(world, child, after=[parent])
    enqueued: list[str] = []

    def enqueue(_: float) -> None:
        """Enqueue between two turns of the cancel."""
        thread = threading.Thread(target=lambda: enqueued.append(world.client.enqueue(sample_one, Sample()).id))
        thread.start()
        thread.join(timeout=PATIENCE_SECONDS)

    monkeypatch.setattr(time, "sleep", enqueue)
    assert world.client.cancel("c0") is State.CANCELLED
    assert states(world, *CHILDREN) == ["cancelled"] * 5
    assert len(enqueued) == 3  # of four turns


def test_a_sweep_that_stops_within_a_family_is_followed_by_another(world: World) -> None:
    family(world)
    ended(world, State.CANCELLED)
    following = NextSweep()

    def may_continue() -> bool:
        return "cancelled" not in states(world, *CHILDREN)

    sweep(world.database.get(), world.sqs, PREFIX, following=following, may_continue=may_continue)
    assert following.is_late
    assert "held" in states(world, *CHILDREN)
    world.sweep()
    assert states(world, *CHILDREN) == ["cancelled"] * 5


# --- Planted faults --------------------------------------------------------------------------------------------------

PLANTED = [
    ("let_go", "limit 1000", "", "lets_the_first_children_go", ()),
    ("let_go", "as e\n       limit 1000", "as e", "one_bound_for_all", ()),
    ("let_go", "where e.parent = x.id and e.on_parent_dead", "where false and e.on_parent_dead",
     "lets_the_first_children_go", ()),
    ("let_go", "where x.state in", "where x.state <> 'completed' and x.state in",
     "lets_the_first_children_go", ()),
    ("open_parents", "where not coalesce((", "where true or coalesce((", "end_of_the_parent_whose_row_is_left",
     (State.COMPLETED, True, RUN)),
    ("open_parents", "offset 1000", "offset 9000", "beyond_the_rows_that_are_read", ()),
    ("release_children", "exists (select from needless)", "false", "do_not_wait_any_more_stop_no_release",
     (pytest.MonkeyPatch,)),
    ("release_children", "where f.lets_go or f.cancels)", "where true)", "reads_no_row_that_a_dead_parent_keeps", ()),
    ("release_children", "limit 1000 for update skip locked) as e", "limit 1000 for update) as e", "two_releases", ()),
    ("release_children", "where e.child = any (array(select c.id from children_to_cancel c))\n         limit 1000",
     "where e.child = any (array(select c.id from children_to_cancel c))", "a_cancelled_callback_leaves",
     (pytest.MonkeyPatch,)),
]  # fmt: skip
"""A function, a text there and the fault, a part of the name of the test that finds it, and the test's parameters."""


@pytest.mark.parametrize(("function", "old", "new", "name", "given"), PLANTED)
def test_each_planted_fault_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch, function: str, old: str, new: str, name: str, given: Sequence[Any]
) -> None:
    text_of_function = FUNCTIONS[function]
    assert old in text_of_function, "the function has changed: the fault can no longer be planted by this text"
    [test] = [test for found, test in globals().items() if name in found]
    install(world, FUNCTIONS | {function: text_of_function.replace(old, new)})
    with pytest.raises((AssertionError, DatabaseError)):
        test(world, *(monkeypatch if one is pytest.MonkeyPatch else one for one in given))
