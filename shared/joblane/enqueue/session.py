"""The adapter of a session of SQLAlchemy: plain, or the one inside an ``AsyncSession``, in its greenlet.

Its outbox has the tasks whose messages are sent after the commit, which SQLAlchemy reports, and the signalled tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import Error as PostgresError

from joblane.enqueue.transaction import INLINE_SENDS, CallersTransaction, lacking
from joblane.errors import DatabaseUnavailableError, EnqueueError, text_of

if TYPE_CHECKING:
    from sqlalchemy import Connection, TextClause
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    from joblane.enqueue.signals import Signalled
    from joblane.enqueue.transaction import InThread, Send
    from joblane.record.task.insert import NewTask

    AnySession = Session | scoped_session[Any]
    AnyAsyncSession = AsyncSession | async_scoped_session[Any]


INSIDE = (
    "it belongs to an AsyncSession, which a plain call cannot wait for; give the AsyncSession to await jobs.aenqueue(…)"
)


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

    def send_later(self, tasks: Sequence[NewTask | Signalled]) -> None:
        self._outbox.add(self.session, tasks)


def opened(session: AnySession) -> tuple[Session, Connection]:
    """Return the session that a ``scoped_session`` has now, and the connection of its transaction.

    Raises :class:`EnqueueError` for anything else, and for a session whose statements commit by themselves.
    """
    from sqlalchemy.exc import MissingGreenlet, UnboundExecutionError
    from sqlalchemy.orm import Session, scoped_session

    if hasattr(session, "run_sync"):
        raise EnqueueError(
            "session",
            "a plain Session is required; an AsyncSession goes to the call whose name begins with an a: await "
            "jobs.aenqueue(…), async with jobs.abatch(…), await jobs.schedules.aput(…)",
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
    except MissingGreenlet as error:
        raise EnqueueError("session", INSIDE) from error
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
        raise EnqueueError(
            "session", "with a plain Session use jobs.enqueue(task, payload, session=session), or jobs.batch(…)"
        )
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
    from sqlalchemy.exc import MissingGreenlet, StatementError

    statement = _statement(sql)
    try:
        return session.execute(statement, None if document is None else {"document": document}).all()
    except StatementError as error:
        if "joblane." in (error.statement or ""):  # not a flush of the caller's objects
            error.hide_parameters = True  # payloads
            if lack := lacking(error):
                raise DatabaseUnavailableError(lack) from error
        raise
    except MissingGreenlet as error:
        raise EnqueueError("session", INSIDE) from error


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


class Outbox:
    """The tasks of a session's open transaction.

    They are forgotten if the transaction is rolled back, or a savepoint in which they were enqueued.
    """

    KEY = "joblane.outbox"

    def __init__(self, send: Send, in_thread: InThread) -> None:
        self._send = send
        self._in_thread = in_thread
        self._transaction: Any = None
        self._tasks: list[tuple[NewTask | Signalled, Any]] = []  # each with its savepoint, None without one
        self._committed: list[NewTask | Signalled] = []

    @classmethod
    def of(cls, session: Session, send: Send, in_thread: InThread) -> Outbox:
        """Return the session's outbox for a client's ``send``. The first call listens to the session's commits."""
        from sqlalchemy import event

        outboxes: dict[Send, Outbox] = session.info.setdefault(cls.KEY, {})
        if send not in outboxes:
            outbox = outboxes[send] = cls(send, in_thread)
            event.listen(session, "after_commit", outbox.committed)
            event.listen(session, "after_soft_rollback", outbox.rolled_back)
            event.listen(session, "after_transaction_end", outbox.ended)
        return outboxes[send]

    def waiting(self, session: Session) -> int:
        """Return the number of tasks that the open transaction has enqueued so far."""
        if self._transaction is not session.get_transaction():
            self._tasks = []
        return len(self._tasks)

    def add(self, session: Session, tasks: Sequence[NewTask | Signalled]) -> None:
        self.waiting(session)
        self._transaction, savepoint = session.get_transaction(), session.get_nested_transaction()
        self._tasks += [(task, savepoint) for task in tasks]

    def rolled_back(self, _: Session, transaction: Any) -> None:
        """Forget the tasks of a savepoint, and of those within it."""
        self._tasks = [(task, savepoint) for task, savepoint in self._tasks if not _is_within(savepoint, transaction)]

    def committed(self, session: Session) -> None:
        """Note that the tasks are committed. SQLAlchemy also calls this at the release of a savepoint, which is no
        commit.

        A session can be part of a transaction of its caller, whose commit SQLAlchemy does not report afterwards. Then
        the sweep sends the messages.
        """
        if session.in_nested_transaction() or not self.waiting(session):
            return
        tasks, self._tasks = [task for task, _ in self._tasks], []
        if not _is_joined(session):
            self._committed += tasks

    def ended(self, session: Session, _: object) -> None:
        """Send the messages of committed tasks.

        The transaction has ended by now: its connection is in the pool again, and an exception, such as the
        cancellation of an asynchronous caller, cannot leave the session between two states.
        """
        if not self._committed:
            return
        tasks, self._committed = self._committed, []
        if not session.get_bind().dialect.is_async:
            self._send(tasks)
            return
        from sqlalchemy.util import await_only

        await_only(self._in_thread(partial(self._send, tasks)))


def _is_within(savepoint: Any, transaction: Any) -> bool:
    while savepoint is not None and savepoint is not transaction:
        savepoint = savepoint.parent
    return savepoint is transaction


def _is_joined(session: Session) -> bool:
    """True if the session's connection is still in the transaction of its caller."""
    from sqlalchemy import Connection

    return isinstance(bind := session.get_bind(), Connection) and bind.in_transaction()
