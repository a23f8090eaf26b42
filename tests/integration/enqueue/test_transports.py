"""The contract of an enqueue over all transports: sessions, connections of drivers, and the client's own connection.

What only one transport has is in ``test_outbox``, ``test_async_outbox`` and ``test_drivers``.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest

from joblane import Enqueued
from joblane.enqueue.drivers import ADAPTERS, ASYNC, SYNC, DriverTransaction
from joblane.enqueue.session import SessionTransaction
from joblane.enqueue.transaction import INLINE_SENDS
from joblane.errors import (
    DatabaseUnavailableError,
    EnqueueError,
    TaskIdConflictError,
    UnknownTaskError,
    WrongStageError,
)
from joblane.record.driver.connection import Connection
from joblane.record.migrations import upgrade
from joblane.record.sql_functions import VERSION
from joblane.record.task.waits import SIGNAL, WAKE
from joblane.sqs.client import Entry
from joblane.sqs.message import decode
from joblane.tasks.job import Job
from tests.builders.rows import In, put
from tests.logs import lines
from tests.samples import Sample, sample_one
from tests.sends import Sends, is_before_commit
from tests.transports import ALL, JOINED, LANE, SESSIONS, Asyncpg, AsyncPsycopg, Transport, rows, sent
from tests.world import World

SWEEP_LANE = "jobs-low-jobs-sweep"


joined = pytest.mark.parametrize("transport", JOINED, indirect=True)


@contextmanager
def statements(world: World) -> Iterator[list[str]]:
    """Record the library's statements, on the connection of any caller and on its own."""
    seen: list[str] = []

    def recorded(run: Callable[..., Any]) -> Callable[..., Any]:
        def record(where: Any, sql: str, *parameters: Any) -> Any:
            if where is not world._observer.get():
                seen.append(sql)
            return run(where, sql, *parameters)

        return record

    with pytest.MonkeyPatch.context() as patch:
        for owner in (SessionTransaction, DriverTransaction, Connection):
            patch.setattr(owner, "run", recorded(owner.run))
        yield seen


def sweep_all(world: World) -> None:
    """Run a sweep with every row due."""
    world.run("update joblane.tasks set sweep_at = now() where sweep_at is not null")
    world.sweep()


# --- Commit, rollback, savepoint -----------------------------------------------------------------------------------


