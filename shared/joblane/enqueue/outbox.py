"""The outbox: the tasks whose messages are sent after a session's commit. SQLAlchemy reports the commit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from joblane.enqueue.transaction import InThread, Send
    from joblane.record.task.insert import NewTask


class Outbox:
    """The tasks of a session's open transaction.

    They are forgotten if the transaction is rolled back, or a savepoint in which they were enqueued.
    """

    KEY = "joblane.outbox"

    def __init__(self, send: Send, in_thread: InThread) -> None:
        self._send = send
        self._in_thread = in_thread
        self._transaction: Any = None
        self._tasks: list[tuple[NewTask, Any]] = []  # each with its savepoint, None without one
        self._committed: list[NewTask] = []

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

    def add(self, session: Session, tasks: Sequence[NewTask]) -> None:
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
