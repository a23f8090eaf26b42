"""The transaction of an enqueue. Each transport has an adapter: what differs between them is here, and nowhere else.

A session of SQLAlchemy, plain or asynchronous, has one in :mod:`joblane.enqueue.session`. The connections of psycopg,
asyncpg and Django have theirs in :mod:`joblane.enqueue.drivers`, and the producer's own connection in
:mod:`joblane.enqueue.own`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Container, Coroutine, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from joblane.enqueue.insert import Execute, insert_tasks
from joblane.enqueue.result import to_send
from joblane.errors import UNDEFINED_FUNCTION, sqlstate
from joblane.record.driver.stage import NOT_MIGRATED
from joblane.record.sql_functions import VERSION

if TYPE_CHECKING:
    from joblane.enqueue.signals import Signalled
    from joblane.errors import JobError
    from joblane.record.task.insert import NewTask

INLINE_SENDS = 100
"""Messages sent at once after a commit. The client wakes the sweep for the rest."""
Send = Callable[[Sequence["NewTask | Signalled"]], None]
"""Sends the messages of tasks whose rows were committed, and continues the tasks whose signals were."""
InThread = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""Runs a function in a thread, even if the caller is cancelled meanwhile."""
AfterCommit = Callable[[Callable[[], None]], object]
"""Keeps a function, which the caller calls after the commit."""
AsyncAfterCommit = Callable[[Callable[[], Awaitable[None]]], object]
"""Keeps an asynchronous function, which the caller awaits after the commit."""
NO_FUNCTIONS = f"the database lacks the functions of this code, version {VERSION}: run `joblane migrate` of this code"
NO_TABLES = "the database lacks Joblane's tables: run `joblane migrate`, or connect to the database that has them"
LACKS = {UNDEFINED_FUNCTION: NO_FUNCTIONS, **dict.fromkeys(NOT_MIGRATED, NO_TABLES)}
"""SQLSTATE → what is wrong."""


class Transaction(ABC):
    """The transaction in which tasks are inserted."""

    @abstractmethod
    def run(self, sql: str, *documents: str | None) -> Sequence[Sequence[Any]]:
        """Run a statement of Joblane once for each parameter ``$1``; None: it has none. Return the rows of all."""

    @abstractmethod
    def insert(self, tasks: Sequence[NewTask]) -> list[NewTask | JobError]:
        """Insert rows. Return a result for each task, in order."""

    @abstractmethod
    def together(self) -> AbstractContextManager[Execute]:
        """Return a context manager with a function like :meth:`run`. Its statements commit together."""

    @property
    def room(self) -> int:
        """The number of messages that the transaction may still send itself."""
        return INLINE_SENDS

    @abstractmethod
    def send(self, inserted: Sequence[NewTask | JobError]) -> Container[str]:
        """Have the messages of new tasks sent after the commit. Return the ids of tasks whose message was sent."""


class CallersTransaction(Transaction):
    """An open transaction of the caller's. The tasks exist once it commits."""

    is_async: bool = False
    """True in a greenlet, whose event loop must not block."""
    database: Hashable = None
    """The database, whose stage is checked once: its engine or address. None: not known."""

    @abstractmethod
    def join(self, send: Send, in_thread: InThread) -> None:
        """Take part in the transaction. ``send`` is called after the commit, by ``in_thread`` if ``is_async``.

        Raises :class:`EnqueueError` if the tasks could not commit together with the caller's work.
        """

    def insert(self, tasks: Sequence[NewTask]) -> list[NewTask | JobError]:
        return insert_tasks(self.run, tasks, room=self.room)

    @contextmanager
    def together(self) -> Iterator[Execute]:
        yield self.run

    def send(self, inserted: Sequence[NewTask | JobError]) -> Container[str]:
        if tasks := to_send(inserted):
            self.send_later(tasks)
        return ()

    @abstractmethod
    def send_later(self, tasks: Sequence[NewTask | Signalled]) -> None:
        """Have the messages of tasks sent after the commit, and the tasks with signals continued."""


def lacking(error: BaseException) -> str | None:
    """Return what Joblane's database lacks, by the error of a driver. None: another error."""
    original = getattr(error, "orig", None)
    codes = (sqlstate(error), getattr(original, "sqlstate", None), getattr(original, "pgcode", None))
    return next((LACKS[code] for code in codes if code in LACKS), None)
