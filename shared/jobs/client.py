"""Enqueueing: the row commits with the caller's work and its message is sent after that.

A process that dies between the commit and the send leaves the row to the sweep. Without a session the client commits
the row itself; without a record (``JobClient(record=False)``) it only sends, and gives up delays above 15 minutes and
the promise that nothing is lost between a commit and the send.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pg8000.exceptions import Error as PostgresError

from shared import settings, telemetry
from shared.db import Database
from shared.jobs.errors import (
    EnqueueError,
    JobError,
    LaneError,
    MessageError,
    PayloadError,
    RecordAwayError,
    SendError,
    TaskIdConflictError,
)
from shared.jobs.failure import text_of
from shared.jobs.message import (
    ID_PATTERN,
    MAX_ID,
    TENANT_PATTERN,
    TICK_ID_PATTERN,
    Message,
    check_headers,
    check_tree,
    digest,
    needs_walk,
)
from shared.jobs.queues import MAX_MESSAGE_BYTES, Queue, check_prefix, lane_name
from shared.jobs.sqs import Entry, Sqs
from shared.jobs.store import INSERT, MARK_SENT, MAX_DELAY_SECONDS, NewTask, State, document
from shared.jobs.sweep import wake

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from shared.jobs.task import Payload, Task

INLINE_SENDS = 100
"""Messages sent at once after a session's commit; the sweep, woken, sends what is above."""
LONGEST_WAIT = timedelta(days=3650)
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


