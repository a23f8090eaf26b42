"""The database work of one run: the handler's session, and commits that take the task's lease."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property
from typing import TYPE_CHECKING

from pg8000.exceptions import Error as PostgresError

from joblane.errors import JobError, LeaseLostError, TaskCancelled, text_of
from joblane.record import checkpoints
from joblane.record.finish import cancel_requested, finish
from joblane.telemetry import logger

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from joblane.record.connection import Connection
    from joblane.record.database import Database
    from joblane.record.finish import Finish

CANCELLED = "the task was cancelled while it ran"


class RunSession:
    """Made anew for each run; connects to nothing before it is used.

    ``side``: a second connection to the same database, for what is visible at once while a transaction is open.
    ``held``: a stretch of code in which no timeout interrupts.
    """

    def __init__(
        self,
        database: Database,
        side: Database,
        id_: str,
        token: str,
        *,
        held: AbstractContextManager[None] | None = None,
    ) -> None:
        self.database = database
        self.held = nullcontext() if held is None else held
        self._side = side
        self._id = id_
        self._token = token
        self._committing = False
        self.used = False
        """A transaction of the session has begun."""
        self.lent = False
        """The handler has asked for the connection."""
        self.has_kept = False
        """A commit before the last has kept some of the work: an item's or a chunk's."""

    @cached_property
    def session(self) -> Session:
        """Made on first touch: importing SQLAlchemy costs more than most tasks. A handler's own commit is refused."""
        from sqlalchemy import event
        from sqlalchemy.orm import Session

        session = Session(self.database.engine)
        event.listen(session, "before_commit", self._refuse_commit)
        event.listen(session, "after_begin", self._note_use)
        return session

    @property
    def touched(self) -> bool:
        """The handler has asked for its session."""
        return "session" in self.__dict__

    def _note_use(self, *_: object) -> None:
        self.used = True

    def _refuse_commit(self, session: Session) -> None:
        if not self._committing and not session.in_nested_transaction():
            raise JobError(
                "a handler does not commit: its session commits with the task's completion. To keep work item by "
                "item, loop over ctx.each(items, key=…), or chunk by chunk over ctx.resume(…)"
            )

    def connection(self) -> Connection:
        """The connection under the session, to run the record's statements in its transaction.

        Raises :class:`JobError` where the session's own has broken since it began, which a handler may have swallowed:
        what it wrote is lost, and nothing may be recorded as if it were not.
        """
        connection = self.database.get()
        if "session" in self.__dict__ and self.session.in_transaction():
            used = self.session.connection()
            if used.invalidated or used.connection.dbapi_connection is not connection:
                raise JobError("the database connection broke under the handler: its work is rolled back")
        return connection

    def flush(self) -> None:
        """Write what the session has pending."""
        if "session" in self.__dict__:
            self.session.flush()

    # --- Commits -----------------------------------------------------------------------------------------------------

    def commit(self, end: Finish) -> bool:
        """Commit the session's work together with the end of the run.

        False where the session wrote nothing: ``end`` is then still to be recorded.

        Raises :class:`TaskCancelled`, or :class:`LeaseLostError`, where another's word ends the run, and whatever the
        commit meets.
        """
        if "session" not in self.__dict__:
            if self.lent and self.database.usable and not self.database.get().idle:
                raise JobError(
                    "the handler left a transaction open on ctx.connection(); what shall commit goes by ctx.session"
                )
            return False
        with self._commits():
            connection = self.connection()
            if connection.idle:
                self.session.close()
                return False
            if not finish(connection, [end]):
                raise self._refusal(connection, end)
            self.session.commit()
        self.session.close()
        return True

    def finish(self, end: Finish) -> None:
        """As :meth:`commit`; where the session wrote nothing, ``end`` is recorded by itself."""
        if not self.commit(end) and not finish(connection := self.database.get(), [end]):
            raise self._refusal(connection, end)

    def _refusal(self, connection: Connection, end: Finish) -> BaseException:
        """Why the record does not take ``end``."""
        cancelled = cancel_requested(connection, end.id, end.token)
        return TaskCancelled(CANCELLED) if cancelled else self._lease_lost()

    def keep(self, mark: Callable[[Connection, str, str], bool]) -> None:
        """Commit the session's work so far together with ``mark``, which gets connection, task id and token.

        Raises :class:`LeaseLostError` where ``mark`` says False.
        """
        self.flush()
        with self._commits():
            if not mark(self.connection(), self._id, self._token):
                raise self._lease_lost()
            if self.touched:
                self.session.commit()
            self.has_kept = True

    @contextmanager
    def _commits(self) -> Iterator[None]:
        """The library's own commits, uninterrupted."""
        self._committing = True
        try:
            with self.held:
                yield
        finally:
            self._committing = False

    def roll_back(self) -> None:
        """Drop what the session did since the last commit."""
        if self.touched:
            with self.held:
                self.session.rollback()

    # --- Meanwhile -------------------------------------------------------------------------------------------------

    def report(self, done: int | None, total: int | None, note: str | None) -> None:
        """Record progress (none where ``done`` is None), visible at once, and ask for a cancel.

        It goes over the side connection where a transaction is open, which would hide it until its end. Where that
        connection cannot be had, the run continues without: at its end it is asked again.

        Raises :class:`TaskCancelled` and :class:`LeaseLostError`.
        """
        with self.held:
            own = done is None or self.database.get().idle
            try:
                connection = self.connection() if own else self._side.get()
                stop = checkpoints.write_progress(connection, self._id, self._token, done=done, total=total, note=note)
            except (PostgresError, OSError) as error:
                if own:
                    raise
                logger().warning("progress could not be recorded", extra={"error": text_of(error)})
                return
        if stop:
            raise TaskCancelled(CANCELLED)
        if stop is None:
            raise self._lease_lost()

    def _lease_lost(self) -> LeaseLostError:
        return LeaseLostError(f"{self._id}: another run has taken the task over")

    # --- The end -----------------------------------------------------------------------------------------------------

    def undo(self, *, interrupted: bool = False) -> None:
        """Roll back what the handler wrote.

        ``interrupted``: in the middle of anything, so that the connection is thrown away.
        """
        if not self.touched:
            if self.lent and self.database.in_transaction:
                self.database.drop()
            return
        from sqlalchemy.exc import SQLAlchemyError

        sound = self.database.usable and not interrupted
        if sound:
            try:
                self.session.close()  # rolls back
            except (SQLAlchemyError, PostgresError, OSError):
                sound = False
        if not sound:
            with suppress(SQLAlchemyError, AssertionError):  # interrupted in a change of its state, it is unable to
                self.session.invalidate()
            self.database.drop()

    def close(self) -> None:
        """Leave nothing for the next task: no side connection, and no settings, role, locks or temporary tables."""
        if self._side.open:
            self._side.drop()
        if self.used:
            self.database.reset()
