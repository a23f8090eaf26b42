"""Enqueueing through a connection of psycopg or of Django, in the caller's own transaction."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.numeric import NumericLoader
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from joblane import Enqueued, telemetry
from joblane.enqueue.transaction import INLINE_SENDS
from joblane.errors import DatabaseUnavailableError, EnqueueError, TaskIdConflictError, WrongStageError
from joblane.record.migrations import upgrade
from joblane.record.sql_functions import VERSION
from joblane.sqs.client import Entry
from joblane.sqs.message import decode
from joblane.tasks.job import Job
from tests.django_database import django_database
from tests.samples import Sample, sample_one
from tests.sends import Sends, is_before_commit
from tests.world import World

LANE = "jobs-default-sample-one"


@pytest.fixture
def sends(world: World) -> Sends:
    world.lane(sample_one)
    world.client._producer._sqs = world.sqs
    world.run("create table work (what text)")
    return Sends.of(world.sqs)


@pytest.fixture
def connection(world: World) -> Iterator[psycopg.Connection[Any]]:
    """A connection whose rows are dictionaries, and whose cursors take ``$1``."""
    with psycopg.connect(world.url, row_factory=dict_row, cursor_factory=psycopg.RawCursor, autocommit=False) as made:
        yield made


@pytest.fixture
def django(world: World) -> Iterator[Any]:
    with django_database(world.url) as connection:
        yield connection


def sent(sends: Sends) -> list[str | None]:
    return [decode(entry["MessageBody"]).id for entry in sends.to(LANE)]


def rows(world: World) -> list[str]:
    return [row[0] for row in world.run("select id from joblane.tasks order by id")]


# --- psycopg -------------------------------------------------------------------------------------------------------


def test_a_task_commits_with_the_work_of_psycopg(
    world: World, sends: Sends, connection: psycopg.Connection[Any]
) -> None:
    callbacks: list[Callable[[], None]] = []
    connection.execute("insert into work values ('done')")
    results = [
        world.client.enqueue(sample_one, Sample(number=number), connection=connection, after_commit=callbacks.append)
        for number in range(7)  # psycopg prepares a statement after five times
    ]
    many = world.client.enqueue_many(
        [Job(sample_one, Sample()) for _ in range(3)], connection=connection, after_commit=callbacks.append
    )
    assert (rows(world), sends.messages, len(callbacks)) == ([], [], 8)
    assert {result.sent for result in results} == {False}
    connection.commit()
    for send in callbacks:
        send()
    ids = [result.id for result in [*results, *many] if isinstance(result, Enqueued)]
    assert sent(sends) == ids
    assert rows(world) == sorted(ids)
    assert world.run("select what from work") == [["done"]]


def test_an_id_or_a_key_that_is_taken_leaves_psycopgs_transaction_alive(
    world: World, sends: Sends, connection: psycopg.Connection[Any]
) -> None:
    callbacks: list[Callable[[], None]] = []
    held: dict[str, Any] = {"unique_key": "100%", "unique_for": timedelta(hours=1)}
    first = world.client.enqueue(sample_one, Sample(), task_id="taken", **held)
    sends.clear()
    there: dict[str, Any] = {"connection": connection, "after_commit": callbacks.append}
    with pytest.raises(TaskIdConflictError):
        world.client.enqueue(sample_one, Sample(), task_id="taken", **there)
    existing = world.client.enqueue(sample_one, Sample(), on_conflict="return", **held, **there)
    replaced = world.client.enqueue(sample_one, Sample(number=2), on_conflict="replace", **held, **there)
    connection.commit()
    for send in callbacks:
        send()
    assert (existing.id, existing.created, replaced.id, replaced.created) == (first.id, False, first.id, False)
    assert set(sent(sends)) == {"taken"}
    assert world.row("taken")["payload"]["number"] == 2


def test_a_rollback_of_psycopg_leaves_no_row_and_a_send_after_it_runs_nothing(
    world: World, sends: Sends, connection: psycopg.Connection[Any]
) -> None:
    callbacks: list[Callable[[], None]] = []
    kept = world.client.enqueue(sample_one, Sample(), connection=connection, after_commit=callbacks.append).id
    with suppress(ZeroDivisionError), connection.transaction():
        world.client.enqueue(sample_one, Sample(), connection=connection, after_commit=callbacks.append)
        raise ZeroDivisionError
    connection.commit()
    for send in callbacks:  # the caller cannot know which of them a savepoint has taken back
        send()
    for message in world.take(sample_one):
        assert world.deliver(sample_one, message["Body"]) == []
    assert rows(world) == [kept]


def test_a_task_that_sqs_cannot_delay_has_nothing_to_send(
    world: World, sends: Sends, connection: psycopg.Connection[Any]
) -> None:
    callbacks: list[Callable[[], None]] = []
    world.client.enqueue(
        sample_one, Sample(), connection=connection, after_commit=callbacks.append, process_in=timedelta(hours=3)
    )
    assert callbacks == []


def test_an_open_transaction_of_an_autocommit_connection_is_enough(world: World, sends: Sends) -> None:
    callbacks: list[Callable[[], None]] = []
    there: dict[str, Any] = {"after_commit": callbacks.append}
    with psycopg.connect(world.url, autocommit=True) as connection:
        with pytest.raises(EnqueueError, match=r"connection: it is in autocommit mode and has no open transaction"):
            world.client.enqueue(sample_one, Sample(), connection=connection, **there)
        with connection.pipeline():
            connection.execute("insert into work values ('done')")  # the server has not answered yet
            with pytest.raises(EnqueueError, match=r"connection: it is in autocommit mode and has no open transaction"):
                world.client.enqueue(sample_one, Sample(), connection=connection, **there)
        with connection.transaction():
            ids = [world.client.enqueue(sample_one, Sample(), connection=connection, **there).id]
        with connection.pipeline(), connection.transaction():
            ids.append(world.client.enqueue(sample_one, Sample(), connection=connection, **there).id)
    assert (rows(world), len(callbacks)) == (ids, 2)


def test_the_function_for_the_send_shows_no_payload(
    world: World, sends: Sends, connection: psycopg.Connection[Any]
) -> None:
    callbacks: list[Callable[[], None]] = []
    there: dict[str, Any] = {"connection": connection, "after_commit": callbacks.append}
    world.client.enqueue(sample_one, Sample(do="the value"), task_id="a", **there)
    assert "id='a'" in repr(callbacks)
    assert "the value" not in repr(callbacks)


def test_a_connection_may_have_other_numbers_and_characters(
    world: World, sends: Sends, connection: psycopg.Connection[Any]
) -> None:
    there: dict[str, Any] = {"connection": connection, "after_commit": print}
    connection.adapters.register_loader("float8", NumericLoader)  # makes decimals
    held: dict[str, Any] = {"unique_key": "a", "unique_for": timedelta(hours=1), "process_in": timedelta(minutes=1)}
    for on_conflict in ("raise", "return", "replace"):
        result = world.client.enqueue(sample_one, Sample(), on_conflict=on_conflict, **held, **there)
        assert result.state == "scheduled"
    connection.execute("set client_encoding to latin1")
    with pytest.raises(
        EnqueueError, match=r"^connection: the task has characters that its client_encoding lacks; set it"
    ):
        world.client.enqueue(sample_one, Sample(do="中"), **there)


class Traced:
    """A proxy, as tracers put around connections."""

    def __init__(self, connection: object) -> None:
        self._connection = connection

    @property
    def __class__(self) -> type[Any]:
        return type(self._connection)

    @__class__.setter
    def __class__(self, _: type[Any]) -> None:
        raise TypeError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def test_the_proxy_of_a_tracer_is_a_connection(
    world: World, sends: Sends, connection: psycopg.Connection[Any], django: Any
) -> None:
    callbacks: list[Callable[[], None]] = []
    one = world.client.enqueue(sample_one, Sample(), connection=Traced(connection), after_commit=callbacks.append).id
    connection.commit()
    callbacks.pop()()
    two = world.client.enqueue(sample_one, Sample(), connection=Traced(django)).id
    assert sent(sends) == rows(world) == [one, two]


def test_a_connection_of_another_stage_is_refused(
    world: World, sends: Sends, connection: psycopg.Connection[Any]
) -> None:
    world.run("insert into joblane.stage (prefix) values ('other')")
    with pytest.raises(WrongStageError):
        world.client.enqueue(sample_one, Sample(), connection=connection, after_commit=print)


def test_tables_and_functions_that_the_database_lacks_are_named(
    world: World, sends: Sends, connection: psycopg.Connection[Any], django: Any
) -> None:
    world.run("alter schema joblane rename to elsewhere")
    for there in ({"connection": connection, "after_commit": print}, {"connection": django}):
        with pytest.raises(
            DatabaseUnavailableError, match="the database lacks Joblane's tables: run `joblane migrate`"
        ):
            world.client.enqueue(sample_one, Sample(), **there)
    connection.rollback()
    world.run("alter schema elsewhere rename to joblane")
    world.run(f"drop function joblane.insert_{VERSION}")
    with pytest.raises(DatabaseUnavailableError, match="run `joblane migrate`"):
        world.client.enqueue(sample_one, Sample(), connection=connection, after_commit=print)
    connection.rollback()
    upgrade(world.url)


# --- Django --------------------------------------------------------------------------------------------------------


def test_a_task_commits_with_the_work_of_django(world: World, sends: Sends, django: Any) -> None:
    from django.db import connection, transaction

    order = []
    with transaction.atomic():
        connection.cursor().execute("insert into work values ('100%')")
        first = world.client.enqueue(sample_one, Sample(), connection=connection, headers={"100%": "%s"}).id
        transaction.on_commit(lambda: order.append(len(sends.messages)))
        with suppress(ZeroDivisionError), transaction.atomic():
            world.client.enqueue(sample_one, Sample(), connection=django)
            raise ZeroDivisionError
        with transaction.atomic():
            second = world.client.enqueue(sample_one, Sample(), connection=django).id
        third = world.client.enqueue(sample_one, Sample(), connection=django).id
        with suppress(ZeroDivisionError), transaction.atomic():
            world.client.enqueue(sample_one, Sample(), connection=django)
            raise ZeroDivisionError
        assert (rows(world), sends.messages) == ([], [])
    assert sent(sends) == [first, second, third]
    assert order == [1], "hooks run in their order"
    assert rows(world) == sorted([first, second, third])
    assert world.run("select what from work") == [["100%"]]


def test_a_rollback_of_django_leaves_nothing(world: World, sends: Sends, django: Any) -> None:
    from django.db import transaction

    with transaction.atomic():
        world.client.enqueue(sample_one, Sample(), connection=django)
        transaction.set_rollback(True)
    assert (rows(world), sends.messages) == ([], [])


def test_without_a_transaction_of_django_a_task_commits_and_is_sent_at_once(
    world: World, sends: Sends, django: Any
) -> None:
    id_ = world.client.enqueue(sample_one, Sample(), connection=django).id
    assert (rows(world), sent(sends)) == ([id_], [id_])


def test_many_tasks_of_one_transaction_of_django_are_sent_in_batches(world: World, sends: Sends, django: Any) -> None:
    from django.db import transaction

    with transaction.atomic():
        for _ in range(INLINE_SENDS + 20):
            world.client.enqueue(sample_one, Sample(), connection=django)
    assert len(sent(sends)) == INLINE_SENDS
    assert sends.requests == INLINE_SENDS / 10 + 1  # the sweep is woken for the rest
    assert world.sweep().sent == 20


def test_djangos_tests_see_the_send_of_each_enqueue(world: World, sends: Sends, django: Any) -> None:
    from django.db import transaction
    from django.test import TestCase

    with transaction.atomic():  # as that of a TestCase
        world.client.enqueue(sample_one, Sample(), connection=django, task_id="before")
        for expected in (["before", "a"], ["before", "a", "b"]):
            with TestCase.captureOnCommitCallbacks(execute=True) as callbacks:
                world.client.enqueue(sample_one, Sample(), connection=django, task_id=expected[-1])
            assert len(callbacks) == 1
            assert sent(sends) == expected


def test_what_django_cannot_report_is_refused(world: World, sends: Sends, django: Any) -> None:
    django.set_autocommit(False)
    with pytest.raises(EnqueueError, match=r"connection: its transaction was begun without Django's atomic\(\)"):
        world.client.enqueue(sample_one, Sample(), connection=django)
    callbacks: list[Callable[[], None]] = []
    id_ = world.client.enqueue(sample_one, Sample(), connection=django, after_commit=callbacks.append).id
    django.commit()
    callbacks.pop()()
    django.set_autocommit(True)
    assert sent(sends) == [id_]


# --- Asynchronous connections --------------------------------------------------------------------------------------


class Odd(asyncpg.Record):  # type: ignore[misc]
    """A record whose values have other names."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


