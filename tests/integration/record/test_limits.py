"""Limits: who gets a slot, who waits, and who is served when a slot becomes free."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
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
from joblane.record.flow.free_slots import serve
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
from tests.stories import (
    Story,
    cancel,
    deliver,
    enqueue,
    expire_leases,
    later,
    play,
    row,
    sent,
    sql,
    step,
    stories,
    sweep,
)
from tests.world import PREFIX, World

LEASE = timedelta(seconds=60)
TASKS = {task.type: task for task in LIMITED}


@step
def put(world: World, /, task: Task[Any, Any], *ids: str, number: int = 0, do: str = "nothing", **options: Any) -> None:
    """Enqueue tasks, and take their messages away."""
    for id_ in ids:
        world.lane(task)
        world.client.enqueue(task, Sample(do=do, number=number), task_id=id_, **{"tenant": "acme", **options})
    while world.take(task):
        pass


@step
def ask(
    world: World,
    /,
    task: Task[Any, Any],
    *ids: str,
    together: bool = False,
    dead_generation: int | None = None,
    **how: Any,
) -> list[Verdict]:
    """Claim tasks, one after the other or ``together``, and leave them running."""
    arrivals = [
        arrival(
            task,
            Message(task.type, id_, **{"rec": True, **how}),
            id_,
            Queue.DEFAULT,
            dead_generation=dead_generation,
        )
        for id_ in ids
    ]
    claims: dict[str, Claim] = {}
    for batch in [arrivals] if together else [[one] for one in arrivals]:
        claims |= claim(world.database.get(), batch, LEASE, "request")
    return [claims[id_].verdict for id_ in ids]


@step
def end(world: World, /, id_: str, state: State = State.COMPLETED, **how: Any) -> list[str]:
    """End a run, serve its limits, and return the ids of the tasks whose turn it is."""
    row = world.row(id_)
    end_of_run = Finish(id_, row["lease_token"], row["runs"], str(state), state, reason="because", **how)
    assert finish(world.database.get(), [end_of_run]) == {id_}
    return served(id_)(world)


@step
def served(world: World, id_: str) -> list[str]:
    """Serve the limits of a task, and return the ids of the tasks whose turn it is."""
    row = world.row(id_)
    turns = serve(world.database.get(), [[row["key_limit"], row["total_limit"], row["shared_limit"]]])
    return [turn.id for turn in turns]


@step
def due_in(world: World, *ids: str, digits: int = -2) -> list[int]:
    """Return the rounded seconds until tasks are due."""
    rows = dict(world.run("select id, extract(epoch from due_at - now())::float8 from joblane.tasks"))
    return [round(rows[id_], digits) for id_ in ids]


@step
def edit(world: World, id_: str, payload: dict[str, Any]) -> None:
    """Do what an operator does."""
    Inspector(Scope(world.database, world.sqs, PREFIX, TASKS, "op")).edit(id_, payload, reason="because")


@step
def states(world: World, *ids: str) -> list[str]:
    return [str(world.row(id_)["state"]) for id_ in ids]


RUN, HELD, WAIT = Verdict.RUN, Verdict.HELD, Verdict.WAIT
TICK: dict[str, Any] = {"rec": False, "tick": {"schedule": "hourly"}, "payload": {}}


# --- Slots ----------------------------------------------------------------------------------------------------------


def test_a_batch_gives_each_slot_back_when_its_task_ends(limited: World) -> None:
    put(sample_tree, "a", "b", do="look_at_the_others")(limited)
    put(sample_tree, "c", "d")(limited)
    seen: list[list[str]] = []
    look.append(lambda: seen.append(states("a", "b", "c", "d")(limited)))
    limited.deliver(sample_tree, *({"type": sample_tree.type, "id": id_, "rec": True} for id_ in "abcd"))
    look.clear()
    assert seen == [["active", "active", "held", "held"], ["completed", "active", "pending", "held"]]
    assert states("a", "b", "c", "d")(limited) == ["completed", "completed", "pending", "pending"]
    assert {json.loads(message["Body"])["id"] for message in limited.take(sample_tree)} == {"c", "d"}


look: list[Any] = []


@behaviour
def look_at_the_others(payload: Sample, ctx: Any) -> None:
    look[0]()


def test_many_waiting_tasks_are_served_in_several_statements(limited: World) -> None:
    limited.run("""
        insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds, total_limit,
                                   first_due_at, seq, wait_kind, waits_for, place)
        select 'many-' || n, 'sample:single', 'default', 'held', '', 1, 0, 'sample:single', now(), n, 'limit',
               'sample:single', n
          from generate_series(1, 1100) as n""")
    limited.run("update joblane.limits set slots = null where name = 'sample:single'")
    assert sorted(served("many-1")(limited)) == sorted(f"many-{number}" for number in range(1, 1101))


# --- What frees a slot ----------------------------------------------------------------------------------------------


def act(world: World, action: BulkAction, id_: str) -> None:
    connection = world.database.get()
    serve_freed(connection, world.sqs, PREFIX, change(connection, action, [id_], who="op"))


ENDS_OF_RUNS: list[tuple[State, dict[str, Any]]] = [
    (State.ARCHIVED, {}),
    (State.CANCELLED, {}),
    (State.RETRY, {"delay_seconds": 40}),
    (State.PENDING, {"delay_seconds": 40, "snoozed": True, "counted": False}),
    (State.RETRY, {"delay_seconds": 4000}),
]
ENDS: dict[str, Callable[[World, str], object]] = {
    "an operator cancels it": lambda world, id_: act(world, BulkAction.CANCEL, id_),
    "an operator archives it": lambda world, id_: act(world, BulkAction.ARCHIVE, id_),
    "an operator deletes it": lambda world, id_: act(world, BulkAction.DELETE, id_),
    "a client cancels it": lambda world, id_: world.client.cancel(id_),
}


# --- A slot that nobody has served ----------------------------------------------------------------------------------


@step
def free_silently(world: World) -> None:
    """End the run of ``a``, and die before its limits are served."""
    row = world.row("a")
    finish(world.database.get(), [Finish("a", row["lease_token"], 1, "completed", State.COMPLETED)])


# --- Pauses, redrives and replacements ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "after", "place_stays"),
    [({}, "held", True), ({"process_in": timedelta(hours=1)}, "scheduled", False), ({"key": "7"}, "pending", False)],
)
def test_a_replaced_task_keeps_its_place_if_it_is_due_and_has_the_same_limits(
    limited: World, options: dict[str, Any], after: str, place_stays: bool
) -> None:
    put(sample_keyed, "a")(limited)
    put(sample_keyed, "b", **UNIQUE)(limited)
    assert ask(sample_keyed, "a", "b")(limited) == [RUN, HELD]
    before = limited.row("b")
    limited.client.enqueue(sample_keyed, Sample(do="other"), tenant="acme", **UNIQUE, **options)
    row = limited.row("b")
    assert (row["state"], row["payload"]["do"]) == (after, "other")
    assert ((row["place"], row["seq"]) == (before["place"], before["seq"])) is place_stays
    assert row["key_limit"] == f"sample:keyed/{options.get('key', 0)}"


UNIQUE: dict[str, Any] = {"unique_for": timedelta(hours=1), "unique_key": "it", "on_conflict": OnConflict.REPLACE}


def give_a_turn(world: World) -> None:
    """Give ``b`` its turn, which ``c`` waits for. A conflict replaces ``b``."""
    put(sample_single, "a")(world)
    put(sample_single, "b", **UNIQUE)(world)
    put(sample_single, "c")(world)
    assert ask(sample_single, "a", "b", "c")(world) == [RUN, HELD, HELD]
    assert end("a")(world) == ["b"]


@behaviour
def replaces(payload: Sample, ctx: Any) -> None:
    ctx.enqueue(sample_single, Sample(), process_in=timedelta(hours=1), **UNIQUE)


def replace_by_handler(world: World) -> None:
    world.deliver(sample_one, {"type": sample_one.type, "id": "handler", "payload": {"do": "replaces"}})
    assert states("handler")(world) == ["completed"]


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


REPLACEMENTS: dict[str, Callable[[World], object]] = {
    "by five seconds": replace_in(5),
    "by an hour": replace_in(3600),
    "by a handler": replace_by_handler,
    "by an operator": replace_by_operator,
    "without a setting": replace_without_a_setting,
}


@pytest.mark.parametrize("options", [{"process_in": timedelta(seconds=5)}, {"process_in": timedelta(hours=1)}])
def test_a_replacement_in_a_session_starts_the_next_after_its_commit(
    limited: World, session: Session, options: dict[str, Any]
) -> None:
    give_a_turn(limited)
    limited.client.enqueue(sample_single, Sample(), session=session, **UNIQUE, **options)
    session.rollback()
    assert states("b", "c")(limited) == ["pending", "held"]
    limited.client.enqueue(sample_single, Sample(), session=session, **UNIQUE, **options)
    assert states("b", "c")(limited) == ["pending", "held"]
    session.commit()
    assert states("b", "c")(limited) == ["scheduled", "pending"]
    assert "c" in [json.loads(message["Body"])["id"] for message in limited.take(sample_single)]


# --- Order ----------------------------------------------------------------------------------------------------------


# --- Rates ----------------------------------------------------------------------------------------------------------


def test_each_of_500_keys_has_a_rate_of_its_own(limited: World) -> None:
    limited.run("update joblane.limits set slots = null, step = interval '400 s', burst = 1"
                " where name = 'sample:keyed/'")  # fmt: skip
    limited.lane(sample_keyed)
    ids = [f"{name}{number:03}" for name in "ab" for number in range(500)]
    limited.client.enqueue_many([Job(sample_keyed, Sample(number=int(id_[1:])), task_id=id_) for id_ in ids])
    verdicts = [
        verdict
        for at in range(0, 1000, 10)
        for verdict in ask(sample_keyed, *ids[at : at + 10], together=True)(limited)
    ]
    assert verdicts == [RUN] * 500 + [WAIT] * 500
    assert due_in(*ids[500:])(limited) == [400] * 500


@behaviour
def refused_by_the_service(payload: Sample, ctx: Any) -> None:
    raise RateLimited(timedelta(seconds=100), "429")


def test_a_refusal_by_another_service_delays_all_tasks_that_share_the_limit(limited: World) -> None:
    put(sample_sharing, "a", do="refused_by_the_service")(limited)
    put(sample_sharing, "b")(limited)
    put(sample_tree, "c")(limited)
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
    assert ask(sample_sharing, "b")(limited) == [WAIT]
    assert ask(sample_tree, "c")(limited) == [WAIT]
    assert due_in("a", "b", "c")(limited) == [100] * 3


# --- External messages ----------------------------------------------------------------------------------------------


def test_a_message_whose_key_cannot_be_used_becomes_a_dead_letter(limited: World) -> None:
    limited.deliver(sample_keyed, {"type": sample_keyed.type, "id": "x", "payload": {"number": [1]}})
    [dead_letter] = limited.dead_letters(sample_keyed)
    reason = dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"]
    assert reason == "MessageError: key: number: a string, an integer or a boolean is required, not list"


def test_a_database_of_another_isolation_level_is_refused_with_advice(limited: World) -> None:
    put(sample_single, "a")(limited)
    limited.database.get().execute_simple("set default_transaction_isolation = 'repeatable read'")
    with pytest.raises(Exception, match="the isolation level read committed is required"):
        ask(sample_single, "a")(limited)
    limited.database.drop()


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
    put(task, "a", *waiting)(limited)
    assert ask(task, "a", *waiting)(limited) == [RUN] + [HELD] * len(waiting)
    with locked_until_asked_again(limited, monkeypatch, "b") as pauses:
        assert end("a")(limited) == ["b"]
    assert len(pauses) == 1


def test_more_paused_tasks_than_one_call_moves_do_not_hide_the_next_one(limited: World) -> None:
    client = client_within(limited.database, Mock(send_many=lambda *_, **__: {}, covered={}, now=time.time), PREFIX)
    client.enqueue_many([Job(sample_keyed, Sample(), task_id=f"p{number:03}", tenant="x") for number in range(450)])
    put(sample_keyed, "a", "z")(limited)
    assert ask(sample_keyed, "a", "z")(limited) == [RUN, HELD]
    limited.run("update joblane.tasks set state = 'held', wait_kind = 'limit', waits_for = key_limit, place = -1,"
                " sweep_at = null where tenant = 'x'")  # fmt: skip
    limited.run("insert into joblane.pauses (scope, name) values ('tenant', 'x')")
    assert end("a")(limited) == ["z"]
    assert limited.run("select count(*) from joblane.tasks where tenant = 'x' and state = 'pending'") == [[450]]


def test_a_task_that_moves_to_its_total_is_served_if_a_slot_is_freed_meanwhile(limited: World) -> None:
    put(sample_tree, "a", "b", number=1)(limited)
    put(sample_tree, "c", number=2)(limited)
    limited.run("update joblane.limits set slots = 1 where name = 'sample:tree/'")
    assert ask(sample_tree, "a", "c", "b")(limited) == [RUN, RUN, HELD]
    limited.run("update joblane.limits set slots = 1 where name = 'sample:tree'")

    class Slow:
        """Commits the first statement only after another task has ended, whose worker finds nobody waiting."""

        def run(self, statement: str, *parameters: Any) -> Any:
            connection = other.get()
            if row["finished_at"] is not None:
                return connection.run(statement, *parameters)
            connection.execute_simple("begin")
            rows = connection.run(statement, *parameters)
            assert end("c")(limited) == []
            row["finished_at"] = "now"
            connection.commit()
            return rows

    row = limited.row("a")
    ended = Finish("a", row["lease_token"], row["runs"], "completed", State.COMPLETED)
    assert finish(limited.database.get(), [ended]) == {"a"}
    with Database(limited.url) as other:
        turns = serve(cast(Connection, Slow()), [[row["key_limit"], row["total_limit"], row["shared_limit"]]])
    assert [turn.id for turn in turns] == ["b"]


# --- Stories ---------------------------------------------------------------------------------------------------------

STORIES: dict[str, Story] = {
    "a task whose message came a moment early is served": [
        put(sample_single, "a", "b"),
        sql("update joblane.tasks set due_at = clock_timestamp() + interval '1.9 s' where id = 'b'"),
        ask(sample_single, "a", "b").gives([RUN, HELD]),
        end("a").gives(["b"]),
    ],
    "keys do not wait for each other and a task without a key has no limit": [
        put(sample_keyed, "a", number=1),
        put(sample_keyed, "b", number=2),
        put(sample_ordered, "c", "d", tenant=None),
        ask(sample_keyed, "a", "b").gives([RUN, RUN]),
        ask(sample_ordered, "c", "d").gives([RUN, RUN]),
    ],
    "a key at the enqueue replaces the declared one": [
        put(sample_keyed, "a", number=1),
        put(sample_keyed, "b", number=2, key="1"),
        ask(sample_keyed, "a", "b").gives([RUN, HELD]),
    ],
    "a task keeps the slot of its key while it waits for a shared limit": [
        put(sample_sharing, "x", "y"),
        put(sample_tree, "a", "b", "c"),
        ask(sample_sharing, "x", "y").gives([RUN, RUN]),
        ask(sample_tree, "a", "b", "c").gives([HELD, HELD, HELD]),
        row("a", waits_for="shared"),
        row("b", waits_for="shared"),
        row("c", waits_for="sample:tree/0"),
        # the end of a task of one type starts a task of another, and nobody overtakes
        put(sample_sharing, "z"),
        end("x").gives(["a"]),
        ask(sample_sharing, "z").gives([HELD]),
        ask(sample_tree, "a").gives([RUN]),
        # the widest limit is served first: b has waited for it longer than c, which comes up from its key
        end("a").gives(["b"]),
        *(row(id_, waits_for="shared") for id_ in "cz"),
    ],
    "a task keeps the slot of its key while it waits for its total": [
        put(sample_tree, "a", "b", number=1),
        put(sample_tree, "c", "d", "e", number=2),
        ask(sample_tree, "a", "b", "c", "d").gives([RUN, RUN, HELD, HELD]),
        ask(sample_tree, "e").gives([HELD]),
        *(row(id_, passed=Passed.ALL) for id_ in "ab"),
        row("c", passed=Passed.TYPE_TIME, waits_for="shared"),
        row("d", passed=Passed.KEY_TIME, waits_for="sample:tree"),
        row("e", passed=None, waits_for="sample:tree/2"),
    ],
    "a limit that is no longer declared lets all pass": [
        put(sample_single, "a", "b", "c"),
        ask(sample_single, "a", "b").gives([RUN, HELD]),
        sql("delete from joblane.limits"),
        # behind the one that waits
        ask(sample_single, "c").gives([HELD]),
        sweep(served=2),
        states("b", "c").gives(["pending", "pending"]),
    ],
    "a resumable task keeps its slot between its invocations": [
        put(sample_single, "a", "b"),
        ask(sample_single, "a", "b").gives([RUN, HELD]),
        end("a", State.PENDING, continued=True, counted=False).gives([]),
        ask(sample_single, "b", "a").gives([HELD, RUN]),
    ],
    "the run after a lost one takes no start of a rate": [
        sql("update joblane.limits set step = interval '60 s', burst = 1 where name = 'sample:rated'"),
        put(sample_rated, "a"),
        ask(sample_rated, "a").gives([RUN]),
        sql("create table before as select * from joblane.rates"),
        expire_leases(),
        ask(sample_rated, "a").gives([RUN]),
        sql("select from joblane.rates join before using (name, next_at)").gives([[]]),
    ],
    "a deadline that passes while a task waits archives it": [
        put(sample_single, "a", "b", "c"),
        sql("update joblane.tasks set deadline = now() + interval '1 hour' where id = 'b'"),
        ask(sample_single, "a", "b", "c").gives([RUN, HELD, HELD]),
        sql("select from joblane.tasks where sweep_at = deadline and id = 'b'").gives([[]]),
        sql("update joblane.tasks set deadline = now(), sweep_at = now() where id = 'b'"),
        sweep(sent=1),
        sent(sample_single).gives(["b"]),
        ask(sample_single, "b").gives([Verdict.ARCHIVED]),
        end("a").gives(["c"]),
    ],
    "a held task that is ended by sql is passed over and tidied": [
        put(sample_single, "a", "b", "c"),
        ask(sample_single, "a", "b", "c").gives([RUN, HELD, HELD]),
        sql("update joblane.tasks set state = 'cancelled' where id = 'b'"),
        end("a").gives(["c"]),
        sweep(),
        row("b", waits_for=None),
    ],
    "a newcomer starts those before it if nobody has": [
        put(sample_single, "a", "b", "c"),
        ask(sample_single, "a", "b").gives([RUN, HELD]),
        free_silently(),
        deliver(sample_single, {"type": sample_single.type, "id": "c", "rec": True}),
        states("b", "c").gives(["pending", "held"]),
        sent(sample_single).gives(["b"]),
    ],
    "the sweep starts those that nobody has started": [
        put(sample_single, "a", "b"),
        put(sample_keyed, "x", "y"),
        ask(sample_single, "a", "b").gives([RUN, HELD]),
        ask(sample_keyed, "x", "y").gives([RUN, HELD]),
        sweep(served=0),
        free_silently(),
        sweep(served=1),
        sent(sample_single).gives(["b"]),
        states("y").gives(["held"]),
    ],
    "waiting tasks that others have locked are asked again": [
        put(sample_single, "a", "b"),
        ask(sample_single, "a", "b").gives([RUN, HELD]),
        sql("begin"),
        sql("update joblane.tasks set tags = '{x}' where id = 'b'"),
        end("a").gives([]),
        sql("commit"),
        served("b").gives(["b"]),
    ],
    "a limit that another process has locked keeps its tasks and no others": [
        put(sample_tree, "a"),
        put(sample_tree, "b", number=1),
        sql("update joblane.tasks set shared_limit = null, total_limit = null where id = 'b'"),
        sql("begin"),
        sql("select pg_advisory_xact_lock(hashtextextended('shared', 7))"),
        ask(sample_tree, "a", "b", together=True).gives([Verdict.LOCKED, Verdict.LOCKED]),
        sql("rollback"),
        ask(sample_tree, "a", "b", together=True).gives([RUN, RUN]),
    ],
    "a paused type leaves its slots to others and keeps its place": [
        put(sample_sharing, "a", "b", "c"),
        put(sample_tree, "d"),
        ask(sample_sharing, "a", "b", "c").gives([RUN, RUN, HELD]),
        ask(sample_tree, "d").gives([HELD]),
        sql("insert into joblane.pauses (scope, name) values ('type', $1)", sample_sharing.type),
        end("a").gives(["d"]),
        states("c").gives(["pending"]),
        ask(sample_sharing, "c").gives([Verdict.PAUSED]),
        sql("delete from joblane.pauses"),
        ask(sample_sharing, "c").gives([HELD]),
    ],
    "a redriven task asks for a slot and is the last in its order": [
        put(sample_ordered, "a", "b"),
        ask(sample_ordered, "a", "b").gives([RUN, HELD]),
        end("a", State.ARCHIVED).gives(["b"]),
        sql("update joblane.tasks set dead_sent_at = now(), dead_letter_unsent = false where id = 'a'"),
        ask(sample_ordered, "a", dead_generation=0).gives([WAIT]),
        sql("select id from joblane.tasks order by seq").gives([["b"], ["a"]]),
        ask(sample_ordered, "a", "b").gives([HELD, RUN]),
    ],
    "a replaced task keeps the time that its rate gave it": [
        sql("update joblane.limits set step = interval '60 s', burst = 1 where name = 'sample:rated'"),
        put(sample_rated, "a"),
        put(sample_rated, "b", **UNIQUE),
        ask(sample_rated, "a", "b").gives([RUN, WAIT]),
        sql("create table before as select * from joblane.tasks where id = 'b'"),
        enqueue(sample_rated, Sample(do="other"), tenant="acme", **UNIQUE),
        row("b", payload={"do": "other", "number": 0}),
        sql(
            "select from joblane.tasks join before using (id, state, due_at, sweep_at, passed, first_due_at, seq)"
        ).gives([[]]),
        ask(sample_rated, "b").gives([WAIT]),
        enqueue(sample_rated, Sample(), tenant="acme", process_in=timedelta(seconds=1), **UNIQUE),
        row("b", state="scheduled", passed=None),
    ],
    "a scheduled task that is replaced by one due now has its place from now on": [
        put(sample_ordered, "a", process_in=timedelta(hours=20), **UNIQUE),
        enqueue(sample_ordered, Sample(), tenant="acme", **UNIQUE),
        put(sample_ordered, "b"),
        states("a", "b").gives(["pending", "pending"]),
        ask(sample_ordered, "b", "a").gives([HELD, RUN]),
    ],
    "a held task between two invocations is not replaced": [
        put(sample_single, "a", **UNIQUE),
        put(sample_single, "b", tenant="other"),
        ask(sample_single, "a", "b").gives([RUN, HELD]),
        end("a", State.PENDING, continued=True, counted=False, duration_ms=1000).gives([]),
        sql("insert into joblane.pauses (scope, name) values ('tenant', 'acme')"),
        ask(sample_single, "a").gives([Verdict.PAUSED]),
        served("a").gives(["b"]),
        sql("delete from joblane.pauses"),
        ask(sample_single, "a").gives([HELD]),
        enqueue(sample_single, Sample(do="other"), tenant="acme", **UNIQUE).fails(
            DuplicateTaskError, "a running task cannot be replaced"
        ),
        row("a", payload={"do": "nothing", "number": 0}, used_ms=1000),
        edit("a", {"do": "other"}).fails(ActionError, "an attempt continues in the next invocation"),
    ],
    "a task that waits for a retry keeps its place in the order": [
        put(sample_ordered, "a", "b"),
        ask(sample_ordered, "a", "b").gives([RUN, HELD]),
        end("a", State.RETRY, delay_seconds=40).gives([]),
        row("a", passed=Passed.KEY_SLOT),
        ask(sample_ordered, "b").gives([HELD]),
        later("a"),
        ask(sample_ordered, "a", "b").gives([RUN, HELD]),
        end("a").gives(["b"]),
    ],
    "a task runs only if none before it is due": [
        put(sample_ordered, "a", "b"),
        ask(sample_ordered, "b", "a").gives([HELD, RUN]),
        end("a").gives(["b"]),
        put(sample_ordered, "c", "d", number=1),
        ask(sample_ordered, "d").gives([HELD]),
        sweep(served=0),
        cancel("c").gives(State.CANCELLED),
        states("d").gives(["pending"]),
    ],
    "a rate gives each task its time": [
        put(sample_rated, *[f"r{number}" for number in range(8)]),
        sql("update joblane.limits set step = interval '400 s' where name = 'sample:rated'"),
        ask(sample_rated, *[f"r{number}" for number in range(8)]).gives([RUN] * 2 + [WAIT] * 6),
        # after 900 s the row waits alone
        sql(
            "select round(extract(epoch from due_at - now()) / 400), sweep_at < due_at from joblane.tasks"
            " where state = 'pending' order by id"
        ).gives([[number, number > 2] for number in range(1, 7)]),
        # a copy that comes early waits, and nothing is paid twice
        ask(sample_rated, "r2").gives([WAIT]),
        later("r2"),
        ask(sample_rated, "r2").gives([RUN]),
        # another attempt pays again
        end("r2", State.RETRY).gives([]),
        ask(sample_rated, "r2").gives([WAIT]),
        due_in("r2").gives([2800]),
    ],
    "ticks pay for the rate": [
        sql("update joblane.limits set step = interval '400 s', burst = 1 where name = 'sample:rated'"),
        put(sample_rated, "a"),
        ask(sample_rated, "tick-1", **TICK).gives([RUN]),
        end("tick-1").gives([]),
        ask(sample_rated, "a").gives([WAIT]),
        ask(sample_rated, "tick-2", **TICK).gives([WAIT]),
        due_in("a", "tick-2").gives([400, 800]),
    ],
    "a task that waits for its time keeps its slot": [
        sql("update joblane.limits set step = interval '400 s', burst = 1 where name = 'sample:single'"),
        put(sample_single, "a", "b", "c"),
        ask(sample_single, "a", "b", "c").gives([RUN, HELD, HELD]),
        end("a").gives(["b"]),
        due_in("b").gives([400]),
        ask(sample_single, "b", "c").gives([WAIT, HELD]),
    ],
    "a refusal moves the times that a rate has given": [
        sql("update joblane.limits set step = interval '10 s', burst = 1 where name = 'sample:rated'"),
        put(sample_rated, "a", do="refused_by_the_service"),
        put(sample_rated, "b", "c", "d", "e"),
        ask(sample_rated, "e", "b", "c", "d").gives([RUN, WAIT, WAIT, WAIT]),
        sql("update joblane.rates set next_at = now()"),
        deliver(sample_rated, {"type": sample_rated.type, "id": "a", "rec": True}),
        due_in("a", "b", "c", "d", digits=-1).gives([100, 100, 110, 120]),
    ],
    "a task without a limit waits alone for a service": [
        put(sample_one, "a", do="refused_by_the_service"),
        put(sample_one, "b"),
        deliver(sample_one, {"type": sample_one.type, "id": "a", "rec": True}).gives([]),
        ask(sample_one, "b").gives([RUN]),
    ],
    "an external message waits with a row of its own": [
        put(sample_keyed, "a"),
        ask(sample_keyed, "a").gives([RUN]),
        ask(sample_keyed, "b", rec=False, payload={"do": "nothing"}).gives([HELD]),
        row("b", waits_for="sample:keyed/0"),
        end("a").gives(["b"]),
        ask(sample_keyed, "b", rec=False, payload={"do": "nothing"}).gives([RUN]),
    ],
    "a lone tenant gets all slots of a total": [
        # Tenants take turns only while tasks of several of them wait.
        sql("update joblane.limits set slots = case name when 'sample:tree/' then 1 when 'sample:tree' then 5 end"),
        *(put(sample_tree, id_, number=number) for number, id_ in enumerate("abcdefg")),
        ask(sample_tree, *"abcdefg").gives([RUN] * 5 + [HELD] * 2),
        end("a").gives(["f"]),
        end("b").gives(["g"]),
    ],
    **{
        f"the end of a run frees its slot: {state} {how}": [
            put(sample_single, "a", "b"),
            ask(sample_single, "a", "b").gives([RUN, HELD]),
            end("a", state, **how).gives(["b"]),
            row("a", passed=None),
        ]
        for state, how in ENDS_OF_RUNS
    },
    **{
        f"the end of a turn starts the next and that of a waiting task does not: {how}": [
            put(sample_single, "a", "b", "c", "d"),
            ask(sample_single, "a", "b", "c", "d").gives([RUN, HELD, HELD, HELD]),
            step(end_it)("b"),
            states("c", "d").gives(["held", "held"]),
            end("a").gives(["c"]),
            step(end_it)("c"),
            states("d").gives(["pending"]),
            ask(sample_single, "d").gives([RUN]),
        ]
        for how, end_it in ENDS.items()
    },
    **{
        f"a replacement that gives a turn back starts the next: {how}": [
            give_a_turn,
            replace,
            states("b", "c").gives(["scheduled", "pending"]),
        ]
        for how, replace in REPLACEMENTS.items()
    },
}


@stories(STORIES)
def test_story(limited: World, story: Story) -> None:
    play(limited, story)