@joined
def test_tasks_commit_with_the_callers_work_and_are_sent_after_it(
    world: World, sends: Sends, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = world.client._producer.send_committed, list[tuple[bool, list[str]]]()

    def note(tasks: Any) -> None:
        seen.append((threading.current_thread().name.startswith("joblane_"), rows(world)))
        real(tasks)

    monkeypatch.setattr(world.client._producer, "send_committed", note)
    with transport.begin():
        transport.work()
        made = [transport.enqueue(tenant="acme", headers={"100%": "%s"}) for _ in range(7)]  # psycopg prepares after 5
        made += [one for one in transport.enqueue_many([Job(sample_one, Sample())] * 3) if isinstance(one, Enqueued)]
        assert transport.enqueue_many([]) == []
        assert {(one.state, one.sent) for one in made} == {("pending", False)}
        assert (rows(world), sends.messages) == ([], [])
    ids = [one.id for one in made]
    assert (sent(sends), rows(world)) == (ids, sorted(ids))
    assert {(is_in_thread, len(there)) for is_in_thread, there in seen} == {(transport.is_async, 10)}
    assert world.run("select what from work") == [["100%"]]
    row = world.row(ids[0])
    assert (row["tenant"], row["headers"], sends.to(LANE)[0]["MessageGroupId"]) == ("acme", {"100%": "%s"}, "acme")


@joined
def test_a_transaction_sends_what_it_has_committed_and_nothing_else(
    world: World, sends: Sends, transport: Transport
) -> None:
    with transport.begin():
        first = transport.enqueue().id
    with suppress(ZeroDivisionError), transport.begin():
        transport.work()
        transport.enqueue()
        raise ZeroDivisionError
    assert sent(sends) == [first]
    with transport.begin():
        second = transport.enqueue().id
    with transport.begin():
        transport.work()
    assert (sent(sends), rows(world)) == ([first, second], sorted([first, second]))
    assert world.run("select what from work") == [["100%"]]


@pytest.mark.parametrize("transport", ALL, indirect=True)
def test_a_signal_continues_its_task_after_the_commit(world: World, sends: Sends, transport: Transport) -> None:
    put(world, sample_one, "it", state="scheduled", runs=1, due_at=In(3600), sweep_at=In(3000))
    wait = "values ('it', 'a', 'approval', now(), 1)"
    world.run(f"insert into joblane.task_waits (task_id, name, signal, until, run) {wait}")
    if transport.there:
        with suppress(ZeroDivisionError), transport.begin():
            transport.work()
            assert transport.signal("it")
            raise ZeroDivisionError
        assert (world.row("it")["state"], sent(sends)) == ("scheduled", [])
    else:
        with pytest.raises(UnknownTaskError):  # the first use of a connection checks the database
            transport.signal("nothing")
    with statements(world) as seen, transport.begin():
        with pytest.raises(UnknownTaskError):
            transport.signal("nothing")
        assert transport.signal("it", {"100%": "%s"})
        assert not transport.signal("it", 2)
        if transport.there:
            assert sent(sends) == []
    assert Counter(seen) == {SIGNAL: 3, WAKE: 1}  # a signal that counts has two statements, and one message
    assert (world.row("it")["state"], sent(sends)) == ("pending", ["it"])
    assert world.run("select value::text, heard from joblane.task_signals") == [['{"100%":"%s"}', True]]


@pytest.mark.parametrize("transport", SESSIONS, indirect=True)
def test_a_session_closed_without_a_commit_leaves_nothing(world: World, sends: Sends, transport: Transport) -> None:
    transport.enqueue()
    transport.close()
    with transport.begin():
        transport.work()
    assert (rows(world), sends.messages) == ([], [])


@joined
def test_a_task_of_a_savepoint_waits_for_the_commit_or_was_never_there(
    world: World, sends: Sends, transport: Transport
) -> None:
    with transport.begin():
        first = transport.enqueue().id
        with transport.savepoint():
            second = transport.enqueue().id
        with suppress(ZeroDivisionError), transport.savepoint():
            transport.enqueue("again")
            with transport.savepoint():
                transport.enqueue()
            raise ZeroDivisionError
        transport.enqueue("again", process_in=timedelta(minutes=5))
        assert sends.messages == []
    assert (sent(sends), rows(world)) == ([first, second, "again"], sorted([first, second, "again"]))
    assert [delay > 200 for delay in sends.delays(LANE)] == [False, False, True]
    assert world.row("again")["state"] == "scheduled"


@joined
def test_a_commit_that_the_database_refuses_sends_nothing(world: World, sends: Sends, transport: Transport) -> None:
    def work_twice() -> None:
        with transport.begin():
            transport.enqueue()
            transport.work()
            transport.work()

    with pytest.raises(Exception, match="duplicate key"):
        work_twice()
    assert (rows(world), sends.messages) == ([], [])
    with transport.begin():
        transport.enqueue("it")
    assert sent(sends) == rows(world) == ["it"]


@pytest.mark.parametrize("transport", [Asyncpg, AsyncPsycopg], indirect=True)
def test_a_connection_without_a_transaction_is_refused(world: World, sends: Sends, transport: Transport) -> None:
    with pytest.raises(EnqueueError, match=r"connection: it .*has no open transaction, so the task could not"):
        transport.enqueue()
    assert (rows(world), sends.messages) == ([], [])


# --- Ids and keys that are taken -----------------------------------------------------------------------------------


def test_an_id_or_a_key_that_is_taken_leaves_the_transaction_alive(
    world: World, sends: Sends, transport: Transport
) -> None:
    held: dict[str, Any] = {"unique_key": "100%", "unique_for": timedelta(hours=1)}
    world.client.enqueue(sample_one, Sample(number=1), task_id="taken", **held)
    sends.clear()
    with transport.begin():
        transport.work()
        with pytest.raises(TaskIdConflictError):
            transport.enqueue("taken")
        results = transport.enqueue_many([Job(sample_one, Sample(), task_id=id_) for id_ in ("taken", "free")])
        with pytest.raises(TaskIdConflictError):
            transport.enqueue("free")
        existing = transport.enqueue(on_conflict="return", **held)
        replaced = transport.enqueue(on_conflict="replace", **held)
    assert [type(result) for result in results] == [TaskIdConflictError, Enqueued]
    assert [(one.id, one.created) for one in (existing, replaced)] == [("taken", False)] * 2
    assert (sent(sends), rows(world)) == (["free", "taken"], ["free", "taken"])
    assert world.row("taken")["payload"]["number"] == 0
    assert world.run("select what from work") == [["100%"]]


# --- Messages ------------------------------------------------------------------------------------------------------


def test_a_task_that_sqs_cannot_delay_waits_in_its_row(world: World, sends: Sends, transport: Transport) -> None:
    with transport.begin():
        transport.enqueue("far", process_in=timedelta(hours=3))
        assert getattr(transport, "callbacks", []) == []
    assert sends.messages == []
    assert world.row("far")["state"] == "scheduled"


@joined
def test_of_many_tasks_a_hundred_are_sent_and_the_sweep_is_woken_for_the_rest(
    world: World, sends: Sends, transport: Transport
) -> None:
    alone = 30 if transport.counts else 0
    with transport.begin():
        for _ in range(alone):
            transport.enqueue()
        transport.enqueue_many([Job(sample_one, Sample()) for _ in range(INLINE_SENDS + 30 - alone)])
    assert len(sent(sends)) == INLINE_SENDS
    assert sends.requests == INLINE_SENDS / 10 + 1
    (woken,) = sends.to(SWEEP_LANE)
    assert decode(woken["MessageBody"]).type == "jobs:sweep"
    assert world.sweep().sent == 30
    assert len(sent(sends)) == len(set(sent(sends))) == len(rows(world))


@pytest.mark.usefixtures("each_sweep")
def test_a_process_that_dies_between_commit_and_send_leaves_the_task_to_the_sweep(
    world: World, sends: Sends, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Death(BaseException):
        pass

    def die(entries: Sequence[Entry], **_: Any) -> dict[int, str]:
        if is_before_commit(entries[0].body):
            return {}
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(world.sqs, "send_many", die)
        with pytest.raises(Death), transport.begin():
            transport.enqueue("it")
    assert world.row("it")["state"] == "pending"
    assert sends.messages == []
    sweep_all(world)
    assert sent(sends) == ["it"]
    assert world.deliver(sample_one, world.take(sample_one)[0]["Body"]) == []
    assert world.row("it")["state"] == "completed"


@pytest.mark.usefixtures("each_sweep")
@pytest.mark.parametrize("count", [1, 25])
def test_an_unavailable_sqs_after_the_commit_is_no_error_for_the_caller(
    world: World, sends: Sends, transport: Transport, count: int
) -> None:
    world.sqs.client.delete_queue(QueueUrl=world.sqs.url(LANE))
    world.sqs._urls.clear()
    with lines() as logged, transport.begin():
        transport.work()
        transport.enqueue_many([Job(sample_one, Sample()) for _ in range(count)])
    assert [(line["level"], line["messages"], line["queue"]) for line in logged.fields] == [("WARNING", count, LANE)]
    assert (len(rows(world)), world.run("select what from work")) == (count, [["100%"]])
    world.lane(sample_one)
    sends.clear()
    sweep_all(world)
    assert sorted(map(str, sent(sends))) == rows(world)


@joined
def test_a_send_that_fails_is_a_warning_and_not_an_error_of_the_caller(
    world: World, sends: Sends, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(entries: Sequence[Entry], **_: Any) -> dict[int, str]:
        if is_before_commit(entries[0].body):
            return {}
        raise RuntimeError("no queue")

    monkeypatch.setattr(world.sqs, "send_many", fail)
    with lines() as logged, transport.begin():
        transport.enqueue("it")
    assert [line["error"] for line in logged.fields] == ["no queue"]
    assert rows(world) == ["it"]


# --- The wrong database, and what is no transport ------------------------------------------------------------------


def test_a_database_of_another_stage_is_refused(world: World, sends: Sends, transport: Transport) -> None:
    world.run("insert into joblane.stage (prefix) values ('other')")
    with pytest.raises(WrongStageError), transport.begin():
        transport.enqueue()
    assert (rows(world), sends.messages) == ([], [])


def test_what_the_database_lacks_is_named(world: World, sends: Sends, transport: Transport) -> None:
    world.run("alter schema joblane rename to elsewhere")
    with pytest.raises(DatabaseUnavailableError, match="run `joblane migrate`"), transport.begin():
        transport.enqueue()
    world.run("alter schema elsewhere rename to joblane")
    world.run(f"drop function joblane.insert_one_{VERSION}")
    with pytest.raises(DatabaseUnavailableError, match="run `joblane migrate`"), transport.begin():
        transport.enqueue()
    upgrade(world.url)
    with transport.begin():
        transport.enqueue("it")
    assert sent(sends) == rows(world) == ["it"]


@joined
def test_the_other_call_names_the_one_for_the_transport(world: World, sends: Sends, transport: Transport) -> None:
    right = r"await jobs\.aenqueue\(" if transport.is_async else r"use jobs\.enqueue\("
    with transport.begin(), pytest.raises(EnqueueError, match=right):
        transport.enqueue_by_the_other_call()
    assert (rows(world), sends.messages) == ([], [])


class Stranger:
    pass


@pytest.mark.parametrize(
    ("by_await", "argument", "known"),
    [
        (False, "session", "an SQLAlchemy Session is required, not Stranger"),
        (True, "session", "an SQLAlchemy AsyncSession is required, not Stranger"),
        (False, "connection", f"{SYNC} is required, not tests.Stranger; or give an SQLAlchemy session="),
        (True, "connection", f"{ASYNC} is required, not tests.Stranger; or give an SQLAlchemy session="),
    ],
)
def test_what_no_adapter_knows_is_refused_with_what_is_known(
    world: World, sends: Sends, by_await: bool, argument: str, known: str
) -> None:
    there: dict[str, Any] = {argument: Stranger()}

    def enqueue() -> object:
        if by_await:
            return asyncio.run(world.client.aenqueue(sample_one, Sample(), **there))
        return world.client.enqueue(sample_one, Sample(), **there)

    with pytest.raises(EnqueueError, match=f"^{argument}: {known}"):
        enqueue()
    assert (rows(world), sends.messages) == ([], [])


def test_each_adapter_is_among_those_that_are_named() -> None:
    for (package, _), kind in ADAPTERS.items():
        assert package in (ASYNC if kind.is_async else SYNC).lower()