@dataclass(frozen=True, slots=True)
class Job:
    """One item of :meth:`JobClient.enqueue_many`, with the options of :meth:`JobClient.enqueue`."""

    task: Task[Any, Any]
    payload: Payload
    queue: Queue | None = None
    process_in: timedelta | None = None
    process_at: datetime | None = None
    task_id: str | None = None
    tenant: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A job that was checked, with its message. ``delay``, ``at``: as in :class:`NewTask`."""

    id: str
    task: Task[Any, Any]
    queue: Queue
    payload: Mapping[str, Any]
    headers: Mapping[str, str]
    delay: float | None
    at: datetime | None
    entry: Entry

    def row(self, *, unsent: bool = False) -> NewTask:
        return NewTask(
            id=self.id,
            type=self.task.type,
            queue=self.queue,
            tenant=self.entry.group,
            payload=self.payload,
            payload_digest=digest(self.payload),
            schema=self.task.schema_digest,
            headers=self.headers,
            allowed=self.task.max_retry + 1,
            retention_seconds=int(self.task.retention.total_seconds()),
            delay=self.delay,
            at=self.at,
            unsent=unsent,
        )


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
        self._lane_names: dict[tuple[str, Queue], str] = {}

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
        result = self._enqueue([self._check(job)], session)[0]
        if isinstance(result, JobError):
            raise result
        return result

    def enqueue_many(self, jobs: Iterable[Job], *, session: Session | None = None) -> list[Enqueued | JobError]:
        """Enqueue many tasks with one INSERT and batched sends. A result per job, in order.

        A job that could not be enqueued has its error in place of a result. Bad input in any of them raises
        :class:`EnqueueError` before anything is written, naming its position.
        """
        return self._enqueue(self._checked(jobs), session)

    def _enqueue(self, ready: Sequence[_Ready], session: Session | None) -> list[Enqueued | JobError]:
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

    def _checked(self, jobs: Iterable[Job]) -> list[_Ready]:
        ready: list[_Ready] = []
        for position, job in enumerate(jobs):
            try:
                ready.append(self._check(job))
            except EnqueueError as error:
                error.args = (f"job {position}: {error}",)
                raise
        _refuse_repeats(ready)
        return ready

    def _check(self, job: Job) -> _Ready:
        task = job.task
        queue = task.queue if job.queue is None else _lane(task, job.queue)
        delay, at = _when(job.process_in, job.process_at)
        seconds = delay or _distance(at)
        if not self._record and seconds > MAX_DELAY_SECONDS:
            raise EnqueueError("process_at" if at else "process_in", "15 minutes at most without a record")
        id_ = new_id() if job.task_id is None else _task_id(job.task_id)
        tenant = _tenant(job.tenant)
        payload = task.write(job.payload)
        headers = _headers(job.headers) if job.headers else {}
        message = Message(
            task.type,
            id_,
            payload,
            rec=self._record,
            schema=task.schema_digest,
            enqueued_at=round(time.time(), 3),
            headers=headers,
        )
        body = _body(message)
        entry = Entry(self._lane_name(task, queue), body, _delay_seconds(seconds) if seconds else 0, tenant)
        if entry.size > MAX_MESSAGE_BYTES:
            if not self._record:
                raise PayloadError("payload", f"{entry.size} bytes as a message; {MAX_MESSAGE_BYTES} without a record")
            entry = replace(entry, body=replace(message, payload=None).encode())
        return _Ready(id_, task, queue, payload, headers, delay, at, entry)

    # --- Without a record ------------------------------------------------------------------------------------------

    def _send_alone(self, ready: Sequence[_Ready]) -> list[Enqueued | JobError]:
        failed = self._sqs.send_many([one.entry for one in ready])
        return [
            SendError(f"{one.entry.queue}: {failed[position]}")
            if position in failed
            else _enqueued(one, one.entry.delay_seconds, sent=True)
            for position, one in enumerate(ready)
        ]

    # --- With a record of its own ----------------------------------------------------------------------------------

    def _insert(self, ready: Sequence[_Ready]) -> dict[str, float]:
        """Write the rows in a transaction of their own. Returns id → seconds until due of those that are new."""
        with self._lock:
            database = self._database()
            try:
                rows = database.get().run(INSERT, document(one.row() for one in ready)) if ready else []
            except (PostgresError, OSError) as error:
                database.drop()
                raise RecordAwayError(
                    f"the database did not take the task: {text_of(error)}; nothing was sent"
                ) from error
        return {row[0]: row[1] for row in rows}

    def _send_recorded(self, ready: Sequence[_Ready], due: Mapping[str, float]) -> list[Enqueued | JobError]:
        """Send what is due within SQS's reach. The rows are safe: what cannot be sent is left to the sweep."""
        near = [one for one in ready if due.get(one.id, math.inf) <= MAX_DELAY_SECONDS]
        sent = self._send_rows([replace(one.entry, delay_seconds=_delay_seconds(due[one.id])) for one in near], near)
        return [
            _enqueued(one, due[one.id], sent=one.id in sent) if one.id in due else TaskIdConflictError(one.id)
            for one in ready
        ]

    def _send_rows(self, entries: Sequence[Entry], ready: Sequence[_Ready]) -> set[str]:
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

    def _insert_in(self, session: Session, ready: Sequence[_Ready]) -> list[Enqueued | JobError]:
        """Write the rows in the caller's transaction and leave their messages to its commit."""
        from sqlalchemy import text
        from sqlalchemy.orm import scoped_session

        if isinstance(session, scoped_session):
            session = session()  # to listen to the registry would be to listen to every session of it
        outbox = _Outbox.of(session, self)
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

    def send_committed(self, ready: Sequence[_Ready]) -> None:
        """Send the messages of rows that have just been committed; called by the session's outbox."""
        inline = ready[:INLINE_SENDS]
        entries = [replace(one.entry, delay_seconds=_delay_seconds(_distance(one.at))) for one in inline]
        self._send_rows(entries, inline)
        if len(ready) > INLINE_SENDS:
            wake(self._sqs, self._known_prefix())

    def _lane_name(self, task: Task[Any, Any], queue: Queue) -> str:
        """Made once: it is the same for every message."""
        name = self._lane_names.get((task.type, queue))
        if name is None:
            name = self._lane_names[task.type, queue] = lane_name(self._known_prefix(), queue, task.type)
        return name

    # --- Settings --------------------------------------------------------------------------------------------------

    def _known_prefix(self) -> str:
        if not self._prefix:
            self._prefix = check_prefix(settings.prefix())
        return self._prefix

    def _database(self) -> Database:
        if self._made is None:
            self._made = Database(settings.database_url())
        return self._made


class _Outbox:
    """What a session's commit will send. It belongs to one root transaction and dies with it."""

    KEY = "joblane.outbox"

    def __init__(self, client: JobClient) -> None:
        self._client = client
        self._transaction: Any = None
        self._ready: list[_Ready] = []

    @classmethod
    def of(cls, session: Session, client: JobClient) -> _Outbox:
        """The session's outbox for ``client``; the first call listens to its commits."""
        from sqlalchemy import event

        outboxes: dict[JobClient, _Outbox] = session.info.setdefault(cls.KEY, {})
        if client not in outboxes:
            outboxes[client] = cls(client)
            event.listen(session, "after_commit", outboxes[client].committed)
        return outboxes[client]

    def waiting(self, session: Session) -> list[_Ready]:
        """What the open transaction has enqueued so far."""
        if self._transaction is not session.get_transaction():
            self._ready = []
        return self._ready

    def add(self, session: Session, ready: Sequence[_Ready]) -> None:
        waiting = self.waiting(session)
        self._transaction = session.get_transaction()
        waiting.extend(ready)

    def committed(self, session: Session) -> None:
        """SQLAlchemy calls this for the release of a savepoint, too, when nothing is committed yet."""
        if session.in_nested_transaction() or not (ready := self.waiting(session)):
            return
        self._ready = []
        self._client.send_committed(ready)