Opened = tuple[Any, Callable[[], AbstractAsyncContextManager[Any]]]


@asynccontextmanager
async def asyncpg_connection(url: str) -> AsyncIterator[Opened]:
    """A connection of a pool, with a codec for json, and records of its own class."""

    async def prepare(connection: Any) -> None:
        for name in ("json", "jsonb"):
            await connection.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")

    pool = asyncpg.create_pool(url, min_size=1, max_size=1, init=prepare, record_class=Odd)
    async with pool, pool.acquire() as connection:
        yield connection, connection.transaction


@asynccontextmanager
async def psycopg_connection(url: str) -> AsyncIterator[Opened]:
    connection = await psycopg.AsyncConnection.connect(
        url, row_factory=dict_row, cursor_factory=psycopg.AsyncRawCursor, autocommit=True
    )
    async with connection:
        yield connection, connection.transaction


@pytest.mark.parametrize("opened", [asyncpg_connection, psycopg_connection])
def test_a_task_commits_with_the_work_of_an_asynchronous_connection(
    world: World, sends: Sends, opened: Callable[[str], AbstractAsyncContextManager[Opened]]
) -> None:
    callbacks: list[Callable[[], Awaitable[None]]] = []
    there: dict[str, Any] = {"after_commit": callbacks.append}
    held: dict[str, Any] = {"unique_key": "100%", "unique_for": timedelta(hours=1)}

    async def main() -> list[str]:
        async with opened(world.url) as (connection, transaction):
            there["connection"] = connection
            with pytest.raises(EnqueueError, match=r"connection: it .*has no open transaction, so the task could not"):
                await world.client.aenqueue(sample_one, Sample(), **there)
            with pytest.raises(EnqueueError, match=r"connection: it is asynchronous: use await jobs\.aenqueue\("):
                world.client.enqueue(sample_one, Sample(), **there)
            async with transaction():
                await connection.execute("insert into work values ('done')")
                one = await world.client.aenqueue(sample_one, Sample(do="%s"), **held, **there)
                again = await world.client.aenqueue(sample_one, Sample(), on_conflict="return", **held, **there)
                assert (again.id, again.created) == (one.id, False)
                many = await world.client.aenqueue_many(
                    [Job(sample_one, Sample(), task_id=id_) for id_ in ("a", "b", one.id)], **there
                )
                assert isinstance(many[2], TaskIdConflictError)
                with suppress(ZeroDivisionError):
                    async with transaction():
                        await world.client.aenqueue(sample_one, Sample(), task_id="gone", **there)
                        raise ZeroDivisionError
                assert (rows(world), sends.messages) == ([], [])
            assert sends.messages == []
            for send in callbacks[:-1]:
                await send()
            return [one.id, "a", "b"]

    ids = asyncio.run(main())
    assert rows(world) == sorted(ids)
    assert list(dict.fromkeys(sent(sends))) == ids
    assert world.run("select what from work") == [["done"]]


