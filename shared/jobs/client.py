"""Enqueueing: the row commits with the caller's work and its message is sent after that.

A process that dies between the commit and the send leaves the row to the sweep. Without a session the client commits
the row itself; without a record (``JobClient(record=False)``) it only sends, and gives up delays above 15 minutes and
the promise that nothing is lost between a commit and the send.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pg8000.exceptions import Error as PostgresError

from shared import settings, telemetry
from shared.db import Database
from shared.jobs.errors import EnqueueError, JobError, RecordAwayError, SendError, TaskIdConflictError
from shared.jobs.failure import text_of
from shared.jobs.job import Job, Ready, check, delay_seconds, distance
from shared.jobs.outbox import Outbox
from shared.jobs.queues import MAX_DELAY_SECONDS, Queue, check_prefix
from shared.jobs.sqs import Entry, Sqs
from shared.jobs.store import INSERT, MARK_SENT, State, document
from shared.jobs.sweep import wake

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from shared.jobs.task import Payload, Task

INLINE_SENDS = 100
"""Messages sent at once after a session's commit; the sweep, woken, sends what is above."""
P = TypeVar("P", bound="Payload")


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A task that was accepted. ``queue`` is the one whose lane it waits in.

    ``sent``: its message is in SQS now. False for one that is sent after the caller's commit, or later by the sweep.
    """

    id: str
    type: str
    queue: Queue
    state: State
    sent: bool


class JobClient:
    """Enqueues tasks. Making one costs nothing; settings are read and connections made on first use.

    ``record=False`` for a producer without a database. One client serves any number of threads.
    """

    def __init__(self, *, record: bool = True) -> None:
        self._record = record
        self._sqs = Sqs()
        self._lock = threading.Lock()
        self._made: Database | None = None
        self._prefix = ""

    # --- The two calls ---------------------------------------------------------------------------------------------

    def enqueue(
        self,
        task: Task[P, Any],
        payload: P,
        *,
        queue: Queue | None = None,
        process_in: timedelta | None = None,
        process_at: datetime | None = None,
        task_id: str | None = None,
        tenant: str | None = None,
        headers: Mapping[str, str] | None = None,
        session: Session | None = None,
    ) -> Enqueued:
        """Enqueue one task.

        ``queue``: one in which the type has a lane (default: its home). ``process_in``, ``process_at``: any distance
        up to ten years. ``task_id``: the caller's, printable ASCII, 200 characters at most. ``tenant``: for a fair
        share between tenants and to filter by; a hint, never an authorisation. ``headers``: handed to the handler.
        ``session``: an SQLAlchemy session, whose commit makes the task exist.

        Raises :class:`EnqueueError` before anything is written, :class:`TaskIdConflictError`,
        :class:`RecordAwayError`, and without a record :class:`SendError`.
        """
        job = Job(task, payload, queue, process_in, process_at, task_id, tenant, headers or {})
        result = self._enqueue([check(job, record=self._record, prefix=self._known_prefix())], session)[0]
        if isinstance(result, JobError):
            raise result
        return result

    def enqueue_many(self, jobs: Iterable[Job], *, session: Session | None = None) -> list[Enqueued | JobError]:
        """Enqueue many tasks with one INSERT and batched sends. A result per job, in order.

        A job that could not be enqueued has its error in place of a result. Bad input in any of them raises
        :class:`EnqueueError` before anything is written, naming its position.
        """
        return self._enqueue(self._checked(jobs), session)

    def _enqueue(self, ready: Sequence[Ready], session: Session | None) -> list[Enqueued | JobError]:
        if not self._record:
            if session is not None:
                raise EnqueueError("session", "a client made with record=False writes no row; make JobClient()")
            return self._send_alone(ready)
        if session is not None:
            return self._insert_in(session, ready)
        return self._send_recorded(ready, self._insert(ready))

    def close(self) -> None:
        """Close the connection of its own. The client can be used again afterwards."""
        with self._lock:
            if self._made is not None:
                self._made.drop()

    # --- Checking --------------------------------------------------------------------------------------------------

    def _checked(self, jobs: Iterable[Job]) -> list[Ready]:
        ready: list[Ready] = []
        for position, job in enumerate(jobs):
            try:
                ready.append(check(job, record=self._record, prefix=self._known_prefix()))
            except EnqueueError as error:
                error.args = (f"job {position}: {error}",)
                raise
        _refuse_repeats(ready)
        return ready

    # --- Without a record ------------------------------------------------------------------------------------------

    def _send_alone(self, ready: Sequence[Ready]) -> list[Enqueued | JobError]:
        failed = self._sqs.send_many([one.entry for one in ready])
        return [
            SendError(f"{one.entry.queue}: {failed[position]}")
            if position in failed
            else _enqueued(one, one.entry.delay_seconds, sent=True)
            for position, one in enumerate(ready)
        ]

    # --- With a record of its own ----------------------------------------------------------------------------------

    def _insert(self, ready: Sequence[Ready]) -> dict[str, float]:
        """Write the rows in a transaction of their own. Returns id → seconds until due of those that are new."""
        with self._lock:
            database = self._database()
            try:
                rows = database.get().run(INSERT, document(one.row() for one in ready)) if ready else []
            except (PostgresError, OSError) as error:
                database.drop()
                raise RecordAwayError(
                    f"the database did not take the task: {text_of(error)}; nothing was sent, enqueue it again"
                ) from error
        return {row[0]: row[1] for row in rows}

    def _send_recorded(self, ready: Sequence[Ready], due: Mapping[str, float]) -> list[Enqueued | JobError]:
        """Send what is due within SQS's reach. The rows are safe: what cannot be sent is left to the sweep."""
        near = [one for one in ready if due.get(one.id, math.inf) <= MAX_DELAY_SECONDS]
        sent = self._send_rows([replace(one.entry, delay_seconds=delay_seconds(due[one.id])) for one in near], near)
        return [
            _enqueued(one, due[one.id], sent=one.id in sent) if one.id in due else TaskIdConflictError(one.id)
            for one in ready
        ]

    def _send_rows(self, entries: Sequence[Entry], ready: Sequence[Ready]) -> set[str]:
        if not entries:
            return set()
        failed = self._sqs.send_many(entries)
        for position, why in list(failed.items())[:1]:
            telemetry.logger().warning(
                "messages could not be sent; their rows are safe and the sweep sends them",
                extra={"messages": len(failed), "queue": entries[position].queue, "error": why},
            )
        sent = [one.id for position, one in enumerate(ready) if position not in failed]
        self._mark_sent(sent)
        return set(sent)

    def _mark_sent(self, ids: Sequence[str]) -> None:
        """Note that messages are under way. Passed over where it cannot be done at once: a second send is harmless."""
        if not ids or not self._lock.acquire(blocking=False):
            return
        import json

        try:
            self._database().get().run(MARK_SENT, json.dumps(list(ids)))
        except (LookupError, ValueError):
            pass  # no address, or a bad one: the caller's session knows one of its own
        except (PostgresError, OSError):
            self._database().drop()
        finally:
            self._lock.release()

    # --- In the caller's session -----------------------------------------------------------------------------------

    def _insert_in(self, session: Session, ready: Sequence[Ready]) -> list[Enqueued | JobError]:
        """Write the rows in the caller's transaction and leave their messages to its commit."""
        from sqlalchemy import text
        from sqlalchemy.orm import scoped_session

        if isinstance(session, scoped_session):
            session = session()  # to listen to the registry would be to listen to every session of it
        outbox = Outbox.of(session, self)
        room = max(0, INLINE_SENDS - len(outbox.waiting(session)))
        rows = [one.row(unsent=position >= room) for position, one in enumerate(ready)]
        due: dict[str, float] = {}
        if rows:
            answer = session.execute(text(INSERT.replace("$1", ":document")), {"document": document(rows)})
            due = {row[0]: row[1] for row in answer}
        near = [one for one in ready if due.get(one.id, math.inf) <= MAX_DELAY_SECONDS]
        now = datetime.now(UTC)  # the commit may be a while: what counts is the moment
        outbox.add(
            session, [replace(one, delay=None, at=now + timedelta(seconds=max(0.0, due[one.id]))) for one in near]
        )
        return [
            _enqueued(one, due[one.id], sent=False) if one.id in due else TaskIdConflictError(one.id) for one in ready
        ]

    def send_committed(self, ready: Sequence[Ready]) -> None:
        """Send the messages of rows that have just been committed; called by the session's outbox."""
        inline = ready[:INLINE_SENDS]
        entries = [replace(one.entry, delay_seconds=delay_seconds(distance(one.at))) for one in inline]
        self._send_rows(entries, inline)
        if len(ready) > INLINE_SENDS:
            wake(self._sqs, self._known_prefix())

    # --- Settings --------------------------------------------------------------------------------------------------

    def _known_prefix(self) -> str:
        if not self._prefix:
            self._prefix = check_prefix(settings.prefix())
        return self._prefix

    def _database(self) -> Database:
        if self._made is None:
            self._made = Database(settings.database_url())
        return self._made


def _refuse_repeats(ready: Sequence[Ready]) -> None:
    seen: set[str] = set()
    for one in ready:
        if one.id in seen:
            raise EnqueueError("task_id", f"{one.id!r} is given to two jobs of this call")
        seen.add(one.id)


def _enqueued(ready: Ready, due: float, *, sent: bool) -> Enqueued:
    state = State.SCHEDULED if due > 0 else State.PENDING
    return Enqueued(ready.id, ready.task.type, ready.queue, state, sent)