# --- Checking one argument each --------------------------------------------------------------------------------------


def _lane(task: Task[Any, Any], queue: Queue) -> Queue:
    if queue not in list(Queue):
        raise EnqueueError("queue", f"{queue!r} is not one of {', '.join(Queue)}")
    if queue not in task.lanes:
        raise LaneError(task.type, queue, task.lanes)
    return Queue(queue)


def _when(process_in: timedelta | None, process_at: datetime | None) -> tuple[float | None, datetime | None]:
    """Seconds from now, or a moment; both None: at once."""
    if process_in is not None and process_at is not None:
        raise EnqueueError("process_at", "give process_in or process_at, not both")
    if process_in is not None:
        if not isinstance(process_in, timedelta):
            raise EnqueueError("process_in", f"a timedelta is required, not {type(process_in).__name__}")
        if not timedelta(0) <= process_in <= LONGEST_WAIT:
            raise EnqueueError("process_in", f"from zero to {LONGEST_WAIT.days} days is required, not {process_in}")
        return process_in.total_seconds(), None
    if process_at is not None:
        if not isinstance(process_at, datetime):
            raise EnqueueError("process_at", f"a datetime is required, not {type(process_at).__name__}")
        if process_at.tzinfo is None:
            raise EnqueueError("process_at", "an aware datetime is required, for example datetime.now(UTC) + …")
        if process_at - datetime.now(UTC) > LONGEST_WAIT:
            raise EnqueueError("process_at", f"at most {LONGEST_WAIT.days} days ahead")
    return None, process_at


def _distance(at: datetime | None) -> float:
    """Seconds from now, by this machine's clock; zero for the past."""
    return max(0.0, (at - datetime.now(UTC)).total_seconds()) if at else 0.0


def _delay_seconds(seconds: float) -> int:
    """``DelaySeconds``: rounded up, so that the message is not there before its time."""
    return min(max(0, math.ceil(seconds)), MAX_DELAY_SECONDS)


def _task_id(task_id: str) -> str:
    if not isinstance(task_id, str) or not ID_PATTERN.fullmatch(task_id):
        raise EnqueueError("task_id", f"1 to {MAX_ID} printable ASCII characters without spaces are required")
    if TICK_ID_PATTERN.fullmatch(task_id):
        raise EnqueueError("task_id", f"{task_id!r} has the form of a tick's id, which only the scheduler gives")
    return task_id


def _tenant(tenant: str | None) -> str | None:
    if tenant is not None and (not isinstance(tenant, str) or not TENANT_PATTERN.fullmatch(tenant)):
        raise EnqueueError("tenant", "1 to 128 ASCII letters, digits and punctuation are required (MessageGroupId)")
    return tenant


def _headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    try:
        return check_headers(headers)
    except MessageError as error:
        raise EnqueueError("headers", str(error).removeprefix("headers: ")) from None


def _body(message: Message) -> str:
    try:
        body = message.encode()
        if needs_walk(body):
            check_tree(message.payload)
    except ValueError as error:  # a MessageError, or a number that JSON does not have
        raise PayloadError("payload", str(error).removeprefix("payload: ")) from None
    return body


def _refuse_repeats(ready: Sequence[_Ready]) -> None:
    seen: set[str] = set()
    for one in ready:
        if one.id in seen:
            raise EnqueueError("task_id", f"{one.id!r} is given to two jobs of this call")
        seen.add(one.id)


def _enqueued(ready: _Ready, due: float, *, sent: bool) -> Enqueued:
    state = State.SCHEDULED if due > 0 else State.PENDING
    return Enqueued(ready.id, ready.task.type, ready.queue, state, sent)


def new_id() -> str:
    """A time-ordered UUID (version 7, RFC 9562), which keeps the index of ids compact."""
    time_ms, random = f"{int(time.time() * 1000):012x}", os.urandom(10).hex()
    return f"{time_ms[:8]}-{time_ms[8:]}-7{random[:3]}-{VARIANT[random[3]]}{random[4:7]}-{random[7:19]}"


VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""The two high bits of the variant are 10."""
