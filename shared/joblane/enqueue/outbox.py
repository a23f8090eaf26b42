"""The outbox: the tasks whose messages are sent after a session's commit. SQLAlchemy reports the commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from joblane.record.insert import NewTask

Send = Callable[[Sequence["NewTask"]], None]


class Outbox:
    """The tasks of a session's open transaction.

    They are forgotten if the transaction is rolled back, or a savepoint in which they were enqueued.
    """

    KEY = "joblane.outbox"

    def __init__(self, send: Send) -> None:
        self._send = send
        self._transaction: Any = None
        self._tasks: list[tuple[NewTask, Any]] = []  # each with its savepoint, None without one

    @classmethod
    def of(cls, session: Session, send: Send) -> Outbox:
        """Return the session's outbox for a client's ``send``. The first call listens to the session's commits."""
        from sqlalchemy import event

        outboxes: dict[Send, Outbox] = session.info.setdefault(cls.KEY, {})
        if send not in outboxes:
            outboxes[send] = cls(send)
            event.listen(session, "after_commit", outboxes[send].committed)
            event.listen(session, "after_soft_rollback", outboxes[send].rolled_back)
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
        """Send the messages. SQLAlchemy also calls this at the release of a savepoint, which is not a commit.

        A session can be part of a transaction of its caller, whose commit SQLAlchemy does not report afterwards. Then
        the sweep sends the messages.
        """
        if session.in_nested_transaction() or not self.waiting(session):
            return
        tasks, self._tasks = [task for task, _ in self._tasks], []
        if not _is_joined(session):
            self._send(tasks)


def _is_within(savepoint: Any, transaction: Any) -> bool:
    while savepoint is not None and savepoint is not transaction:
        savepoint = savepoint.parent
    return savepoint is transaction


def _is_joined(session: Session) -> bool:
    """True if the session's connection is still in the transaction of its caller."""
    from sqlalchemy import Connection

    return isinstance(bind := session.get_bind(), Connection) and bind.in_transaction()
