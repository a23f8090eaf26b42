"""The adapters of the caller's own drivers: connections of psycopg, asyncpg and Django.

No driver is imported here before the caller has used it: a connection is recognised by the module of its class.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from joblane.enqueue.transaction import INLINE_SENDS, CallersTransaction, lacking
from joblane.errors import DatabaseUnavailableError, EnqueueError

if TYPE_CHECKING:
    from joblane.enqueue.insert import Execute
    from joblane.enqueue.signals import Signalled
    from joblane.enqueue.transaction import AfterCommit, AsyncAfterCommit, InThread, Send
    from joblane.record.task.insert import NewTask

SYNC = "a connection of psycopg or of Django"
ASYNC = "a connection of asyncpg, or an AsyncConnection of psycopg"


class DriverTransaction(CallersTransaction):
    """The open transaction of a connection."""

    def __init__(self, connection: Any, after_commit: Callable[[Any], object] | None) -> None:
        """Raises :class:`EnqueueError` if the task could not commit together with the caller's work."""
        self.connection = connection
        if after_commit is None:
            self.need_after_commit()
        elif (
            not callable(after_commit)
            or iscoroutinefunction(after_commit)
            or iscoroutinefunction(type(after_commit).__call__)
        ):
            given = "an asynchronous one" if callable(after_commit) else type(after_commit).__name__
            raise EnqueueError(
                "after_commit",
                f"a plain function that keeps a callback is required, like callbacks.append, not {given}",
            )
        self.keep = after_commit

    def join(self, send: Send, in_thread: InThread) -> None:
        self._send, self._in_thread = send, in_thread

    def need_after_commit(self) -> None:
        raise EnqueueError(
            "after_commit",
            "required with this connection, because its driver does not report the commit: give callbacks.append of a "
            f"list, and after the commit {'await' if self.is_async else 'call'} each of the callbacks",
        )

    def run(self, sql: str, *documents: str | None) -> list[Sequence[Any]]:
        try:
            return [row for document in documents for row in self.rows(sql, document)]
        except UnicodeEncodeError:
            message = "the task has characters that its client_encoding lacks; set it to UTF8"
            raise EnqueueError("connection", message) from None  # the error has the payload
        except Exception as error:
            if lack := lacking(error) or (error.__cause__ and lacking(error.__cause__)):
                raise DatabaseUnavailableError(lack) from error
            raise

    @abstractmethod
    def rows(self, sql: str, document: str | None) -> Sequence[Sequence[Any]]:
        """Run a statement with the parameter ``$1``, and return its rows."""

    def send_later(self, tasks: Sequence[NewTask | Signalled]) -> None:
        if self.keep is not None:
            send = partial(self._send, tasks)
            self.keep(partial(self._in_thread, send) if self.is_async else send)


class Psycopg(DriverTransaction):
    """A transaction of psycopg 3."""

    def __init__(self, connection: Any, after_commit: AfterCommit | AsyncAfterCommit | None) -> None:
        from psycopg.pq import TransactionStatus

        super().__init__(connection, after_commit)
        status = connection.info.transaction_status
        # in a pipeline the server may not have answered a BEGIN yet, so psycopg's own count of the open blocks is read
        in_block = getattr(connection, "_num_transactions", 0) > 0
        if connection.autocommit and not in_block and status in (TransactionStatus.IDLE, TransactionStatus.ACTIVE):
            raise EnqueueError(
                "connection",
                "it is in autocommit mode and has no open transaction, so the task could not commit together with your "
                f"work; enqueue inside {'async ' * self.is_async}with connection.transaction():, or without connection",
            )
        self.database = connection.info.host, connection.info.port, connection.info.dbname

    def rows(self, sql: str, document: str | None) -> Sequence[Sequence[Any]]:
        from psycopg import Cursor
        from psycopg.rows import tuple_row

        with Cursor(self.connection, row_factory=tuple_row) as cursor:  # whatever class and rows the connection has
            return cursor.execute(*_pyformat(sql, document)).fetchall()


class AsyncPsycopg(Psycopg):
    """A transaction of an ``AsyncConnection`` of psycopg 3."""

    is_async = True

    def rows(self, sql: str, document: str | None) -> Sequence[Sequence[Any]]:
        from sqlalchemy.util import await_only

        return await_only(self._rows(sql, document))

    async def _rows(self, sql: str, document: str | None) -> Sequence[Sequence[Any]]:
        from psycopg import AsyncCursor
        from psycopg.rows import tuple_row

        async with AsyncCursor(self.connection, row_factory=tuple_row) as cursor:
            await cursor.execute(*_pyformat(sql, document))
            return await cursor.fetchall()


class Asyncpg(DriverTransaction):
    """A transaction of asyncpg."""

    is_async = True

    def __init__(self, connection: Any, after_commit: AsyncAfterCommit | None) -> None:
        super().__init__(connection, after_commit)
        if not connection.is_in_transaction():
            raise EnqueueError(
                "connection",
                "it has no open transaction, so the task could not commit together with your work; enqueue inside "
                "async with connection.transaction():, or without connection",
            )
        parameters = getattr(connection, "_params", None)
        if parameters is not None:
            self.database = getattr(connection, "_addr", None), parameters.database

    def rows(self, sql: str, document: str | None) -> Sequence[Sequence[Any]]:
        from asyncpg import Record
        from sqlalchemy.util import await_only

        documents = () if document is None else (document,)
        # a text, because the connection may have a codec of its own for json
        rows = await_only(self.connection.fetch(_as_text(sql), *documents, record_class=Record))
        return [tuple(row) for row in rows]


