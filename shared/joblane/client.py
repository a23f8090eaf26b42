"""Enqueueing: the row commits with the caller's work, and its message is sent after the commit.

If the process ends between the commit and the send, the sweep sends the message. Without a session the client commits
the row itself. Without a record (``JobClient(record=False)``) the client only sends: then delays end at 15 minutes, and
a task can be lost between the caller's commit and the send.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack
from weakref import WeakSet

from pg8000.exceptions import Error as PostgresError

from joblane import settings, telemetry
from joblane.enqueue.check import check, delay_seconds, is_past, seconds_until
from joblane.enqueue.insert import insert_again, insert_tasks
from joblane.enqueue.outbox import Outbox
from joblane.enqueue.wake import wake
from joblane.errors import (
    UNDEFINED_FUNCTION,
    DatabaseUnavailableError,
    EnqueueError,
    JobError,
    LimitError,
    SendError,
    UnknownTaskError,
    WaitTimeoutError,
    sqlstate,
    text_of,
)
from joblane.forking import follow_forks
from joblane.job import Job, JobOptions, check_names
from joblane.limits import MAX_DELAY_SECONDS
from joblane.queues import Queue, check_prefix
from joblane.record.connection import REFUSED_CLASSES, SHUT_DOWN
from joblane.record.database import Database
from joblane.record.functions import VERSION
from joblane.record.insert import NewTask
from joblane.record.serve import Limits as Freed
from joblane.record.serve import Turn, serve
from joblane.record.stage import STAGE, match_stage
from joblane.record.states import State
from joblane.record.status import STATUS, TaskStatus
from joblane.record.time_limits import CLIENT
from joblane.record.transitions import CANCEL
from joblane.sqs.client import PAUSED, Entry, Sqs
from joblane.sqs.message import ID_PATTERN

if TYPE_CHECKING:
    from sqlalchemy import Engine, TextClause
    from sqlalchemy.orm import Session

    from joblane.client_limits import Limits
    from joblane.declaration import Task
    from joblane.payload import Payload

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 2.0
LONGEST_TURN_SECONDS = CLIENT.connect + CLIENT.answer
"""A thread waits this long for its turn on the client's connection."""
INLINE_SENDS = 100
"""Messages sent at once after a session's commit. The client wakes the sweep for the rest."""
NO_FUNCTIONS = f"the database lacks the functions of this code, version {VERSION}: run `joblane migrate` of this code"
P = TypeVar("P", bound="Payload")


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The result of an enqueue: a task that was accepted."""

    id: str
    """Id of the task."""
    type: str
    """Type of the task."""
    queue: Queue
    """Queue in which the task waits."""
    state: State
    """``pending`` if the task is due, ``scheduled`` if it is due later. For an existing task: its state."""
    sent: bool
    """True if this call has sent the message. False if it is sent after the commit of the session, or later by the
    sweep, or if an existing task has its message already."""
    created: bool = True
    """False if an existing task held the unique key and was returned, replaced or pushed."""
    past: bool = False
    """True if ``process_at`` was in the past, so that the task is due now."""


class JobClient:
    """Enqueues tasks, shows their state, and cancels them.

    One client serves any number of threads. Settings are read and connections are made on first use. It keeps one
    connection to the database until :meth:`close`, or until the end of ``with JobClient() as jobs:``.
    """

    def __init__(self, *, record: bool = True) -> None:
        """Make a client.

        Args:
            record: False for a producer without a database: the client only sends messages. Then tasks have no row
                before they run, delays are at most 15 minutes, and ``owner`` and unique keys are refused.
        """
        self._record = record
        self._sqs = Sqs()
        self._lock = threading.Lock()
        self._opened: Database | None = None
        self._owns = True
        follow_forks(self, JobClient._after_fork)
        self._checked_engines: WeakSet[Engine] = WeakSet()

    @classmethod
    def within(cls, database: Database, sqs: Sqs, prefix: str) -> JobClient:
        """Return a client over existing connections, those of a running task."""
        client = cls()
        client._opened, client._sqs, client._prefix, client._owns = database, sqs, prefix, False
        return client

    def enqueue(
        self, task: Task[P, Any], payload: P, *, session: Session | None = None, **options: Unpack[JobOptions]
    ) -> Enqueued:
        """Enqueue one task.

        Args:
            task: A function declared by ``@task``.
            payload: An instance of the task's payload class.
            session: An SQLAlchemy ``Session`` or ``scoped_session``. The task exists once the session commits; its
                message is sent after that. None: the client commits the row and sends the message at once.
            options: The enqueue options, see :class:`~joblane.job.Job`.

        Raises:
            EnqueueError: an argument is wrong. Nothing was written or sent.
            TaskIdConflictError: ``task_id`` exists already. Nothing was written or sent.
            DuplicateTaskError: a live task holds the unique key. Nothing was written or sent.
            DatabaseUnavailableError: the database is unavailable.
            WrongStageError: the database belongs to another stage.
            SendError: SQS did not accept the message. Only with ``record=False``.
            MissingSettingError: ``DATABASE_URL`` is not set.
        """
        check_names(options)
        job = Job(task, payload, **options)
        result = self._enqueue([check(job, record=self._record, prefix=self._prefix)], session)[0]
        if isinstance(result, JobError):
            raise result
        return result

    def enqueue_many(self, jobs: Iterable[Job], *, session: Session | None = None) -> list[Enqueued | JobError]:
        """Enqueue many tasks with one INSERT per 10,000 tasks, in one transaction, and batched sends.

        Returns a result for each job, in order. A job that was not enqueued has its error in place of a result:
        :class:`TaskIdConflictError`, :class:`DuplicateTaskError`, or, with ``record=False``, :class:`SendError`.

        Args:
            jobs: The jobs. Each can have a ``task_id`` of its own.
            session: As for :meth:`enqueue`. After the session's commit the client sends the first 100 messages, and the
                sweep sends the rest.

        Raises:
            EnqueueError: an argument of a job is wrong. The message has the job's position. Nothing was written or
                sent.
            DatabaseUnavailableError: the database is unavailable.
            WrongStageError: the database belongs to another stage.
        """
        return self._enqueue(self._checked(jobs), session)

    def get(self, task_id: str) -> TaskStatus | None:
        """Return the state of a task, or None if the id is unknown.

        Raises:
            DatabaseUnavailableError: the database is unavailable.
        """
        rows = self._query(STATUS, task_id)
        return TaskStatus.of(rows[0]) if rows else None

    def wait(self, task_id: str, timeout: timedelta) -> TaskStatus:
        """Wait until a task has ended, and return its state.

        Reads the row repeatedly, at first after 0.05 seconds, later every 2 seconds.

        Args:
            task_id: Id of the task.
            timeout: Longest time to wait.

        Raises:
            WaitTimeoutError: the task has not ended within ``timeout``. It continues.
            UnknownTaskError: no task has this id.
            DatabaseUnavailableError: the database is unavailable.
        """
        if not isinstance(timeout, timedelta):
            raise TypeError(f"timeout: a timedelta is required, not {type(timeout).__name__}")
        ends, pause = time.monotonic() + timeout.total_seconds(), FIRST_PAUSE_SECONDS
        while True:
            status = self.get(task_id)
            if status is None:
                raise UnknownTaskError(task_id)
            if status.ended:
                return status
            left = ends - time.monotonic()
            if left <= 0:
                raise WaitTimeoutError(task_id, status.state, timeout)
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)

    def cancel(self, task_id: str) -> State | None:
        """Cancel a task.

        Returns ``cancelled`` if the task was waiting: it never runs. Returns ``active`` if the task is running: the run
        is interrupted at its next ``ctx.check()`` or ``ctx.progress()``, or rolled back at its end. Returns None if the
        task has ended or is unknown. The tasks that wait for a limit of the cancelled one start at once.

        A cancel commits by itself, also in a handler: a rollback does not undo it.

        Raises:
            DatabaseUnavailableError: the database is unavailable.
        """
        rows = self._query(CANCEL, task_id)
        if not rows:
            return None
        state, *limits = rows[0]
        if state == State.CANCELLED and any(limits):
            self._serve([limits])
        return State(state)

    def _serve(self, freed: Sequence[Freed]) -> None:
        """Start the tasks that wait for these limits, after the commit. If it fails, the sweep does it."""
        try:
            with self._connecting() as database:
                try:
                    if not database.get().idle:  # a handler's transaction, which has not committed yet
                        return
                    turns = serve(database.get(), freed)
                except (PostgresError, OSError):
                    database.drop()
                    return
        except (JobError, settings.MissingSettingError):  # a program that only enqueues in sessions needs no setting
            return
        self._send_turns(turns)

    def _serve_replaced(self, tasks: Iterable[NewTask | JobError]) -> None:
        """Start the tasks that wait for what replaced tasks have given back."""
        if freed := [task.freed for task in tasks if isinstance(task, NewTask) and task.freed]:
            self._serve(freed)

    def _query(self, sql: str, task_id: str) -> list[list[Any]]:
        if not isinstance(task_id, str):
            raise TypeError(f"task_id: a text is required, not {type(task_id).__name__}")
        if not ID_PATTERN.fullmatch(task_id):  # no row has such an id, and the database could refuse it
            return []
        with self._connecting() as database:
            try:
                return database.get().run(sql, task_id)
            except (PostgresError, OSError) as error:
                database.drop()
                raise DatabaseUnavailableError(f"the database is unavailable: {text_of(error)}") from error

    def _enqueue(self, tasks: Sequence[NewTask], session: Session | None) -> list[Enqueued | JobError]:
        if not self._record:
            if session is not None:
                raise EnqueueError("session", "a client made with record=False writes no row; make JobClient()")
            return self._send_without_rows(tasks)
        if session is not None:
            return self._insert_in(session, tasks)
        return self._send_recorded(self._insert(tasks))

    def close(self) -> None:
        """Close the client's connection. The client can be used again: it then connects anew."""
        with self._lock:
            if self._opened is not None and self._owns:
                self._opened.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        try:  # noqa: SIM105
            self.close()
        except Exception:  # noqa: S110 - at the interpreter's end modules are gone, `suppress` too
            pass

    def _checked(self, jobs: Iterable[Job]) -> list[NewTask]:
        tasks: list[NewTask] = []
        for position, job in enumerate(jobs):
            try:
                tasks.append(check(job, record=self._record, prefix=self._prefix))
            except EnqueueError as error:
                error.args = (f"job {position}: {error}",)
                raise
        _refuse_repeats(tasks)
        return tasks

    def _send_without_rows(self, tasks: Sequence[NewTask]) -> list[Enqueued | JobError]:
        if len(tasks) == 1:  # its error has boto3's as its cause
            try:
                self._sqs.send(tasks[0].entry)
            except SendError as error:
                return [error]
        failed = self._sqs.send_many([task.entry for task in tasks]) if len(tasks) > 1 else {}
        return [
            SendError(f"{task.entry.queue}: {failed[position]}")
            if position in failed
            else _enqueued(task, task.entry.delay_seconds, sent=True)
            for position, task in enumerate(tasks)
        ]

    def _insert(self, tasks: Sequence[NewTask]) -> list[NewTask | JobError]:
        """Write the rows in the client's own transactions.

        If the answer is lost, the same ids are inserted again on a new connection.
        """
        with self._connecting() as database:
            sent = False

            def run(sql: str, *documents: str) -> list[list[Any]]:
                nonlocal sent
                connection = database.get()
                sent = True
                if len(documents) == 1:
                    return connection.run(sql, *documents)
                try:
                    connection.execute_simple("begin")
                    rows = [row for document in documents for row in connection.run(sql, document)]
                    connection.commit()
                except BaseException:  # an interrupt would leave the transaction open
                    database.drop()
                    raise
                return rows

            try:
                return insert_tasks(run, tasks)
            except (PostgresError, OSError) as error:
                database.drop()
                if not (sent and _is_lost(error)):
                    raise _refusal(error, tasks, may_exist=False) from error
            try:
                return insert_again(run, tasks)
            except (PostgresError, OSError) as error:
                database.drop()
                raise _refusal(error, tasks, may_exist=True) from error

    def _send_recorded(self, inserted: Sequence[NewTask | JobError]) -> list[Enqueued | JobError]:
        """Send the messages that SQS can delay until they are due. The sweep sends the others, and those that fail."""
        near = _near(inserted)
        entries = [replace(task.entry, delay_seconds=delay_seconds(task.due_seconds)) for task in near]
        sent = self._send_rows(entries, near)
        self._serve_replaced(inserted)
        return [
            result if isinstance(result, JobError) else _result(result, sent=result.id in sent) for result in inserted
        ]

    def _send_rows(self, entries: Sequence[Entry], tasks: Sequence[NewTask]) -> set[str]:
        if not entries:
            return set()
        failed = self._sqs.send_many(entries, brief=True)
        for position, why in [item for item in failed.items() if item[1] != PAUSED][:1]:
            telemetry.logger().warning(
                "messages could not be sent; their rows are safe and the sweep sends them",
                extra={"messages": len(failed), "queue": entries[position].queue, "error": why},
            )
        return {task.id for position, task in enumerate(tasks) if position not in failed}

    def _insert_in(self, session: Session, tasks: Sequence[NewTask]) -> list[Enqueued | JobError]:
        """Write the rows in the caller's transaction. Its commit sends their messages."""
        from sqlalchemy.exc import StatementError
        from sqlalchemy.orm import Session, scoped_session

        if hasattr(session, "run_sync"):
            raise EnqueueError(
                "session",
                "a plain Session is required; with an AsyncSession use "
                "await session.run_sync(lambda s: jobs.enqueue(task, payload, session=s))",
            )
        if not isinstance(session, (Session, scoped_session)):
            raise EnqueueError("session", f"an SQLAlchemy Session is required, not {type(session).__name__}")
        if isinstance(session, scoped_session):
            session = session()  # a listener on the registry would listen to all of its sessions
        self._check_stage(session)
        outbox = Outbox.of(session, self.send_committed)

        def run(sql: str, *documents: str) -> list[list[Any]]:
            statement = _statement(sql)
            try:
                return [list(row) for one in documents for row in session.execute(statement, {"document": one})]
            except StatementError as error:
                if "joblane." in (error.statement or ""):  # not a flush of the caller's objects
                    error.hide_parameters = True  # payloads
                code = sqlstate(error) or getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
                if code == UNDEFINED_FUNCTION:
                    raise DatabaseUnavailableError(NO_FUNCTIONS) from error
                raise

        inserted = insert_tasks(run, tasks, room=max(0, INLINE_SENDS - len(outbox.waiting(session))))
        now = datetime.now(UTC)  # the commit may come later: the time counts, not the delay
        outbox.add(
            session,
            [
                replace(task, delay=None, at=now + timedelta(seconds=max(0.0, task.due_seconds)))
                for task in inserted
                if isinstance(task, NewTask) and (_is_near(task) or task.freed)
            ],
        )
        return [result if isinstance(result, JobError) else _result(result, sent=False) for result in inserted]

    def _check_stage(self, session: Session) -> None:
        """Check the stage of the session's database, once per engine. Raises :class:`WrongStageError`."""
        from sqlalchemy import text

        engine = session.get_bind().engine
        if engine not in self._checked_engines:
            if (
                self._opened is None or engine is not self._opened.engine
            ):  # the client's own engine was checked when it connected
                match_stage(session.execute(text(STAGE)).all(), self._prefix)
            self._checked_engines.add(engine)

    def send_committed(self, tasks: Sequence[NewTask]) -> None:
        """Send the messages of tasks whose rows were committed. The session's outbox calls it."""
        near = _near(tasks)
        inline = near[:INLINE_SENDS]
        entries = [replace(task.entry, delay_seconds=delay_seconds(seconds_until(task.at))) for task in inline]
        self._send_rows(entries, inline)
        if len(near) > INLINE_SENDS:
            wake(self._sqs, self._prefix)
        self._serve_replaced(tasks)

    @cached_property
    def limits(self) -> Limits:
        """The limits of the stage: ``jobs.limits.set``, ``reset`` and ``get``, see
        :class:`~joblane.client_limits.Limits`."""
        from joblane.client_limits import Limits

        if not self._record:
            raise LimitError("record", "a client made with record=False knows no limits; make JobClient()")
        return Limits(self._connecting, self._send_turns, lambda: wake(self._sqs, self._prefix))

    def _send_turns(self, turns: Sequence[Turn]) -> None:
        self._sqs.send_many([turn.entry(self._prefix) for turn in turns], brief=True)

    @cached_property
    def _prefix(self) -> str:
        return check_prefix(settings.prefix())

    def _database(self) -> Database:
        if self._opened is None:
            self._opened = Database(settings.database_url(), prefix=self._prefix, limits=CLIENT)
        return self._opened

    @contextmanager
    def _connecting(self) -> Iterator[Database]:
        """Reserve the connection for this thread. Raises :class:`DatabaseUnavailableError` after a limited time."""
        if not self._lock.acquire(timeout=LONGEST_TURN_SECONDS):
            raise DatabaseUnavailableError(
                f"the database is unavailable: other threads have used the client's connection for "
                f"{LONGEST_TURN_SECONDS:g} s; nothing was written or sent"
            )
        try:
            yield self._database()
        finally:
            self._lock.release()

    def _after_fork(self) -> None:
        """Make a new lock, because another thread of the parent may have held it."""
        self._lock = threading.Lock()


