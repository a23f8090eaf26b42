"""The writes and sends of an enqueue: the row commits with the caller's work, and its message is sent after the commit.

If the process ends between the commit and the send, the sweep sends the message. Without a session the client commits
the row itself. Without a record (``JobClient(record=False)``) the client only sends: then delays end at 15 minutes, and
a task can be lost between the caller's commit and the send.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

from pg8000.exceptions import Error as PostgresError

from joblane import settings, telemetry
from joblane.enqueue.chain import DEPTH, not_granted, too_deep
from joblane.enqueue.check import check, delay_seconds, is_past, seconds_until
from joblane.enqueue.insert import insert_again, insert_tasks
from joblane.enqueue.outbox import Outbox
from joblane.enqueue.wake import wake
from joblane.errors import (
    UNDEFINED_FUNCTION,
    DatabaseUnavailableError,
    DepthError,
    EnqueueError,
    JobError,
    SendError,
    sqlstate,
    text_of,
)
from joblane.forking import follow_forks
from joblane.job import Job
from joblane.limits import MAX_DELAY_SECONDS
from joblane.queues import Queue, check_prefix
from joblane.record.connection import REFUSED_CLASSES, SHUT_DOWN
from joblane.record.database import Database
from joblane.record.functions import VERSION
from joblane.record.insert import NewTask
from joblane.record.serve import Turn, serve
from joblane.record.stage import STAGE, match_stage
from joblane.record.states import State
from joblane.record.time_limits import CLIENT
from joblane.sqs.client import PAUSED, Entry, Sqs

if TYPE_CHECKING:
    from sqlalchemy import Engine, TextClause
    from sqlalchemy.orm import Session

    from joblane.declaration import Task
    from joblane.record.connection import Connection

LONGEST_TURN_SECONDS = CLIENT.connect + CLIENT.answer
"""A thread waits this long for its turn on the client's connection."""
INLINE_SENDS = 100
"""Messages sent at once after a session's commit. The client wakes the sweep for the rest."""
NO_FUNCTIONS = f"the database lacks the functions of this code, version {VERSION}: run `joblane migrate` of this code"


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
    """``pending`` if the task is due, ``held`` if it waits for its parents, ``scheduled`` if it is due later. For an
    existing task: its state."""
    sent: bool
    """True if this call has sent the message. False if it is sent after the commit of the session, or later by the
    sweep, or if an existing task has its message already."""
    created: bool = True
    """False if an existing task held the unique key and was returned, replaced or pushed."""
    past: bool = False
    """True if ``process_at`` was in the past, so that the task is due now."""


