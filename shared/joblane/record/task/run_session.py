"""The database work of one run: the handler's session, and commits that require the task's lease."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property, partial
from importlib.util import find_spec
from threading import get_ident
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from pg8000.exceptions import Error as PostgresError

from joblane.errors import JobError, LeaseLostError, TaskCancelled, sqlstate, text_of
from joblane.record.driver.event_loop import process_loop
from joblane.record.sql_functions import NOT_HELD
from joblane.record.task import checkpoints
from joblane.record.task.finish import (
    FINISH_ONE,
    Finish,
    Statements,
    cancel_requested,
    finish,
    may_be_ordinary,
    note_children,
    parameters_of_one,
)
from joblane.telemetry import logger

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session, SessionTransaction

    from joblane.record.driver.connection import Connection
    from joblane.record.driver.database import Database
    from joblane.record.driver.handler_session import HandlerSession
    from joblane.record.driver.time_limits import TimeLimits
    from joblane.record.driver.transaction_guard import TransactionGuard
    from joblane.record.task.stop import WaitsOfRun

P = ParamSpec("P")
T = TypeVar("T")
CANCELLED = "the task was cancelled while it ran"
ENDED = "the run has ended; a handler waits for all of its asyncio tasks and threads"
ONE_SESSION = "a run has one session, because two transactions cannot commit together"
BY_ITEM = (
    "To keep work item by item, let the handler loop over ctx.each(items, key=…), or chunk by chunk over ctx.resume(…)"
)
INSTEAD_OF_SQL = "To undo a part of it, put the part into a block of {name}.begin_nested(). " + BY_ITEM
LEFT_OPEN = "the handler left a transaction open on ctx.connection(); write through ctx.session to commit"
NO_PACKAGES = (
    "ctx.async_session needs sqlalchemy[asyncio] and asyncpg: add them to the function's own packages, or use"
    " ctx.session, whose statements block the event loop"
)


class JoinedTransaction(Statements, Protocol):
    """An open transaction of another driver, which commits with the end of the run. See :meth:`RunSession.join`."""

    def commit(self) -> None: ...

    def roll_back(self) -> None:
        """Roll back, also if the handler was interrupted at any point."""


class RunSession:
    """The session of one run. It connects on first use.

    ``side``: a second connection to the same database. Its writes are visible at once while a transaction is open.
    ``uninterrupted``: a context in which no timeout interrupts.

    After :attr:`async_session` was used, :attr:`session` is its synchronous side, which works in a greenlet.
    """

    joined: JoinedTransaction | None = None
    """The transaction that commits with the end of the run in the place of the session's, see :meth:`join`."""
    in_use = False
    """The handler has used the database through this run. Otherwise nothing is flushed, committed or cleaned up."""
    has_ended = False
    """The next run may use the connection, so asyncio tasks and threads of the handler may not."""
    used = False
    """A transaction of the session has begun."""
    lent = False
    """The handler has called ``ctx.connection()``."""
    has_kept = False
    """The work of an item or a chunk is committed already."""
    has_left_tasks = False
    """An asyncio task of the handler may still use the asynchronous session."""
    refusal = ""
    """The reason why the run cannot have an asynchronous session. Empty: it can."""
    waits: WaitsOfRun | None = None
    """The state of its waits. None: the run has reached no wait."""
    hooks: Any = None
    """The hooks around it, see :class:`joblane.worker.hooks.Around`. None: there are none."""
    _guard: TransactionGuard | None = None
    """Keeps the transaction of the session. None: there is no session."""

    def __init__(
        self,
        database: Database,
        side: Database,
        id_: str,
        token: str,
        *,
        uninterrupted: AbstractContextManager[None] | None = None,
    ) -> None:
        self.database: Any = database
        """The connection of the session: a :class:`Database`, or an :class:`AsyncDatabase` with the same methods."""
        self._own = database
        self.uninterrupted = nullcontext() if uninterrupted is None else uninterrupted
        self._side = side
        self._id = id_
        self._token = token
        self.handler_at: tuple[int, object] = get_ident(), None
        """The thread of the handler, and its asyncio task. None: it has none, or a test has called it."""

    @property
    def is_async(self) -> bool:
        """True if the handler has used its asynchronous session."""
        return "async_session" in self.__dict__

    @property
    def can_be_async(self) -> bool:
        """True if the run can have an asynchronous session, and its packages are installed."""
        return not self.refusal and all(find_spec(name) is not None for name in ("asyncpg", "greenlet"))

    @cached_property
    def async_session(self) -> AsyncSession:
        """The handler's asynchronous session, see :attr:`session`. Closing it ends it, and rolls its work back.

        Raises :class:`JobError` if the run has another session already, or a package is missing.
        """
        if self.refusal:
            raise JobError(f"ctx.async_session: {self.refusal}")
        if self.touched or self.lent or self.joined is not None:
            raise JobError(
                f"ctx.async_session: {ONE_SESSION}; this one uses ctx.session, ctx.connection() or ctx.enqueue already"
            )
        if not self.can_be_async:
            raise JobError(NO_PACKAGES)
        with self.uninterrupted:  # a half-imported driver would fail in every later run of the process
            from sqlalchemy.ext.asyncio import AsyncSession

            from joblane.record.driver.handler_session import HandlerSession

            database = self._own.asynchronous
            # Without expiry, because an expired attribute would be read by a statement, which needs an await.
            made = AsyncSession(
                database.engine, sync_session_class=HandlerSession, expire_on_commit=False, close_resets_only=False
            )
            session: Any = made.sync_session
            session.is_async = True
            self.database = database
            self.session = self._watched(session)
        for method in (self.flush, self.commit, self.undo, self.close):
            self.__dict__[method.__name__] = self._on_loop(method)
        return made

    def _on_loop(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method as one that runs on the process's loop. In a greenlet of a loop, it is just called."""
        from sqlalchemy.util import greenlet_spawn
        from sqlalchemy.util.concurrency import in_greenlet

        def call(*args: Any, **kwargs: Any) -> Any:
            if in_greenlet():
                return method(*args, **kwargs)
            return process_loop.run(lambda: greenlet_spawn(partial(method, *args, **kwargs)))

        return call

    async def awaited(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that uses the session, from a coroutine."""
        if not self.is_async:
            return function(*args, **kwargs)
        from sqlalchemy.util import greenlet_spawn

        return await greenlet_spawn(partial(function, *args, **kwargs))

    def join(self, transaction: JoinedTransaction) -> None:
        """Commit the run's end in another driver's transaction, in the place of the session's.

        Raises :class:`JobError` if the run has a session.
        """
        if self.touched or self.lent:
            raise JobError(ONE_SESSION)
        self.in_use = True
        self.joined = transaction

    @cached_property
    def session(self) -> HandlerSession:
        """The handler's session, created on first use because importing SQLAlchemy takes longer than most tasks.

        It refuses a commit by the handler.
        """
        if self.joined is not None:
            raise JobError(ONE_SESSION)
        with self.uninterrupted:
            from joblane.record.driver.handler_session import HandlerSession

        return self._watched(HandlerSession(self.database.engine, close_resets_only=False))

    def _watched(self, session: HandlerSession) -> HandlerSession:
        from sqlalchemy import event

        from joblane.record.driver.transaction_guard import TransactionGuard

        name = "ctx.async_session" if session.is_async else "ctx.session"
        self._guard = TransactionGuard(name, INSTEAD_OF_SQL.format(name=name))
        self.in_use = True
        session.run = self
        event.listen(session, "before_commit", self._refuse_commit)
        event.listen(session, "after_begin", self._note_use)
        return session

    @property
    def touched(self) -> bool:
        """True if the handler has used its session."""
        return "session" in self.__dict__

    def _note_use(self, _session: Session, transaction: SessionTransaction, connection: Any) -> None:
        self.used = True
        if getattr(connection.connection.dbapi_connection, "autocommit", False):
            raise JobError(
                "a handler's session commits with the task's completion, so its connection cannot be in AUTOCOMMIT; "
                "use a connection of your own for statements that commit by themselves"
            )
        if not transaction.nested:
            assert self._guard is not None
            self._guard.begin()
            self.database.get().guard = self._guard

    def _refuse_commit(self, session: Session) -> None:
        assert self._guard is not None
        if not self._guard.is_committing and not session.in_nested_transaction():
            raise JobError(f"do not commit: the session commits with the task's completion. {BY_ITEM}")

    def connection(self) -> Connection:
        """Return the session's connection, to run Joblane's own statements in its transaction.

        Raises :class:`JobError` if the session's connection has broken since the transaction began. The handler may
        have swallowed that error, but its writes are lost, so the run must not be recorded as completed.
        """
        self.in_use = True
        connection = self.database.get()
        if "session" in self.__dict__ and self.session.in_transaction():
            used = self.session.connection()
            if used.invalidated or used.connection.driver_connection is not connection.driver_connection:
                raise JobError("the database connection broke under the handler: its work is rolled back")
            assert self._guard is not None
            self._guard.check_whole(is_open=not (self.is_async and connection.idle))
        return connection  # type: ignore[no-any-return]

    def lend(self, limits: TimeLimits | None) -> Connection:
        """Return the connection for the handler's own statements, with their limits until the end of the run."""
        connection, is_first = self.connection(), not self.lent
        self.lent = True
        if is_first:
            connection.limit(limits)
        return connection

    def flush(self) -> None:
        """Flush the session's pending writes."""
        if "session" in self.__dict__:
            self.session.flush()

    def commit(self, end: Finish) -> bool:
        """Commit the session's work together with the end of the run.

        Return False if the session has no open transaction. The caller must then record ``end``.

        Raises :class:`TaskCancelled` if the task has a cancel request, :class:`LeaseLostError` if another run holds the
        task, and any error of the commit.
        """
        if self.joined is not None:
            with self.uninterrupted:
                self._record(self.joined, end)
                self._own.commit_joined(self.joined.commit)
            return True
        if "session" not in self.__dict__:
            if self.lent and self.database.usable and not self.database.get().idle:
                raise JobError(LEFT_OPEN)
            return False
        with self._committing_now():
            connection = self.connection()
            if connection.idle:
                self.session.close()
                return False
            if may_be_ordinary(end) and not self.is_async:
                self._commit_with(connection, end)
            else:
                self._record(connection, end)
                self.session.commit()
            if not connection.idle:  # the transaction was not the session's
                raise JobError(LEFT_OPEN)
        self.session.close()
        return True

    def _commit_with(self, connection: Connection, end: Finish) -> None:
        """Record ``end`` and commit in one round trip."""
        from sqlalchemy.exc import DBAPIError

        try:
            with connection.before_commit(FINISH_ONE, *parameters_of_one(end), "true") as rows:
                self.session.commit()
        except DBAPIError as error:
            if error.orig is None or sqlstate(error.orig) != NOT_HELD:
                raise
            self.session.rollback()
            raise self._reason(connection, end) from None
        if not rows:  # the transaction was not the session's
            raise JobError(LEFT_OPEN)
        note_children(rows[0][0] or {}, [end])

    def finish(self, end: Finish) -> None:
        """Like :meth:`commit`, and record ``end`` even if the session wrote nothing."""
        if not self.commit(end):
            self._record(self._own.get(), end)

    def _record(self, connection: Statements, end: Finish) -> None:
        """Record ``end``, or raise the reason that the task's row did not take it."""
        # A wait needs a subtransaction, whose lock makes a multixact of the row: only if the row is not free.
        if not finish(connection, [end], waits=False) and not finish(connection, [end]):
            raise self._reason(connection, end)

    def _reason(self, connection: Statements, end: Finish) -> BaseException:
        """Return why the row of a task did not take the end of a run."""
        cancelled = cancel_requested(connection, end.id, end.token)
        return TaskCancelled(CANCELLED) if cancelled else self._lease_lost()

    @property
    def in_savepoint(self) -> bool:
        """True if a savepoint of the session is open."""
        return self.touched and self.session.in_nested_transaction()

    def check_keeps(self) -> None:
        """Raise :class:`JobError` if :meth:`keep` cannot commit in this run."""
        if self.has_ended:
            raise JobError(ENDED)
        if self.joined is not None:
            raise JobError(ONE_SESSION)

    def keep(self, mark: Callable[[Connection, str, str], bool]) -> None:
        """Commit the session's work so far together with ``mark(connection, task_id, token)``.

        Raises :class:`LeaseLostError` if ``mark`` returns False.
        """
        self.check_keeps()
        self.flush()
        with self._committing_now():
            if not mark(self.connection(), self._id, self._token):
                raise self._lease_lost()
            if self.touched:
                self.session.commit()
            self.has_kept = True

    @contextmanager
    def _committing_now(self) -> Iterator[None]:
        """Allow the library's own commit, and let no timeout interrupt it."""
        if self._guard is not None:
            self._guard.is_committing = True
        try:
            with self.own_statements():
                yield
        finally:
            if self._guard is not None:
                self._guard.is_committing = False

    @contextmanager
    def own_statements(self) -> Iterator[None]:
        """Let no timeout interrupt the library's own statements, and wait only a limited time for their answers."""
        with self.uninterrupted, self.database.get().bounded():
            yield

    def roll_back(self) -> None:
        """Roll back the session's work since its last commit."""
        if self.touched:
            with self.own_statements():
                self.session.rollback()

    def report(self, done: int | None, total: int | None, note: str | None) -> None:
        """Record progress unless ``done`` is None, and check for a cancel request.

        If a transaction is open, the progress goes over the side connection, so that it is visible at once. If that
        connection cannot be opened, the run continues, and the next check is at its end.

        Raises :class:`TaskCancelled` and :class:`LeaseLostError`.
        """
        self.in_use = True
        with self.uninterrupted, self._own.get().bounded():
            own = done is None or (not self.is_async and self._own.get().idle)
            try:
                connection = self._connection_to_report(own=own)
                cancelled = checkpoints.write_progress(
                    connection, self._id, self._token, done=done, total=total, note=note
                )
            except (PostgresError, OSError) as error:
                if own:
                    raise
                logger().warning("progress could not be recorded", extra={"error": text_of(error)})
                return
        if cancelled:
            raise TaskCancelled(CANCELLED)
        if cancelled is None:
            raise self._lease_lost()

    def report_last(self, done: int, total: int | None, note: str | None) -> None:
        """Record progress with the end of the run: in the open transaction, or at once."""
        with self.uninterrupted, self._own.get().bounded():
            checkpoints.write_progress(self._own.get(), self._id, self._token, done=done, total=total, note=note)

    def _connection_to_report(self, *, own: bool) -> Connection:
        if self.is_async:
            return self._own.get()  # another asyncio task may use the session's connection
        return self.connection() if own else self._side.get()

    def _lease_lost(self) -> LeaseLostError:
        return LeaseLostError(f"{self._id}: another run has taken the task over")

    def undo(self, *, interrupted: bool = False) -> None:
        """Roll back the handler's writes.

        ``interrupted``: a timeout interrupted the handler at any point, so the connection is dropped.
        """
        self.hooks = None  # a coroutine that ignores its end may still be in one
        if self.joined is not None:
            self.joined.roll_back()
        if not self.touched:
            if self.lent and self.database.in_transaction:
                self.database.drop()
            return
        from sqlalchemy.exc import SQLAlchemyError

        self.session.has_closed = True  # also if another thread keeps SQLAlchemy from closing it
        usable = self.database.usable and not interrupted
        if usable:
            try:
                with self.database.get().bounded():
                    self.session.close()  # rolls back
            except (SQLAlchemyError, PostgresError, OSError):
                usable = False
        if not usable:
            self.database.cut()  # otherwise SQLAlchemy would wait for the end of a statement, also of another thread
            with suppress(SQLAlchemyError, AssertionError):  # fails if the session was interrupted in a state change
                self.session.invalidate()
            self.database.drop()

    def close(self) -> None:
        """Clean up for the next task: side connection, settings, role, locks and temporary tables of the session."""
        if self._side.open:
            self._side.drop()
        if self.has_left_tasks and self.is_async:
            self.database.drop()  # such a task would take part in the next run's transaction
        elif self.used or self.lent:
            self.database.reset()