@cache
def _statement(sql: str) -> TextClause:
    """Return an SQL text for a session. It is made once, because SQLAlchemy reads it by a regular expression."""
    from sqlalchemy import text

    return text(sql.replace("$1", ":document"))


def _is_lost(error: Exception) -> bool:
    """True if the connection broke. The server may have committed, and its answer was lost."""
    code = sqlstate(error)
    return code is None or code.startswith(SHUT_DOWN)


def _refusal(error: Exception, tasks: Sequence[NewTask], *, may_exist: bool) -> JobError:
    if (sqlstate(error) or "").startswith(REFUSED_CLASSES):
        return EnqueueError("payload", f"the database cannot store it: {text_of(error)}")
    if not may_exist:
        return DatabaseUnavailableError(
            f"the database did not accept the task: {text_of(error)}; nothing was written or sent, enqueue it again"
        )
    others = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
    return DatabaseUnavailableError(
        f"the database did not answer: {text_of(error)}; the task may have been accepted. Its id is {tasks[0].id}"
        f"{others}: check it with get(), or enqueue it again with this task_id, which makes no second task",
        task_ids=[task.id for task in tasks],
    )


def _refuse_repeats(tasks: Sequence[NewTask]) -> None:
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise EnqueueError("task_id", f"{task.id!r} is given to two jobs of this call")
        seen.add(task.id)


def _near(inserted: Sequence[NewTask | JobError]) -> list[NewTask]:
    """Return the tasks whose messages SQS can delay until they are due."""
    return [task for task in inserted if isinstance(task, NewTask) and _is_near(task)]


def _is_near(task: NewTask) -> bool:
    return task.state is None and task.due_seconds <= MAX_DELAY_SECONDS


def _result(new: NewTask, *, sent: bool) -> Enqueued:
    result = _enqueued(new, new.due_seconds, sent=sent)
    return result if new.created else replace(result, state=new.state or result.state, created=False)


def _enqueued(new: NewTask, due_seconds: float, *, sent: bool) -> Enqueued:
    state = State.SCHEDULED if due_seconds > 0 else State.PENDING
    return Enqueued(new.id, new.task.type, new.queue, state, sent, past=is_past(new.at))
