"""Limits: who gets a slot, who waits, and who is served when a slot becomes free."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast
from unittest.mock import Mock

import pytest
from sqlalchemy.orm import Session

from joblane.client.client import JobClient, client_within
from joblane.errors import DuplicateTaskError, RateLimited
from joblane.inspector.actions.changes import change, serve_freed
from joblane.inspector.errors import ActionError
from joblane.inspector.filter import BulkAction
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.names import Queue
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.flow.free_slots import Turn, serve
from joblane.record.row.states import Passed, State
from joblane.record.task.claim import Claim, Verdict, arrival, claim
from joblane.record.task.finish import Finish, finish
from joblane.sqs.message import Message
from joblane.tasks.job import Job
from joblane.tasks.task import Task
from joblane.tasks.unique import OnConflict
from tests.samples import (
    LIMITED,
    Sample,
    behaviour,
    sample_keyed,
    sample_one,
    sample_ordered,
    sample_rated,
    sample_sharing,
    sample_single,
    sample_tree,
)
from tests.world import PREFIX, World

LEASE = timedelta(seconds=60)
TASKS = {task.type: task for task in LIMITED}


def put(world: World, task: Task[Any, Any], *ids: str, number: int = 0, do: str = "nothing", **options: Any) -> None:
    """Enqueue tasks, and take their messages away."""
    for id_ in ids:
        world.lane(task)
        world.client.enqueue(task, Sample(do=do, number=number), task_id=id_, **{"tenant": "acme", **options})
    while world.take(task):
        pass


def ask(world: World, task: Task[Any, Any], *ids: str, together: bool = False, **how: Any) -> list[Verdict]:
    """Claim tasks, one after the other or ``together``, and leave them running."""
    arrivals = [arrival(task, Message(task.type, id_, **{"rec": True, **how}), id_, Queue.DEFAULT) for id_ in ids]
    claims: dict[str, Claim] = {}
    for batch in [arrivals] if together else [[one] for one in arrivals]:
        claims |= claim(world.database.get(), batch, LEASE, "request")
    return [claims[id_].verdict for id_ in ids]


def end(world: World, id_: str, state: State = State.COMPLETED, **how: Any) -> list[str]:
    """End a run, serve its limits, and return the ids of the tasks whose turn it is."""
    row = world.row(id_)
    end_of_run = Finish(id_, row["lease_token"], row["runs"], str(state), state, reason="because", **how)
    assert finish(world.database.get(), [end_of_run]) == {id_}
    return [turn.id for turn in served(world, row)]


def served(world: World, row: Mapping[str, Any]) -> list[Turn]:
    return serve(world.database.get(), [[row["key_limit"], row["total_limit"], row["shared_limit"]]])


def states(world: World, *ids: str) -> list[str]:
    return [str(world.row(id_)["state"]) for id_ in ids]


RUN, HELD, WAIT = Verdict.RUN, Verdict.HELD, Verdict.WAIT


# --- Slots ----------------------------------------------------------------------------------------------------------


def test_a_task_whose_message_came_a_moment_early_is_served(limited: World) -> None:
    put(limited, sample_single, "a", "b")
    limited.run("update joblane.tasks set due_at = clock_timestamp() + interval '1.9 s' where id = 'b'")
    assert ask(limited, sample_single, "a", "b") == [RUN, HELD]
    assert end(limited, "a") == ["b"]


def test_keys_do_not_wait_for_each_other_and_a_task_without_a_key_has_no_limit(limited: World) -> None:
    put(limited, sample_keyed, "a", number=1)
    put(limited, sample_keyed, "b", number=2)
    put(limited, sample_ordered, "c", "d", tenant=None)
    assert ask(limited, sample_keyed, "a", "b") == [RUN, RUN]
    assert ask(limited, sample_ordered, "c", "d") == [RUN, RUN]


def test_a_key_at_the_enqueue_replaces_the_declared_one(limited: World) -> None:
    put(limited, sample_keyed, "a", number=1)
    put(limited, sample_keyed, "b", number=2, key="1")
    assert ask(limited, sample_keyed, "a", "b") == [RUN, HELD]


def test_a_task_keeps_the_slot_of_its_key_while_it_waits_for_a_shared_limit(limited: World) -> None:
    put(limited, sample_sharing, "x", "y")
    put(limited, sample_tree, "a", "b", "c")
    assert ask(limited, sample_sharing, "x", "y") == [RUN, RUN]
    assert ask(limited, sample_tree, "a", "b", "c") == [HELD, HELD, HELD]
    assert [limited.row(id_)["waits_for"] for id_ in "abc"] == ["shared", "shared", "sample:tree/0"]
    # the end of a task of one type starts a task of another, and nobody overtakes
    put(limited, sample_sharing, "z")
    assert end(limited, "x") == ["a"]
    assert ask(limited, sample_sharing, "z") == [HELD]
    assert ask(limited, sample_tree, "a") == [RUN]
    # the widest limit is served first: b has waited for it longer than c, which comes up from its key
    assert end(limited, "a") == ["b"]
    assert [limited.row(id_)["waits_for"] for id_ in "cz"] == ["shared", "shared"]


def test_a_task_keeps_the_slot_of_its_key_while_it_waits_for_its_total(limited: World) -> None:
    put(limited, sample_tree, "a", "b", number=1)
    put(limited, sample_tree, "c", "d", "e", number=2)
    assert ask(limited, sample_tree, "a", "b", "c", "d") == [RUN, RUN, HELD, HELD]
    assert ask(limited, sample_tree, "e") == [HELD]
    passed = [(limited.row(id_)["passed"], limited.row(id_)["waits_for"]) for id_ in "abcde"]
    assert passed == [
        (Passed.ALL, None),
        (Passed.ALL, None),
        (Passed.TYPE_TIME, "shared"),
        (Passed.KEY_TIME, "sample:tree"),
        (None, "sample:tree/2"),
    ]


def test_a_batch_gives_each_slot_back_when_its_task_ends(limited: World) -> None:
    put(limited, sample_tree, "a", "b", do="look_at_the_others")
    put(limited, sample_tree, "c", "d")
    seen: list[list[str]] = []
    look.append(lambda: seen.append(states(limited, "a", "b", "c", "d")))
    limited.deliver(sample_tree, *({"type": sample_tree.type, "id": id_, "rec": True} for id_ in "abcd"))
    look.clear()
    assert seen == [["active", "active", "held", "held"], ["completed", "active", "pending", "held"]]
    assert states(limited, "a", "b", "c", "d") == ["completed", "completed", "pending", "pending"]
    assert {json.loads(message["Body"])["id"] for message in limited.take(sample_tree)} == {"c", "d"}


look: list[Any] = []


@behaviour
def look_at_the_others(payload: Sample, ctx: Any) -> None:
    look[0]()


def test_a_limit_that_is_no_longer_declared_lets_all_pass(limited: World) -> None:
    put(limited, sample_single, "a", "b", "c")
    assert ask(limited, sample_single, "a", "b") == [RUN, HELD]
    limited.run("delete from joblane.limits")
    assert ask(limited, sample_single, "c") == [HELD]  # behind the one that waits
    assert limited.sweep().served == 2
    assert states(limited, "b", "c") == ["pending", "pending"]


def test_many_waiting_tasks_are_served_in_several_statements(limited: World) -> None:
    limited.run("""
        insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds, total_limit,
                                   first_due_at, seq, wait_kind, waits_for, place)
        select 'many-' || n, 'sample:single', 'default', 'held', '', 1, 0, 'sample:single', now(), n, 'limit',
               'sample:single', n
          from generate_series(1, 1100) as n""")
    limited.run("update joblane.limits set slots = null where name = 'sample:single'")
    turns = serve(limited.database.get(), [[None, "sample:single", None]])
    assert len({turn.id for turn in turns}) == 1100


# --- What frees a slot ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "how"),
    [
        (State.ARCHIVED, {}),
        (State.CANCELLED, {}),
        (State.RETRY, {"delay_seconds": 40}),
        (State.PENDING, {"delay_seconds": 40, "snoozed": True, "counted": False}),
        (State.RETRY, {"delay_seconds": 4000}),
    ],
)
def test_each_end_of_a_run_frees_its_slot(limited: World, state: State, how: dict[str, Any]) -> None:
    put(limited, sample_single, "a", "b")
    assert ask(limited, sample_single, "a", "b") == [RUN, HELD]
    assert end(limited, "a", state, **how) == ["b"]
    assert limited.row("a")["passed"] is None


def test_a_resumable_task_keeps_its_slot_between_its_invocations(limited: World) -> None:
    put(limited, sample_single, "a", "b")
    assert ask(limited, sample_single, "a", "b") == [RUN, HELD]
    assert end(limited, "a", State.PENDING, continued=True, counted=False) == []
    assert ask(limited, sample_single, "b", "a") == [HELD, RUN]


def test_the_run_after_a_lost_one_takes_no_start_of_a_rate(limited: World) -> None:
    limited.run("update joblane.limits set step = interval '60 s', burst = 1 where name = 'sample:rated'")
    put(limited, sample_rated, "a")
    assert ask(limited, sample_rated, "a") == [RUN]
    before = limited.run("select next_at from joblane.rates")
    limited.expire_leases()
    assert ask(limited, sample_rated, "a") == [RUN]
    assert limited.run("select next_at from joblane.rates") == before


def act(world: World, action: BulkAction, id_: str) -> None:
    connection = world.database.get()
    serve_freed(connection, world.sqs, PREFIX, change(connection, action, [id_], who="op"))


ENDS: dict[str, Callable[[World, str], object]] = {
    "an operator cancels it": lambda world, id_: act(world, BulkAction.CANCEL, id_),
    "an operator archives it": lambda world, id_: act(world, BulkAction.ARCHIVE, id_),
    "an operator deletes it": lambda world, id_: act(world, BulkAction.DELETE, id_),
    "a client cancels it": lambda world, id_: world.client.cancel(id_),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_end_of_a_turn_starts_the_next_and_that_of_a_waiting_task_does_not(limited: World, how: str) -> None:
    put(limited, sample_single, "a", "b", "c", "d")
    assert ask(limited, sample_single, "a", "b", "c", "d") == [RUN, HELD, HELD, HELD]
    ENDS[how](limited, "b")
    assert states(limited, "c", "d") == ["held", "held"]
    assert end(limited, "a") == ["c"]
    ENDS[how](limited, "c")
    assert states(limited, "d") == ["pending"]
    assert ask(limited, sample_single, "d") == [RUN]


def test_a_deadline_that_passes_while_a_task_waits_archives_it(limited: World) -> None:
    put(limited, sample_single, "a", "b", "c")
    limited.run("update joblane.tasks set deadline = now() + interval '1 hour' where id = 'b'")
    assert ask(limited, sample_single, "a", "b", "c") == [RUN, HELD, HELD]
    assert limited.row("b")["sweep_at"] == limited.row("b")["deadline"]
    limited.run("update joblane.tasks set deadline = now(), sweep_at = now() where id = 'b'")
    assert limited.sweep().sent == 1
    limited.deliver(sample_single, limited.take(sample_single)[0]["Body"])
    assert states(limited, "b") == ["archived"]
    assert end(limited, "a") == ["c"]


def test_a_held_task_that_is_ended_by_sql_is_passed_over_and_tidied(limited: World) -> None:
    put(limited, sample_single, "a", "b", "c")
    assert ask(limited, sample_single, "a", "b", "c") == [RUN, HELD, HELD]
    limited.run("update joblane.tasks set state = 'cancelled' where id = 'b'")
    assert end(limited, "a") == ["c"]
    limited.sweep()
    assert limited.row("b")["waits_for"] is None


# --- A slot that nobody has served ----------------------------------------------------------------------------------


def free_silently(world: World) -> None:
    """End the run of ``a``, and die before its limits are served."""
    row = world.row("a")
    finish(world.database.get(), [Finish("a", row["lease_token"], 1, "completed", State.COMPLETED)])


def test_a_newcomer_starts_those_before_it_if_nobody_has(limited: World) -> None:
    put(limited, sample_single, "a", "b", "c")
    assert ask(limited, sample_single, "a", "b") == [RUN, HELD]
    free_silently(limited)
    limited.deliver(sample_single, {"type": sample_single.type, "id": "c", "rec": True})
    assert states(limited, "b", "c") == ["pending", "held"]
    assert [json.loads(message["Body"])["id"] for message in limited.take(sample_single)] == ["b"]


def test_the_sweep_starts_those_that_nobody_has_started(limited: World) -> None:
    put(limited, sample_single, "a", "b")
    put(limited, sample_keyed, "x", "y")
    assert ask(limited, sample_single, "a", "b") == [RUN, HELD]
    assert ask(limited, sample_keyed, "x", "y") == [RUN, HELD]
    assert limited.sweep().served == 0
    free_silently(limited)
    assert limited.sweep().served == 1
    assert [json.loads(message["Body"])["id"] for message in limited.take(sample_single)] == ["b"]
    assert states(limited, "y") == ["held"]


def test_waiting_tasks_that_others_have_locked_are_asked_again(limited: World) -> None:
    put(limited, sample_single, "a", "b")
    assert ask(limited, sample_single, "a", "b") == [RUN, HELD]
    limited.run("begin")
    limited.run("update joblane.tasks set tags = '{x}' where id = 'b'")
    assert end(limited, "a") == []
    limited.run("commit")
    assert [turn.id for turn in served(limited, limited.row("b"))] == ["b"]


def test_a_limit_that_another_process_has_locked_keeps_its_tasks_and_no_others(limited: World) -> None:
    put(limited, sample_tree, "a")
    put(limited, sample_tree, "b", number=1)
    limited.run("update joblane.tasks set shared_limit = null, total_limit = null where id = 'b'")
    limited.run("begin")
    limited.run("select pg_advisory_xact_lock(hashtextextended('shared', 7))")
    assert ask(limited, sample_tree, "a", "b", together=True) == [Verdict.LOCKED, Verdict.LOCKED]
    limited.run("rollback")
    assert ask(limited, sample_tree, "a", "b", together=True) == [RUN, RUN]


# --- Pauses, redrives and replacements ------------------------------------------------------------------------------


def test_a_paused_type_leaves_its_slots_to_others_and_keeps_its_place(limited: World) -> None:
    put(limited, sample_sharing, "a", "b", "c")
    put(limited, sample_tree, "d")
    assert ask(limited, sample_sharing, "a", "b", "c") == [RUN, RUN, HELD]
    assert ask(limited, sample_tree, "d") == [HELD]
    limited.run("insert into joblane.pauses (scope, name) values ('type', $1)", sample_sharing.type)
    assert end(limited, "a") == ["d"]
    assert states(limited, "c") == ["pending"]
    assert ask(limited, sample_sharing, "c") == [Verdict.PAUSED]
    limited.run("delete from joblane.pauses")
    assert ask(limited, sample_sharing, "c") == [HELD]


def test_a_redriven_task_asks_for_a_slot_and_is_the_last_in_its_order(limited: World) -> None:
    put(limited, sample_ordered, "a", "b")
    assert ask(limited, sample_ordered, "a", "b") == [RUN, HELD]
    assert end(limited, "a", State.ARCHIVED) == ["b"]
    limited.run("update joblane.tasks set dead_sent_at = now(), dead_letter_unsent = false where id = 'a'")
    redriven = arrival(
        sample_ordered, Message(sample_ordered.type, "a", rec=True), "a", Queue.DEFAULT, dead_generation=0
    )
    assert claim(limited.database.get(), [redriven], LEASE, "request")["a"].verdict is WAIT
    assert limited.row("a")["seq"] > limited.row("b")["seq"]
    assert ask(limited, sample_ordered, "a", "b") == [HELD, RUN]


@pytest.mark.parametrize(
    ("options", "after", "place_stays"),
    [({}, "held", True), ({"process_in": timedelta(hours=1)}, "scheduled", False), ({"key": "7"}, "pending", False)],
)
def test_a_replaced_task_keeps_its_place_if_it_is_due_and_has_the_same_limits(
    limited: World, options: dict[str, Any], after: str, place_stays: bool
) -> None:
    put(limited, sample_keyed, "a")
    put(limited, sample_keyed, "b", **UNIQUE)
    assert ask(limited, sample_keyed, "a", "b") == [RUN, HELD]
    before = limited.row("b")
    limited.client.enqueue(sample_keyed, Sample(do="other"), tenant="acme", **UNIQUE, **options)
    row = limited.row("b")
    assert (row["state"], row["payload"]["do"]) == (after, "other")
    assert ((row["place"], row["seq"]) == (before["place"], before["seq"])) is place_stays
    assert row["key_limit"] == f"sample:keyed/{options.get('key', 0)}"


UNIQUE: dict[str, Any] = {"unique_for": timedelta(hours=1), "unique_key": "it", "on_conflict": OnConflict.REPLACE}


def give_a_turn(world: World) -> None:
    """Give ``b`` its turn, which ``c`` waits for. A conflict replaces ``b``."""
    put(world, sample_single, "a")
    put(world, sample_single, "b", **UNIQUE)
    put(world, sample_single, "c")
    assert ask(world, sample_single, "a", "b", "c") == [RUN, HELD, HELD]
    assert end(world, "a") == ["b"]


@behaviour
def replaces(payload: Sample, ctx: Any) -> None:
    ctx.enqueue(sample_single, Sample(), process_in=timedelta(hours=1), **UNIQUE)


def replace_by_handler(world: World) -> None:
    world.deliver(sample_one, {"type": sample_one.type, "id": "handler", "payload": {"do": "replaces"}})
    assert states(world, "handler") == ["completed"]


def replace_by_operator(world: World) -> None:
    Inspector(Scope(world.database, world.sqs, PREFIX, TASKS, "op")).enqueue(
        sample_single.type,
        {"do": "nothing"},
        options={"unique_for": 3600, "unique_key": "it", "on_conflict": "replace", "process_in": 3600},
    )


def replace_in(seconds: float) -> Callable[[World], object]:
    return lambda world: world.client.enqueue(sample_single, Sample(), process_in=timedelta(seconds=seconds), **UNIQUE)


def replace_without_a_setting(world: World) -> None:
    """The client of a session finds no other connection: it leaves the next to the sweep."""
    with pytest.MonkeyPatch.context() as patch, Session(world.database.engine) as session:
        patch.delenv("DATABASE_URL")
        JobClient().enqueue(sample_single, Sample(), session=session, process_in=timedelta(hours=1), **UNIQUE)
        session.commit()
    assert world.sweep().served == 1


@pytest.mark.parametrize(
    "replace",
    [replace_in(5), replace_in(3600), replace_by_handler, replace_by_operator, replace_without_a_setting],
    ids=["by five seconds", "by an hour", "by a handler", "by an operator", "without a setting"],
)
def test_a_replacement_that_gives_a_turn_back_starts_the_next(
    limited: World, replace: Callable[[World], object]
) -> None:
    give_a_turn(limited)
    replace(limited)
    assert states(limited, "b", "c") == ["scheduled", "pending"]


@pytest.mark.parametrize("options", [{"process_in": timedelta(seconds=5)}, {"process_in": timedelta(hours=1)}])
def test_a_replacement_in_a_session_starts_the_next_after_its_commit(
    limited: World, session: Session, options: dict[str, Any]
) -> None:
    give_a_turn(limited)
    limited.client.enqueue(sample_single, Sample(), session=session, **UNIQUE, **options)
    session.rollback()
    assert states(limited, "b", "c") == ["pending", "held"]
    limited.client.enqueue(sample_single, Sample(), session=session, **UNIQUE, **options)
    assert states(limited, "b", "c") == ["pending", "held"]
    session.commit()
    assert states(limited, "b", "c") == ["scheduled", "pending"]
    assert "c" in [json.loads(message["Body"])["id"] for message in limited.take(sample_single)]


def test_a_replaced_task_keeps_the_time_that_its_rate_gave_it(limited: World) -> None:
    limited.run("update joblane.limits set step = interval '60 s', burst = 1 where name = 'sample:rated'")
    put(limited, sample_rated, "a")
    put(limited, sample_rated, "b", **UNIQUE)
    assert ask(limited, sample_rated, "a", "b") == [RUN, WAIT]
    before = limited.row("b")
    limited.client.enqueue(sample_rated, Sample(do="other"), tenant="acme", **UNIQUE)
    kept = {name: before[name] for name in ("state", "due_at", "sweep_at", "passed", "first_due_at", "seq")}
    assert limited.row("b")["payload"]["do"] == "other"
    assert limited.row("b") | kept == limited.row("b")
    assert ask(limited, sample_rated, "b") == [WAIT]
    limited.client.enqueue(sample_rated, Sample(), tenant="acme", process_in=timedelta(seconds=1), **UNIQUE)
    assert (limited.row("b")["state"], limited.row("b")["passed"]) == ("scheduled", None)


def test_a_scheduled_task_that_is_replaced_by_one_due_now_has_its_place_from_now_on(limited: World) -> None:
    put(limited, sample_ordered, "a", process_in=timedelta(hours=20), **UNIQUE)
    limited.client.enqueue(sample_ordered, Sample(), tenant="acme", **UNIQUE)
    put(limited, sample_ordered, "b")
    assert states(limited, "a", "b") == ["pending", "pending"]
    assert ask(limited, sample_ordered, "b", "a") == [HELD, RUN]


def test_a_held_task_between_two_invocations_is_not_replaced(limited: World) -> None:
    put(limited, sample_single, "a", **UNIQUE)
    put(limited, sample_single, "b", tenant="other")
    assert ask(limited, sample_single, "a", "b") == [RUN, HELD]
    assert end(limited, "a", State.PENDING, continued=True, counted=False, duration_ms=1000) == []
    limited.run("insert into joblane.pauses (scope, name) values ('tenant', 'acme')")
    assert ask(limited, sample_single, "a") == [Verdict.PAUSED]
    assert [turn.id for turn in served(limited, limited.row("a"))] == ["b"]
    limited.run("delete from joblane.pauses")
    assert ask(limited, sample_single, "a") == [HELD]
    with pytest.raises(DuplicateTaskError, match="a running task cannot be replaced"):
        limited.client.enqueue(sample_single, Sample(do="other"), tenant="acme", **UNIQUE)
    assert (limited.row("a")["payload"]["do"], limited.row("a")["used_ms"]) == ("nothing", 1000)
    operator = Inspector(Scope(limited.database, limited.sqs, PREFIX, TASKS, "op"))
    with pytest.raises(ActionError, match="an attempt continues in the next invocation"):
        operator.edit("a", {"do": "other"}, reason="because")


# --- Order ----------------------------------------------------------------------------------------------------------


def test_a_task_that_waits_for_a_retry_keeps_its_place_in_the_order(limited: World) -> None:
    put(limited, sample_ordered, "a", "b")
    assert ask(limited, sample_ordered, "a", "b") == [RUN, HELD]
    assert end(limited, "a", State.RETRY, delay_seconds=40) == []
    assert limited.row("a")["passed"] == Passed.KEY_SLOT
    assert ask(limited, sample_ordered, "b") == [HELD]
    limited.later("a")
    assert ask(limited, sample_ordered, "a", "b") == [RUN, HELD]
    assert end(limited, "a") == ["b"]


def test_a_task_runs_only_if_none_before_it_is_due(limited: World) -> None:
    put(limited, sample_ordered, "a", "b")
    assert ask(limited, sample_ordered, "b", "a") == [HELD, RUN]
    assert end(limited, "a") == ["b"]
    put(limited, sample_ordered, "c", "d", number=1)
    assert ask(limited, sample_ordered, "d") == [HELD]
    assert limited.sweep().served == 0
    assert limited.client.cancel("c") == State.CANCELLED
    assert states(limited, "d") == ["pending"]


# --- Rates ----------------------------------------------------------------------------------------------------------


def test_a_rate_gives_each_task_its_time(limited: World) -> None:
    ids = [f"r{number}" for number in range(8)]
    put(limited, sample_rated, *ids)
    limited.run("update joblane.limits set step = interval '400 s' where name = 'sample:rated'")
    assert ask(limited, sample_rated, *ids) == [RUN] * 2 + [WAIT] * 6
    due = limited.run(
        "select round(extract(epoch from due_at - now()) / 400), sweep_at < due_at from joblane.tasks"
        " where state = 'pending' order by id"
    )
    assert due == [[number, number > 2] for number in range(1, 7)]  # after 900 s the row waits alone
    # a copy that comes early waits, and nothing is paid twice
    assert ask(limited, sample_rated, "r2") == [WAIT]
    limited.later("r2")
    assert ask(limited, sample_rated, "r2") == [RUN]
    # another attempt pays again
    assert end(limited, "r2", State.RETRY) == []
    assert ask(limited, sample_rated, "r2") == [WAIT]
    assert limited.run("select round(extract(epoch from due_at - now()) / 400) from joblane.tasks where id = 'r2'") == [
        [7]
    ]


def test_ticks_pay_for_the_rate(limited: World) -> None:
    limited.run("update joblane.limits set step = interval '400 s', burst = 1 where name = 'sample:rated'")
    put(limited, sample_rated, "a")
    tick: dict[str, Any] = {"rec": False, "tick": {"schedule": "hourly"}, "payload": {}}
    assert ask(limited, sample_rated, "tick-1", **tick) == [RUN]
    assert end(limited, "tick-1") == []
    assert ask(limited, sample_rated, "a") == [WAIT]
    assert ask(limited, sample_rated, "tick-2", **tick) == [WAIT]
    assert [round(seconds, -2) for seconds in seconds_until_due(limited, "a", "tick-2")] == [400, 800]


def test_each_of_500_keys_has_a_rate_of_its_own(limited: World) -> None:
    limited.run("update joblane.limits set slots = null, step = interval '400 s', burst = 1"
                " where name = 'sample:keyed/'")  # fmt: skip
    limited.lane(sample_keyed)
    ids = [f"{name}{number:03}" for name in "ab" for number in range(500)]
    limited.client.enqueue_many([Job(sample_keyed, Sample(number=int(id_[1:])), task_id=id_) for id_ in ids])
    verdicts = [
        verdict
        for at in range(0, 1000, 10)
        for verdict in ask(limited, sample_keyed, *ids[at : at + 10], together=True)
    ]
    assert verdicts == [RUN] * 500 + [WAIT] * 500
    assert {round(seconds, -2) for seconds in seconds_until_due(limited, *ids[500:])} == {400}


def test_a_task_that_waits_for_its_time_keeps_its_slot(limited: World) -> None:
    limited.run("update joblane.limits set step = interval '400 s', burst = 1 where name = 'sample:single'")
    put(limited, sample_single, "a", "b", "c")
    assert ask(limited, sample_single, "a", "b", "c") == [RUN, HELD, HELD]
    assert end(limited, "a") == ["b"]
    assert limited.run("select due_at > now() + interval '300 s' from joblane.tasks where id = 'b'") == [[True]]
    assert ask(limited, sample_single, "b", "c") == [WAIT, HELD]


@behaviour
def refused_by_the_service(payload: Sample, ctx: Any) -> None:
    raise RateLimited(timedelta(seconds=100), "429")


def seconds_until_due(world: World, *ids: str) -> list[int]:
    rows = world.run("select id, round(extract(epoch from due_at - now()))::int from joblane.tasks")
    return [dict(rows)[id_] for id_ in ids]


def test_a_refusal_by_another_service_delays_all_tasks_that_share_the_limit(limited: World) -> None:
    put(limited, sample_sharing, "a", do="refused_by_the_service")
    put(limited, sample_sharing, "b")
    put(limited, sample_tree, "c")
    recorded = limited.watch()
    limited.deliver(sample_sharing, {"type": sample_sharing.type, "id": "a", "rec": True})
    # it has spent no attempt, and a new message takes the place of its own
    row = limited.row("a")
    assert (row["state"], row["attempts"], row["passed"], limited.outcomes("a")) == (
        "pending",
        0,
        None,
        ["rate_limited"],
    )
    assert [(entry.delay_seconds, json.loads(entry.body)["id"]) for entry in recorded.sent] == [(100, "a")]
    # the others get their slots, and the time at which the service accepts calls again
    assert ask(limited, sample_sharing, "b") == [WAIT]
    assert ask(limited, sample_tree, "c") == [WAIT]
    assert all(95 <= seconds <= 100 for seconds in seconds_until_due(limited, "a", "b", "c"))


def test_a_refusal_moves_the_times_that_a_rate_has_given(limited: World) -> None:
    limited.run("update joblane.limits set step = interval '10 s', burst = 1 where name = 'sample:rated'")
    put(limited, sample_rated, "a", do="refused_by_the_service")
    put(limited, sample_rated, "b", "c", "d", "e")
    assert ask(limited, sample_rated, "e", "b", "c", "d") == [RUN, WAIT, WAIT, WAIT]
    limited.run("update joblane.rates set next_at = now()")
    limited.deliver(sample_rated, {"type": sample_rated.type, "id": "a", "rec": True})
    assert [round(seconds, -1) for seconds in seconds_until_due(limited, "a", "b", "c", "d")] == [100, 100, 110, 120]


def test_a_task_without_a_limit_waits_alone_for_a_service(world: World) -> None:
    put(world, sample_one, "a", do="refused_by_the_service")
    put(world, sample_one, "b")
    assert world.deliver(sample_one, {"type": sample_one.type, "id": "a", "rec": True}) == []
    assert ask(world, sample_one, "b") == [RUN]


# --- External messages ----------------------------------------------------------------------------------------------


def test_an_external_message_waits_with_a_row_of_its_own(limited: World) -> None:
    put(limited, sample_keyed, "a")
    assert ask(limited, sample_keyed, "a") == [RUN]
    assert ask(limited, sample_keyed, "b", rec=False, payload={"do": "nothing"}) == [HELD]
    assert limited.row("b")["waits_for"] == "sample:keyed/0"
    assert end(limited, "a") == ["b"]
    assert ask(limited, sample_keyed, "b", rec=False, payload={"do": "nothing"}) == [RUN]


def test_a_message_whose_key_cannot_be_used_becomes_a_dead_letter(limited: World) -> None:
    limited.deliver(sample_keyed, {"type": sample_keyed.type, "id": "x", "payload": {"number": [1]}})
    [dead_letter] = limited.dead_letters(sample_keyed)
    reason = dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"]
    assert reason == "MessageError: key: number: a string, an integer or a boolean is required, not list"


def test_a_database_of_another_isolation_level_is_refused_with_advice(limited: World) -> None:
    put(limited, sample_single, "a")
    limited.database.get().execute_simple("set default_transaction_isolation = 'repeatable read'")
    with pytest.raises(Exception, match="the isolation level read committed is required"):
        ask(limited, sample_single, "a")
    limited.database.drop()


def test_a_lone_tenant_gets_all_slots_of_a_total(limited: World) -> None:
    """Tenants take turns only while tasks of several of them wait."""
    limited.run("update joblane.limits set slots = case name when 'sample:tree/' then 1 when 'sample:tree' then 5 end")
    for number, id_ in enumerate("abcdefg"):
        put(limited, sample_tree, id_, number=number)
    assert ask(limited, sample_tree, *"abcdefg") == [RUN] * 5 + [HELD] * 2
    assert [end(limited, id_) for id_ in "ab"] == [["f"], ["g"]]


# --- Slots that one call cannot give ---------------------------------------------------------------------------------


@contextmanager
def locked_until_asked_again(world: World, monkeypatch: pytest.MonkeyPatch, id_: str) -> Iterator[list[float]]:
    """Lock the row of a task until the limit is asked again. Yield the pauses before that."""
    pauses: list[float] = []
    with world.locked(id_) as other:

        def release(seconds: float) -> None:
            pauses.append(seconds)
            if not other.get().idle:
                other.get().commit()

        monkeypatch.setattr("joblane.record.flow.free_slots.time.sleep", release)
        yield pauses


@pytest.mark.parametrize(("task", "waiting"), [(sample_keyed, "b"), (sample_ordered, "bc")])
def test_a_limit_whose_next_task_is_locked_is_asked_again(
    limited: World, monkeypatch: pytest.MonkeyPatch, task: Task[Any, Any], waiting: str
) -> None:
    put(limited, task, "a", *waiting)
    assert ask(limited, task, "a", *waiting) == [RUN] + [HELD] * len(waiting)
    with locked_until_asked_again(limited, monkeypatch, "b") as pauses:
        assert end(limited, "a") == ["b"]
    assert len(pauses) == 1


def test_more_paused_tasks_than_one_call_moves_do_not_hide_the_next_one(limited: World) -> None:
    client = client_within(limited.database, Mock(send_many=lambda *_, **__: {}, covered={}, now=time.time), PREFIX)
    client.enqueue_many([Job(sample_keyed, Sample(), task_id=f"p{number:03}", tenant="x") for number in range(450)])
    put(limited, sample_keyed, "a", "z")
    assert ask(limited, sample_keyed, "a", "z") == [RUN, HELD]
    limited.run("update joblane.tasks set state = 'held', wait_kind = 'limit', waits_for = key_limit, place = -1,"
                " sweep_at = null where tenant = 'x'")  # fmt: skip
    limited.run("insert into joblane.pauses (scope, name) values ('tenant', 'x')")
    assert end(limited, "a") == ["z"]
    assert limited.run("select count(*) from joblane.tasks where tenant = 'x' and state = 'pending'") == [[450]]


def test_a_task_that_moves_to_its_total_is_served_if_a_slot_is_freed_meanwhile(limited: World) -> None:
    put(limited, sample_tree, "a", "b", number=1)
    put(limited, sample_tree, "c", number=2)
    limited.run("update joblane.limits set slots = 1 where name = 'sample:tree/'")
    assert ask(limited, sample_tree, "a", "c", "b") == [RUN, RUN, HELD]
    limited.run("update joblane.limits set slots = 1 where name = 'sample:tree'")

    class Slow:
        """Commits the first statement only after another task has ended, whose worker finds nobody waiting."""

        def run(self, statement: str, *parameters: Any) -> Any:
            connection = other.get()
            if row["finished_at"] is not None:
                return connection.run(statement, *parameters)
            connection.execute_simple("begin")
            rows = connection.run(statement, *parameters)
            assert end(limited, "c") == []
            row["finished_at"] = "now"
            connection.commit()
            return rows

    row = limited.row("a")
    ended = Finish("a", row["lease_token"], row["runs"], "completed", State.COMPLETED)
    assert finish(limited.database.get(), [ended]) == {"a"}
    with Database(limited.url) as other:
        turns = serve(cast(Connection, Slow()), [[row["key_limit"], row["total_limit"], row["shared_limit"]]])
    assert [turn.id for turn in turns] == ["b"]