class Producer:
    """Inserts rows and sends messages. :class:`~joblane.client.JobClient` is the interface."""

    def __init__(self, *, record: bool = True) -> None:
        self._record = record
        self._sqs = Sqs()
        self._lock = threading.Lock()
        self._opened: Database | None = None
        self._owns = True
        self._task: Task[Any, Any] | None = None
        """The task whose runs use this client. None: a client outside of runs."""
        follow_forks(self, Producer._after_fork)
        self._checked_engines: WeakSet[Engine] = WeakSet()

    @classmethod
    def within(cls, database: Database, sqs: Sqs, prefix: str, task: Task[Any, Any] | None = None) -> Self:
        """Return a client over existing connections, those of a running ``task``. None: there is none."""
        client = cls()
        client._task = task
        client._opened, client._sqs, client._prefix, client._owns = database, sqs, prefix, False
        return client

    def enqueue_one(self, job: Job, session: Session | None, links: Mapping[str, Any]) -> Enqueued:
        """Enqueue one job. ``links``: its relations to other tasks besides ``after``, see ``link_task.sql``."""
        result = self._enqueue([self.linked(self.checked(job), links)], session)[0]
        if isinstance(result, JobError):
            raise result
        return result

    def enqueue_all(
        self, jobs: Iterable[Job], session: Session | None, links: Mapping[str, Any]
    ) -> list[Enqueued | JobError]:
        """Enqueue jobs, see :meth:`enqueue_one`."""
        return self._enqueue([self.linked(task, links) for task in self._checked(jobs)], session)

    def checked(self, job: Job) -> NewTask:
        """Check a job. Raises :class:`EnqueueError`."""
        new = check(job, record=self._record, prefix=self._prefix)
        if self._task is not None and not self._task.may_enqueue(new.task.type):
            raise EnqueueError("task", not_granted(self._task, new.task.type))
        return new

    def linked(self, new: NewTask, links: Mapping[str, Any]) -> NewTask:
        """Return a task with its relations to others. Raises :class:`DepthError`."""
        if not links:  # most tasks have none
            return new
        if links.get(DEPTH, 0) > new.task.max_depth:
            raise DepthError(too_deep(new.task, self._task or new.task, links[DEPTH]))
        return replace(new, links={**new.links, **links})

    @contextmanager
    def own_session(self) -> Iterator[Session]:
        """Return a session on a connection of its own, which commits at the end of the block.

        Raises :class:`DatabaseUnavailableError` if it cannot commit.
        """
        from sqlalchemy.orm import Session

        own = self._database().another()
        session = Session(own.engine)
        try:
            with translated():
                self._check_stage(session)
                own.get().limit(CLIENT)  # the transaction has begun, and a caller's has no limits
            yield session
            with translated():
                session.commit()
        finally:
            with suppress(Exception):  # rolls back, unless the connection is broken
                session.close()
            own.drop()

    def insert_unsent(self, session: Session, tasks: Sequence[NewTask]) -> list[NewTask | JobError]:
        """Write rows whose messages are sent by :meth:`send_after_commit`, in this or in a later transaction."""
        self._check_stage(session)
        return insert_tasks(runner(session), tasks, room=len(tasks))

    def send_after_commit(self, session: Session, tasks: Sequence[NewTask]) -> None:
        """Send the messages of tasks once the session has committed."""
        now = datetime.now(UTC)
        Outbox.of(session, self.send_committed).add(session, [replace(task, delay=None, at=now) for task in tasks])

    def send_committed(self, tasks: Sequence[NewTask]) -> None:
        """Send the messages of tasks whose rows were committed. The session's outbox calls it."""
        near = _near(tasks)
        inline = near[:INLINE_SENDS]
        entries = [replace(task.entry, delay_seconds=delay_seconds(seconds_until(task.at))) for task in inline]
        self._send_rows(entries, inline)
        if len(near) > INLINE_SENDS:
            wake(self._sqs, self._prefix)
        self._serve_replaced(tasks)

    def close(self) -> None:
        """Close the client's connection. The client can be used again: it then connects anew."""
        with self._lock:
            if self._opened is not None and self._owns:
                self._opened.drop()

    def _enqueue(self, tasks: Sequence[NewTask], session: Session | None) -> list[Enqueued | JobError]:
        if not self._record:
            if session is not None:
                raise EnqueueError("session", "a client made with record=False writes no row; make JobClient()")
            return self._send_without_rows(tasks)
        if session is not None:
            return self._insert_in(session, tasks)
        return self._send_recorded(self._insert(tasks))

    def _checked(self, jobs: Iterable[Job]) -> list[NewTask]:
        tasks: list[NewTask] = []
        for position, job in enumerate(jobs):
            try:
                tasks.append(self.checked(job))
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
        session = plain(session)
        self._check_stage(session)
        outbox = Outbox.of(session, self.send_committed)
        room = max(0, INLINE_SENDS - outbox.waiting(session))
        inserted = insert_tasks(runner(session), tasks, room=room)
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

    def _start(self, find: Callable[[Connection], list[Turn]]) -> None:
        """Start the tasks that ``find`` returns, after the commit. If it fails, the sweep does it."""
        try:
            with self._connecting() as database:
                try:
                    if not database.get().idle:  # a handler's transaction, which has not committed yet
                        return
                    turns = find(database.get())
                except (PostgresError, OSError):
                    database.drop()
                    return
        except (JobError, settings.MissingSettingError):  # a program that only enqueues in sessions needs no setting
            return
        self._send_turns(turns)

    def _serve_replaced(self, tasks: Iterable[NewTask | JobError]) -> None:
        """Start the tasks that wait for what replaced tasks have given back."""
        if freed := [task.freed for task in tasks if isinstance(task, NewTask) and task.freed]:
            self._start(lambda connection: serve(connection, freed))

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


@contextmanager
def translated() -> Iterator[None]:
    """Raise :class:`DatabaseUnavailableError` in the place of a driver's error."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (DBAPIError, PostgresError, OSError) as error:
        raise DatabaseUnavailableError(f"the database is unavailable: {text_of(error)}") from error


def plain(session: Session) -> Session:
    """Return the session that a ``scoped_session`` has now. Raises :class:`EnqueueError` for anything else."""
    from sqlalchemy.orm import Session, scoped_session

    if hasattr(session, "run_sync"):
        raise EnqueueError(
            "session",
            "a plain Session is required; with an AsyncSession use "
            "await session.run_sync(lambda s: jobs.enqueue(task, payload, session=s))",
        )
    if not isinstance(session, (Session, scoped_session)):
        raise EnqueueError("session", f"an SQLAlchemy Session is required, not {type(session).__name__}")
    return session() if isinstance(session, scoped_session) else session  # a registry would give other sessions later


def runner(session: Session) -> Callable[..., list[list[Any]]]:
    """Return the function by which :func:`insert_tasks` runs its statements in a session."""
    from sqlalchemy.exc import StatementError

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

    return run


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
    state = State.SCHEDULED if due_seconds > 0 else State.HELD if new.waits else State.PENDING
    return Enqueued(new.id, new.task.type, new.queue, state, sent, past=is_past(new.at))
