"""The caller's SQLAlchemy session, and the statements of an enqueue in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import Error as PostgresError

from joblane.errors import UNDEFINED_FUNCTION, DatabaseUnavailableError, EnqueueError, sqlstate, text_of
from joblane.record.driver.stage import NOT_MIGRATED
from joblane.record.sql_functions import VERSION

if TYPE_CHECKING:
    from sqlalchemy import TextClause
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    AnySession = Session | scoped_session[Any]
    AnyAsyncSession = AsyncSession | async_scoped_session[Any]

NO_FUNCTIONS = f"the database lacks the functions of this code, version {VERSION}: run `joblane migrate` of this code"
NO_TABLES = "the database lacks Joblane's tables: run `joblane migrate`, or connect to the database that has them"
LACKS = {UNDEFINED_FUNCTION: NO_FUNCTIONS, **dict.fromkeys(NOT_MIGRATED, NO_TABLES)}
"""SQLSTATE → what is wrong."""


def plain(session: AnySession) -> Session:
    """Return the session that a ``scoped_session`` has now.

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
    return session


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


def runner(session: Session) -> Callable[..., list[list[Any]]]:
    """Return the function by which :func:`insert_tasks` runs its statements in a session."""

    def run(sql: str, *documents: str) -> list[list[Any]]:
        return [list(row) for one in documents for row in executed(session, sql, document=one)]

    return run


def executed(session: Session, sql: str, **parameters: str) -> Sequence[Sequence[Any]]:
    """Run a statement of Joblane in a session, and return its rows.

    Raises :class:`DatabaseUnavailableError` if the database lacks Joblane's tables or functions.
    """
    from sqlalchemy.exc import StatementError

    statement = _statement(sql)
    try:
        return session.execute(statement, parameters).all()
    except StatementError as error:
        if "joblane." in (error.statement or ""):  # not a flush of the caller's objects
            error.hide_parameters = True  # payloads
            if lack := lacking(error):
                raise DatabaseUnavailableError(lack) from error
        raise


def lacking(error: BaseException) -> str | None:
    """Return what Joblane's database lacks, by the error of a driver. None: another error."""
    original = getattr(error, "orig", None)
    codes = (sqlstate(error), getattr(original, "sqlstate", None), getattr(original, "pgcode", None))
    return next((LACKS[code] for code in codes if code in LACKS), None)


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
