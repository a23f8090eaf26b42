"""The transports of an enqueue, with the caller's side of each: a transaction, a savepoint, a write of its own.

The callers of asynchronous transports are written without ``await``: an event loop runs each of their steps.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, ClassVar

import asyncpg
import psycopg
from psycopg.rows import dict_row
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from joblane import Enqueued, JobError
from joblane.sqs.message import decode
from joblane.tasks.job import Job
from tests.django_database import django_database
from tests.samples import Sample, sample_one
from tests.sends import Sends
from tests.world import World

LANE = "jobs-default-sample-one"
WORK = "insert into work values ('100%')"


def sends_of(world: World) -> Sends:
    """Return the sends of a world's client, with a table for the caller's work."""
    world.lane(sample_one)
    world.client._producer.sqs = world.sqs
    world.run("create table work (what text unique deferrable initially deferred)")
    return Sends.of(world.sqs)


def sent(sends: Sends) -> list[str | None]:
    """Return the ids of the messages that were sent to the lane."""
    return [decode(entry["MessageBody"]).id for entry in sends.to(LANE)]


def rows(world: World) -> list[str]:
    return [row[0] for row in world.run("select id from joblane.tasks order by id")]


class Transport(ABC):
    """A caller with one connection, whose transactions commit at the end of their blocks."""

    is_async: ClassVar[bool] = False
    counts: ClassVar[bool] = True
    """The library knows how many messages the transaction sends already."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        self.world, self.stack = world, stack
        self.there: dict[str, Any] = {}
        """The arguments by which an enqueue joins the caller's transaction."""
        self.close: Callable[[], object]
        """Closes a session without a commit."""

    @abstractmethod
    def begin(self) -> AbstractContextManager[object]:
        """A transaction."""

    @abstractmethod
    def savepoint(self) -> AbstractContextManager[object]:
        """A savepoint in it."""

    @abstractmethod
    def work(self) -> None:
        """Write a row, which may exist once."""

    def enqueue(self, task_id: str | None = None, **options: Any) -> Enqueued:
        return self.world.client.enqueue(sample_one, Sample(), task_id=task_id, **self.there, **options)

    def enqueue_many(self, jobs: Sequence[Job]) -> list[Enqueued | JobError]:
        return self.world.client.enqueue_many(jobs, **self.there)

    def signal(self, task_id: str, value: Any = None) -> bool:
        return self.world.client.signal(task_id, "approval", value, **self.there)

    def enqueue_by_the_other_call(self) -> None:
        """Use the call that is not for this transport."""
        asyncio.run(self.world.client.aenqueue(sample_one, Sample(), **self.there))


class OwnConnection(Transport):
    """The client's own: each call is a transaction."""

    def begin(self) -> AbstractContextManager[object]:
        return nullcontext()

    savepoint = begin

    def work(self) -> None:
        self.world.run(WORK)


class PlainSession(Transport):
    """A pool of one connection, which the library must not need."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        super().__init__(world, stack)
        url = world.url.replace("postgresql://", "postgresql+pg8000://")
        engine = create_engine(url, pool_size=1, max_overflow=0)
        stack.callback(engine.dispose)
        self.session = stack.enter_context(Session(engine))
        self.there, self.close = {"session": self.session}, self.session.close

    def begin(self) -> AbstractContextManager[object]:
        return self.session.begin()

    def savepoint(self) -> AbstractContextManager[object]:
        return self.session.begin_nested()

    def work(self) -> None:
        self.session.execute(text(WORK))


class Callbacks(Transport):
    """A driver that does not report its commit, with a caller that drops the callbacks of what it rolls back."""

    counts = False

    def __init__(self, world: World, stack: ExitStack) -> None:
        super().__init__(world, stack)
        self.callbacks: list[Callable[[], Any]] = []
        self.there = {"after_commit": self.callbacks.append}

    @contextmanager
    def begin(self) -> Iterator[None]:
        self.callbacks.clear()
        with self.transaction():
            yield
        for send in self.callbacks:
            self.call(send)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        kept = len(self.callbacks)
        try:
            with self.transaction():
                yield
        except BaseException:
            del self.callbacks[kept:]
            raise

    @abstractmethod
    def transaction(self) -> AbstractContextManager[object]: ...

    def call(self, send: Callable[[], Any]) -> None:
        send()


class Psycopg(Callbacks):
    """A connection whose rows are dictionaries, and whose cursors take ``$1``."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        super().__init__(world, stack)
        self.connection: psycopg.Connection[Any] = stack.enter_context(
            psycopg.connect(world.url, row_factory=dict_row, cursor_factory=psycopg.RawCursor)
        )
        self.there["connection"] = self.connection

    def transaction(self) -> AbstractContextManager[object]:
        return self.connection.transaction()

    def work(self) -> None:
        self.connection.execute(WORK)


