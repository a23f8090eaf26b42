"""Connections of psycopg, asyncpg and Django: the parts that they share with no other transport."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.numeric import NumericLoader
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from joblane.errors import EnqueueError
from tests.django_database import django_database
from tests.samples import Sample, sample_one
from tests.sends import Sends
from tests.transports import rows, sent
from tests.world import World


@pytest.fixture
def connection(world: World) -> Iterator[psycopg.Connection[Any]]:
    """A connection whose rows are dictionaries, and whose cursors take ``$1``."""
    with psycopg.connect(world.url, row_factory=dict_row, cursor_factory=psycopg.RawCursor, autocommit=False) as made:
        yield made


@pytest.fixture
def django(world: World) -> Iterator[Any]:
    if sys.version_info < (3, 12):
        pytest.skip("joblane.django needs Django 6, which needs Python 3.12")
    with django_database(world.url) as connection:
        yield connection


# --- psycopg -------------------------------------------------------------------------------------------------------


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


# --- Django --------------------------------------------------------------------------------------------------------


def test_the_sends_and_the_hooks_of_django_run_in_their_order(world: World, sends: Sends, django: Any) -> None:
    from django.db import connection, transaction

    order = []
    with transaction.atomic():
        first = world.client.enqueue(sample_one, Sample(), connection=connection).id
        transaction.on_commit(lambda: order.append(len(sends.messages)))
        with transaction.atomic():
            second = world.client.enqueue(sample_one, Sample(), connection=django).id
    assert (sent(sends), order) == ([first, second], [1])


def test_without_a_transaction_of_django_a_task_commits_and_is_sent_at_once(
    world: World, sends: Sends, django: Any
) -> None:
    id_ = world.client.enqueue(sample_one, Sample(), connection=django).id
    assert (rows(world), sent(sends)) == ([id_], [id_])


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


# --- Arguments -----------------------------------------------------------------------------------------------------


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
    with pytest.raises(EnqueueError, match=r"connection: it is not asynchronous: use jobs\.enqueue\(.* in a thread"):
        asyncio.run(world.client.aenqueue(sample_one, Sample(), after_commit=print, connection=connection))
    assert (rows(world), sends.messages) == ([], [])
    engine.dispose()