# --- Sends and arguments -------------------------------------------------------------------------------------------


def test_a_send_that_fails_is_a_warning_and_not_an_error_of_the_caller(
    world: World, sends: Sends, django: Any, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import transaction

    def fail(entries: Sequence[Entry], **_: Any) -> dict[int, str]:
        if is_before_commit(entries[0].body):
            return {}
        raise RuntimeError("no queue")

    callbacks: list[Callable[[], None]] = []
    lines = logged(monkeypatch)
    monkeypatch.setattr(world.client._producer._sqs, "send_many", fail)
    with transaction.atomic():
        world.client.enqueue(sample_one, Sample(), connection=django, task_id="a")
    world.client.enqueue(sample_one, Sample(), connection=connection, after_commit=callbacks.append, task_id="b")
    connection.commit()
    callbacks.pop()()
    assert [line["error"] for line in lines] == ["no queue"] * 2
    assert rows(world) == ["a", "b"]


def logged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return the list of the extras of warnings from now on."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(telemetry.logger(), "warning", lambda *_, extra: lines.append(extra))
    return lines


class Stranger:
    pass


class Pool:
    pass


class KeepLater:
    async def __call__(self, send: Callable[[], None]) -> None:
        pass


async def keep_later(send: Callable[[], None]) -> None:
    pass


def test_a_wrong_connection_is_named_with_what_would_be_right(
    world: World, sends: Sends, connection: psycopg.Connection[Any]
) -> None:
    engine = create_engine("sqlite://")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"connection": connection}, "after_commit: required with this connection, because its driver does not report"),
        ({"connection": connection, "session": Session()}, "connection: give session or connection, not both"),
        ({"after_commit": print}, "after_commit: only with connection"),
        (
            {"connection": Stranger()},
            "a connection of psycopg or of Django is required, not tests.Stranger",
        ),
        ({"connection": Pool()}, r"not tests\.Pool; take a connection from it"),
        ({"connection": engine.connect()}, r"not sqlalchemy.Connection; for SQLAlchemy's give session="),
        ({"connection": connection, "after_commit": []}, "after_commit: a plain function .* is required, .* not list"),
        *(
            ({"connection": connection, "after_commit": keep}, "after_commit: a plain function .* not an asynchronous")
            for keep in (keep_later, KeepLater())
        ),
        ({"session": connection}, "Session is required, not Connection; give a driver's connection as connection="),
        ({"session": Session(engine)}, "session: a session on PostgreSQL is required, not on sqlite"),
        ({"session": Session()}, r"session: it has no default database, .* for example Session\(engine, binds=…\)"),
    ]
    for arguments, message in refused:
        with pytest.raises(EnqueueError, match=message):
            world.client.enqueue(sample_one, Sample(), **arguments)
    assert connection.execute("select id from joblane.tasks").fetchall() == []
    for given, message in (
        ({"connection": connection}, r"connection: it is not asynchronous: use jobs\.enqueue\(.* in a thread"),
        (
            {"connection": Stranger()},
            "a connection of asyncpg, or an AsyncConnection of psycopg is required, not",
        ),
    ):
        with pytest.raises(EnqueueError, match=message):
            asyncio.run(world.client.aenqueue(sample_one, Sample(), after_commit=print, **given))
    assert (rows(world), sends.messages) == ([], [])
    engine.dispose()
