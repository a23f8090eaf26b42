"""What a session's commit will send. SQLAlchemy tells of the commit; the rows are safe by then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from joblane.client import JobClient
    from joblane.enqueue.check import Ready


class Outbox:
    """What a session's commit will send. It belongs to one root transaction and dies with it."""

    KEY = "joblane.outbox"

    def __init__(self, client: JobClient) -> None:
        self._client = client
        self._transaction: Any = None
        self._ready: list[Ready] = []

    @classmethod
    def of(cls, session: Session, client: JobClient) -> Outbox:
        """The session's outbox for ``client``; the first call listens to its commits."""
        from sqlalchemy import event

        outboxes: dict[JobClient, Outbox] = session.info.setdefault(cls.KEY, {})
        if client not in outboxes:
            outboxes[client] = cls(client)
            event.listen(session, "after_commit", outboxes[client].committed)
        return outboxes[client]

    def waiting(self, session: Session) -> list[Ready]:
        """What the open transaction has enqueued so far."""
        if self._transaction is not session.get_transaction():
            self._ready = []
        return self._ready

    def add(self, session: Session, ready: Sequence[Ready]) -> None:
        waiting = self.waiting(session)
        self._transaction = session.get_transaction()
        waiting.extend(ready)

    def committed(self, session: Session) -> None:
        """SQLAlchemy calls this for the release of a savepoint, too, when nothing is committed yet."""
        if session.in_nested_transaction() or not (ready := self.waiting(session)):
            return
        self._ready = []
        self._client.send_committed(ready)
