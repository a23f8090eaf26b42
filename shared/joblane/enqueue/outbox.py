"""What a session's commit will send. SQLAlchemy tells of the commit; the rows are safe by then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from joblane.record.insert import NewTask

Send = Callable[[Sequence["NewTask"]], None]


class Outbox:
    """What a session's commit will send. It belongs to one root transaction and dies with it."""

    KEY = "joblane.outbox"

    def __init__(self, send: Send) -> None:
        self._send = send
        self._transaction: Any = None
        self._ready: list[NewTask] = []

    @classmethod
    def of(cls, session: Session, send: Send) -> Outbox:
        """The session's outbox for a client's ``send``; the first call listens to the session's commits."""
        from sqlalchemy import event

        outboxes: dict[Send, Outbox] = session.info.setdefault(cls.KEY, {})
        if send not in outboxes:
            outboxes[send] = cls(send)
            event.listen(session, "after_commit", outboxes[send].committed)
        return outboxes[send]

    def waiting(self, session: Session) -> list[NewTask]:
        """What the open transaction has enqueued so far."""
        if self._transaction is not session.get_transaction():
            self._ready = []
        return self._ready

    def add(self, session: Session, ready: Sequence[NewTask]) -> None:
        waiting = self.waiting(session)
        self._transaction = session.get_transaction()
        waiting.extend(ready)

    def committed(self, session: Session) -> None:
        """SQLAlchemy calls this for the release of a savepoint, too, when nothing is committed yet."""
        if session.in_nested_transaction() or not (ready := self.waiting(session)):
            return
        self._ready = []
        self._send(ready)