class Django(DriverTransaction):
    """A transaction of Django, which reports its commit."""

    def __init__(self, connection: Any, after_commit: AfterCommit | None) -> None:
        super().__init__(connection, after_commit)
        if connection.vendor != "postgresql":
            raise EnqueueError("connection", f"a connection to PostgreSQL is required, not to {connection.vendor}")
        if after_commit is None and not (connection.in_atomic_block or connection.get_autocommit()):
            raise EnqueueError(
                "connection",
                "its transaction was begun without Django's atomic(), and Django does not report its commit; use "
                "atomic(), or give after_commit",
            )
        settings = connection.settings_dict
        self.database = settings["HOST"], settings["PORT"], settings["NAME"]

    def need_after_commit(self) -> None:
        pass

    @contextmanager
    def together(self) -> Iterator[Execute]:
        from django.db.transaction import atomic

        is_open = self.connection.in_atomic_block or not self.connection.get_autocommit()
        with nullcontext() if is_open else atomic(using=self.connection.alias):
            yield self.run

    @property
    def room(self) -> int:
        room = INLINE_SENDS
        for _, hook, *_ in self.connection.run_on_commit:
            if isinstance(hook, OnCommit):
                room -= len(hook.tasks)
                if room <= 0:  # there may be thousands of others
                    return 0
        return room

    def run(self, sql: str, *documents: str | None) -> list[Sequence[Any]]:
        if len(documents) == 1 or self.connection.in_atomic_block:
            return super().run(sql, *documents)
        from django.db import transaction

        with transaction.atomic(using=self.connection.alias):
            return super().run(sql, *documents)

    def rows(self, sql: str, document: str | None) -> Sequence[Sequence[Any]]:
        with self.connection.cursor() as cursor:
            cursor.execute(*_pyformat(sql, document))
            rows: Sequence[Sequence[Any]] = cursor.fetchall()
            return rows

    def send_later(self, tasks: Sequence[NewTask | Signalled]) -> None:
        if self.keep is not None:
            super().send_later(tasks)
            return
        hooks = self.connection.run_on_commit
        savepoints, last, *_ = hooks[-1] if hooks else (None, None)
        unsent: list[NewTask | Signalled] = []
        if isinstance(last, OnCommit) and last.send == self._send and savepoints == set(self.connection.savepoint_ids):
            unsent = last.unsent
        self.connection.on_commit(OnCommit(self._send, tasks, unsent))


class OnCommit:
    """The send after a commit of Django. Django forgets it with the savepoint in which it was made.

    Each enqueue has its own, so that Django's ``captureOnCommitCallbacks`` sees it. The first of those that commit or
    roll back together sends the messages of all.
    """

    def __init__(self, send: Send, tasks: Sequence[NewTask | Signalled], unsent: list[NewTask | Signalled]) -> None:
        self.send = send
        self.tasks = tasks
        self.unsent = unsent
        unsent += tasks

    def __call__(self) -> None:
        tasks = self.unsent.copy()
        self.unsent.clear()
        if tasks:
            self.send(tasks)


ADAPTERS: dict[tuple[str, str], type[DriverTransaction]] = {
    ("psycopg", "Connection"): Psycopg,
    ("psycopg", "AsyncConnection"): AsyncPsycopg,
    ("asyncpg", "Connection"): Asyncpg,
    ("asyncpg", "PoolConnectionProxy"): Asyncpg,
    ("django", "BaseDatabaseWrapper"): Django,
    ("django", "ConnectionProxy"): Django,
}
"""Package and name of a class → its adapter."""


def opened(
    connection: Any, after_commit: Callable[[Any], object] | None, session: object, *, is_async: bool
) -> DriverTransaction:
    """Return the open transaction of a caller's connection. Raises :class:`EnqueueError`."""
    if connection is None:
        raise EnqueueError("after_commit", "only with connection; a session reports its commit by itself")
    if session is not None:
        raise EnqueueError("connection", "give session or connection, not both")
    shown = connection.__class__  # a tracer's proxy shows the class of the connection in it
    names = [(base.__module__.partition(".")[0], base.__name__) for base in shown.__mro__]
    kind = next((ADAPTERS[name] for name in names if name in ADAPTERS), None)
    if kind is None:
        given = "psycopg2's" if names[0][0] == "psycopg2" else f"{names[0][0]}.{names[0][1]}"
        advice = "for SQLAlchemy's give session=" if names[0][0] == "sqlalchemy" else "or give an SQLAlchemy session="
        advice = "take a connection from it" if names[0][1].endswith("Pool") else advice
        raise EnqueueError("connection", f"{ASYNC if is_async else SYNC} is required, not {given}; {advice}")
    if kind.is_async and not is_async:
        raise EnqueueError("connection", "it is asynchronous: use await jobs.aenqueue(task, payload, connection=…)")
    if is_async and not kind.is_async:
        raise EnqueueError(
            "connection",
            "it is not asynchronous: use jobs.enqueue(task, payload, connection=…), in a function that runs in a "
            f"thread{', with sync_to_async' if kind is Django else ''}",
        )
    return kind(connection, after_commit)


def _pyformat(sql: str, document: str | None) -> tuple[Any, dict[str, str] | None]:
    """Return a statement and its parameters for psycopg and Django."""
    return (sql, None) if document is None else (_with_names(sql), {"document": document})


@cache
def _with_names(sql: str) -> str:
    return sql.replace("%", "%%").replace("$1", "%(document)s")


@cache
def _as_text(sql: str) -> str:
    return sql.replace("$1", "cast($1 as text)")