class Django(Transport):
    def __init__(self, world: World, stack: ExitStack) -> None:
        super().__init__(world, stack)
        self.connection = stack.enter_context(django_database(world.url))
        self.there = {"connection": self.connection}

    def begin(self) -> AbstractContextManager[object]:
        from django.db import transaction

        atomic: AbstractContextManager[object] = transaction.atomic()
        return atomic

    savepoint = begin

    def work(self) -> None:
        self.connection.cursor().execute(WORK)


class Loop(Transport):
    """The parts of asynchronous transports."""

    is_async = True

    def __init__(self, world: World, stack: ExitStack) -> None:
        super().__init__(world, stack)
        self.runner = stack.enter_context(asyncio.Runner())

    def run(self, awaitable: Awaitable[Any]) -> Any:
        async def main() -> Any:
            return await awaitable

        return self.runner.run(main())

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[Any]) -> Iterator[Any]:
        entered = self.run(manager.__aenter__())
        try:
            yield entered
        except BaseException as error:
            if not self.run(manager.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            self.run(manager.__aexit__(None, None, None))

    def enqueue(self, task_id: str | None = None, **options: Any) -> Enqueued:
        enqueued: Enqueued = self.run(
            self.world.client.aenqueue(sample_one, Sample(), task_id=task_id, **self.there, **options)
        )
        return enqueued

    def signal(self, task_id: str, value: Any = None) -> bool:
        accepted: bool = self.run(self.world.client.asignal(task_id, "approval", value, **self.there))
        return accepted

    def enqueue_many(self, jobs: Sequence[Job]) -> list[Enqueued | JobError]:
        results: list[Enqueued | JobError] = self.run(self.world.client.aenqueue_many(jobs, **self.there))
        return results

    def enqueue_by_the_other_call(self) -> None:
        self.world.client.enqueue(sample_one, Sample(), **self.there)


class LoopSession(Loop):
    driver: ClassVar[str]

    def __init__(self, world: World, stack: ExitStack) -> None:
        super().__init__(world, stack)
        url = world.url.replace("postgresql://", f"postgresql+{self.driver}://")
        engine = create_async_engine(url, pool_size=1, max_overflow=0)
        stack.callback(lambda: self.run(engine.dispose()))
        self.session = stack.enter_context(self.entered(AsyncSession(engine)))
        self.there, self.close = {"session": self.session}, lambda: self.run(self.session.close())

    def begin(self) -> AbstractContextManager[object]:
        return self.entered(self.session.begin())

    def savepoint(self) -> AbstractContextManager[object]:
        return self.entered(self.session.begin_nested())

    def work(self) -> None:
        self.run(self.session.execute(text(WORK)))


class AsyncpgSession(LoopSession):
    driver = "asyncpg"


class PsycopgSession(LoopSession):
    driver = "psycopg"


class LoopCallbacks(Loop, Callbacks):
    connection: Any

    def transaction(self) -> AbstractContextManager[object]:
        return self.entered(self.connection.transaction())

    def call(self, send: Callable[[], Any]) -> None:
        self.run(send())

    def work(self) -> None:
        self.run(self.connection.execute(WORK))


class OddRecord(asyncpg.Record):  # type: ignore[misc]
    """A record whose values have other names."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Asyncpg(LoopCallbacks):
    """A connection of a pool, with a codec for json, and records of its own class."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        super().__init__(world, stack)

        async def prepare(connection: Any) -> None:
            for name in ("json", "jsonb"):
                await connection.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")

        async def pool_of() -> Any:
            return asyncpg.create_pool(world.url, min_size=1, max_size=1, init=prepare, record_class=OddRecord)

        pool = stack.enter_context(self.entered(self.run(pool_of())))
        self.connection = self.there["connection"] = stack.enter_context(self.entered(pool.acquire()))


class AsyncPsycopg(LoopCallbacks):
    """A connection in autocommit mode, whose rows are dictionaries, and whose cursors take ``$1``."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        super().__init__(world, stack)
        opening = psycopg.AsyncConnection.connect(
            world.url, row_factory=dict_row, cursor_factory=psycopg.AsyncRawCursor, autocommit=True
        )
        self.connection = self.there["connection"] = stack.enter_context(self.entered(self.run(opening)))


SESSIONS: tuple[type[Transport], ...] = (PlainSession, AsyncpgSession, PsycopgSession)
JOINED: tuple[type[Transport], ...] = (*SESSIONS, Psycopg, AsyncPsycopg, Asyncpg, Django)
"""The transports whose caller has a transaction."""
ALL = (OwnConnection, *JOINED)
