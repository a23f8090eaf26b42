"""The adapter of a session of SQLAlchemy: plain, or the one inside an ``AsyncSession``, in its greenlet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import Error as PostgresError

from joblane.enqueue.outbox import Outbox
from joblane.enqueue.transaction import INLINE_SENDS, CallersTransaction, lacking
from joblane.errors import DatabaseUnavailableError, EnqueueError, text_of

if TYPE_CHECKING:
    from sqlalchemy import Connection, TextClause
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    from joblane.enqueue.transaction import InThread, Send
    from joblane.record.task.insert import NewTask

    AnySession = Session | scoped_session[Any]
    AnyAsyncSession = AsyncSession | async_scoped_session[Any]


class SessionTransaction(CallersTransaction):
    """The transaction of a session."""

    def __init__(self, session: AnySession) -> None:
        self._given = session

    def join(self, send: Send, in_thread: InThread) -> None:
        self.session, connection = opened(self._given)
        self.is_async = connection.dialect.is_async
        self.database = connection.engine
        self._outbox = Outbox.of(self.session, send, in_thread)

    def run(self, sql: str, *documents: str | None) -> list[Sequence[Any]]:
        return [row for document in documents for row in _executed(self.session, sql, document)]

    @property
    def room(self) -> int:
        return max(0, INLINE_SENDS - self._outbox.waiting(self.session))

    def send_later(self, tasks: Sequence[NewTask]) -> None:
        self._outbox.add(self.session, tasks)


def opened(session: AnySession) -> tuple[Session, Connection]:
    """Return the session that a ``scoped_session`` has now, and the connection of its transaction.

    Raises :class:`EnqueueError` for anything else, and for a session whose statements commit by themselves.
    """
    from sqlalchemy.exc import UnboundExecutionError
    from sqlalchemy.orm import Session, scoped_session

    if hasattr(session, "run_sync"):
        raise EnqueueError(
            "session",
            "a plain Session is required; with an AsyncSession use await jobs.aenqueue(task, payload, session=session)"
            ", or for a batch await session.run_sync(function), whose first argument is the plain session",
        )
    if not isinstance(session, (Session, scoped_session)):
        raise EnqueueError("session", f"an SQLAlchemy Session is required, not {_named(session)}")
    session = session() if isinstance(session, scoped_session) else session  # a registry would give others later
    try:
        connection = session.connection()
    except UnboundExecutionError as error:
        raise EnqueueError(
            "session",
            "it has no default database, where the task would be written; give it the engine of Joblane's tables, "
            "for example Session(engine, binds=…)",
        ) from error
    if connection.dialect.name != "postgresql":
        raise EnqueueError("session", f"a session on PostgreSQL is required, not on {connection.dialect.name}")
    if getattr(connection.connection.dbapi_connection, "autocommit", False):
        raise EnqueueError(
            "session",
            "its connection is in AUTOCOMMIT, so the task could not commit together with your work; use an engine "
            "without this isolation level, or enqueue without session",
        )
    return session, connection


def asynchronous(session: AnyAsyncSession) -> AsyncSession:
    """Return the session that an ``async_scoped_session`` has now. Raises :class:`EnqueueError` for anything else."""
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    if isinstance(session, (Session, scoped_session)):
        raise EnqueueError("session", "with a plain Session use jobs.enqueue(task, payload, session=session)")
    if not isinstance(session, (AsyncSession, async_scoped_session)):
        raise EnqueueError("session", f"an SQLAlchemy AsyncSession is required, not {_named(session)}")
    return session() if isinstance(session, async_scoped_session) else session


def _named(given: object) -> str:
    name = type(given).__name__
    return f"{name}; give a driver's connection as connection=" if "Connection" in name else name


def _executed(session: Session, sql: str, document: str | None) -> Sequence[Sequence[Any]]:
    """Run a statement of Joblane in a session, and return its rows.

    Raises :class:`DatabaseUnavailableError` if the database lacks Joblane's tables or functions.
    """
    from sqlalchemy.exc import StatementError

    statement = _statement(sql)
    try:
        return session.execute(statement, None if document is None else {"document": document}).all()
    except StatementError as error:
        if "joblane." in (error.statement or ""):  # not a flush of the caller's objects
            error.hide_parameters = True  # payloads
            if lack := lacking(error):
                raise DatabaseUnavailableError(lack) from error
        raise


@contextmanager
def translated() -> Iterator[None]:
    """Raise :class:`DatabaseUnavailableError` in the place of a driver's error."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (DBAPIError, PostgresError, OSError) as error:
        raise DatabaseUnavailableError(f"the database is unavailable: {text_of(error)}") from error


@cache
def _statement(sql: str) -> TextClause:
    """Return an SQL text for a session. It is made once, because SQLAlchemy reads it by a regular expression."""
    from sqlalchemy import text

    return text(sql.replace("$1", ":document"))
