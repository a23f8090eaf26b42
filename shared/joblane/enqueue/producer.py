"""The writes and sends of an enqueue: the row commits with the caller's work, and its message is sent after the commit.

If the process ends between the commit and the send, the sweep sends the message. Without a session the producer commits
the row itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import WeakSet

from pg8000.exceptions import Error as PostgresError

from joblane import settings, telemetry
from joblane.enqueue.chain import DEPTH, not_granted, too_deep
from joblane.enqueue.check import check, delay_seconds, seconds_until
from joblane.enqueue.follow_up import FollowUp
from joblane.enqueue.foreign import Foreign
from joblane.enqueue.insert import Run, insert_again, insert_tasks, is_lost, refusal
from joblane.enqueue.outbox import INLINE_SENDS, Outbox
from joblane.enqueue.result import Enqueued, check_each, near_tasks, results, to_send
from joblane.enqueue.session import asynchronous, executed, plain, runner, translated
from joblane.enqueue.wake import is_covered, wake, wake_after_commit
from joblane.errors import (
    DatabaseUnavailableError,
    DepthError,
    EnqueueError,
    JobError,
    text_of,
)
from joblane.forking import follow_forks
from joblane.names import check_prefix
from joblane.record.driver.database import Database
from joblane.record.driver.stage import STAGE, match_stage
from joblane.record.driver.time_limits import CLIENT
from joblane.record.task.insert import NewTask
from joblane.sqs.client import PAUSED, Entry, Sqs
from joblane.tasks.job import Job

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from joblane.enqueue.session import AnyAsyncSession, AnySession
    from joblane.enqueue.threads import Threads
    from joblane.record.driver.connection import Connection
    from joblane.tasks.task import Task

LONGEST_TURN_SECONDS = CLIENT.connect + CLIENT.answer
"""A thread waits this long for its turn on the client's connection."""
YIELD_SECONDS = 0.001
"""A thread that takes many turns pauses between them, because a lock of Python does not give turns in order."""
NOT_SENT = "messages could not be sent; their rows are safe and the sweep sends them"
A = TypeVar("A")
T = TypeVar("T")


class Producer:
    """Inserts rows and sends messages, for a :class:`~joblane.client.client.JobClient` and for the run of a task."""

    def __init__(self) -> None:
        self._sqs = Sqs()
        self._lock = threading.Lock()
        self._opened: Database | None = None
        self._owns = True
        self._task: Task[Any, Any] | None = None
        """The task whose runs use this producer. None: it is used outside of runs."""
        self.keeps_chain = True
        """False while an invocation has several messages, whose chains Lambda joins: a task that one of them enqueues
        begins a chain, so that the chains do not make each other longer. ``max_depth`` stops a chain without end."""
        follow_forks(self, Producer._after_fork)
        self._checked_engines: WeakSet[Engine] = WeakSet()
        self._checked_databases: set[Hashable] = set()

    @classmethod
    def within(cls, database: Database, sqs: Sqs, prefix: str, task: Task[Any, Any] | None = None) -> Self:
        """Return a producer over existing connections, those of a running ``task``. None: there is none."""
        producer = cls()
        producer._task = task
        producer._opened, producer._sqs, producer._prefix, producer._owns = database, sqs, prefix, False
        return producer

    def enqueue_one(self, job: Job, session: AnySession | Foreign | None, links: Mapping[str, Any]) -> Enqueued:
        """Enqueue one job. ``links``: its relations to other tasks besides ``after``, see ``link_task.sql``."""
        result = self._enqueue([self.linked(self.checked(job), links)], session)[0]
        if isinstance(result, JobError):
            raise result
        return result

    def enqueue_all(
        self, jobs: Iterable[Job], session: AnySession | Foreign | None, links: Mapping[str, Any]
    ) -> list[Enqueued | JobError]:
        """Enqueue jobs, see :meth:`enqueue_one`."""
        return self._enqueue([self.linked(task, links) for task in check_each(self.checked, jobs)], session)

    async def aenqueue_one(
        self, job: Job, session: AnyAsyncSession | Foreign | None, links: Mapping[str, Any]
    ) -> Enqueued:
        """Enqueue one job as :meth:`enqueue_one` does, without blocking the event loop."""
        return await self._without_blocking(self.enqueue_one, job, session, links)

    async def aenqueue_all(
        self, jobs: Iterable[Job], session: AnyAsyncSession | Foreign | None, links: Mapping[str, Any]
    ) -> list[Enqueued | JobError]:
        """Enqueue jobs, see :meth:`aenqueue_one`."""
        return await self._without_blocking(self.enqueue_all, list(jobs), session, links)

    async def _without_blocking(
        self,
        enqueue: Callable[[A, Any, Mapping[str, Any]], T],
        jobs: A,
        session: AnyAsyncSession | Foreign | None,
        links: Mapping[str, Any],
    ) -> T:
        """Call ``enqueue`` where it can wait: in a thread, or in the caller's transaction, whose driver waits."""
        if session is None:
            return await self.threads.call(partial(enqueue, jobs, None, links))
        from sqlalchemy.util import greenlet_spawn

        place = session if isinstance(session, Foreign) else asynchronous(session).sync_session
        return await greenlet_spawn(enqueue, jobs, place, links)

    def checked(self, job: Job) -> NewTask:
        """Check a job. Raises :class:`EnqueueError`."""
        new = check(job, record=True, prefix=self._prefix)
        new.entry.keeps_chain = self.keeps_chain
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

    def change(
        self,
        where: AnySession | Foreign | None,
        change: Callable[[Run], tuple[T, list[NewTask]]],
        *,
        writes: bool = True,
    ) -> T:
        """Run statements in the caller's transaction, or in one of the client's own, and return their result.

        ``change`` gets a function that runs a statement. It also returns tasks, which are inserted in the same
        transaction. Their messages are sent after its commit. ``writes`` False: the statements write nothing.
        """
        if where is None:
            return self._change_alone(change, writes=writes)
        if isinstance(where, Foreign):
            self._check_foreign(where)
            if writes:
                self._wake(is_async=where.is_async)
            with where.together():
                result, tasks = change(where.run)
                if tasks:
                    self._insert_through(where, tasks)
            return result
        session = plain(where)
        self._check_stage(session)
        if writes:
            self.wake_in(session)
        result, tasks = change(runner(session))
        if tasks:
            self._insert_in(session, tasks)
        return result

    async def achange(
        self,
        where: AnyAsyncSession | Foreign | None,
        change: Callable[[Run], tuple[T, list[NewTask]]],
        *,
        writes: bool = True,
    ) -> T:
        """Run statements as :meth:`change` does, without blocking the event loop."""

        def run(given: Any, place: Any, _: object) -> T:
            result: T = self.change(place, given, writes=writes)
            return result

        return await self._without_blocking(run, change, where, {})

    def _change_alone(self, change: Callable[[Run], tuple[T, list[NewTask]]], *, writes: bool) -> T:
        with self._connecting() as database:
            try:
                connection = database.get()
                if writes:
                    self._wake()
                result, inserted = _in_transaction(connection, change)
            except (PostgresError, OSError) as error:
                database.drop()
                raise DatabaseUnavailableError(
                    f"the database is unavailable: {text_of(error)}; look whether it was changed before you try again"
                ) from error
            except BaseException:
                if self._opened is not None and not database.get().idle:  # an interrupt
                    database.drop()
                raise
        self._send_recorded(inserted)
        return result

    def insert_unsent(self, session: Session, tasks: Sequence[NewTask]) -> list[NewTask | JobError]:
        """Write rows whose messages are sent by :meth:`send_after_commit`, in this or in a later transaction."""
        self._check_stage(session)
        self.wake_in(session)
        return insert_tasks(runner(session), tasks, room=len(tasks))

    def wake_in(self, session: Session) -> None:
        """Make sure that a sweep follows a write in the session, see :func:`wake_after_commit`."""
        self._wake(is_async=session.get_bind().dialect.is_async)

    def send_after_commit(self, session: Session, tasks: Sequence[NewTask]) -> None:
        """Send the messages of tasks once the session has committed."""
        now = datetime.now(UTC)
        self._outbox(session).add(session, [replace(task, delay=None, at=now) for task in tasks])

    def send_committed(self, tasks: Sequence[NewTask]) -> None:
        """Send the messages of tasks whose rows were committed. The session's outbox calls it."""
        try:
            near = near_tasks(tasks)
            inline = near[:INLINE_SENDS]
            entries = [replace(task.entry, delay_seconds=delay_seconds(seconds_until(task.at))) for task in inline]
            self._send_rows(entries, inline)
            if len(near) > INLINE_SENDS:
                wake(self._sqs, self._prefix)
            self._serve_replaced(tasks)
        except Exception as error:  # the caller's commit has succeeded
            telemetry.logger().warning(NOT_SENT, extra={"messages": len(tasks), "error": text_of(error)})

    def close(self) -> None:
        """Close the producer's own connection. The next use opens a new one."""
        with self._lock:
            if self._opened is not None and self._owns:
                self._opened.drop()

    def __del__(self) -> None:
        try:  # noqa: SIM105
            self.close()
        except Exception:  # noqa: S110 - at the interpreter's end modules are gone, `suppress` too
            pass

    def _enqueue(self, tasks: Sequence[NewTask], session: AnySession | Foreign | None) -> list[Enqueued | JobError]:
        if isinstance(session, Foreign):
            return self._insert_through(session, tasks)
        if session is not None:
            return self._insert_in(session, tasks)
        return self._send_recorded(self._insert(tasks))

    def _insert(self, tasks: Sequence[NewTask]) -> list[NewTask | JobError]:
        """Write the rows in the client's own transactions.

        If the answer is lost, the same ids are inserted again on a new connection.
        """
        with self._connecting() as database:
            sent = False

            def run(sql: str, *documents: str) -> list[list[Any]]:
                nonlocal sent
                connection = database.get()
                self._wake()
                sent = True
                if len(documents) == 1:
                    return connection.run(sql, *documents)
                try:
                    connection.execute_simple("begin")
                    rows = connection.run_each(sql, *documents)
                    connection.commit()
                except BaseException:  # an interrupt would leave the transaction open
                    database.drop()
                    raise
                return rows

            try:
                return insert_tasks(run, tasks)
            except (PostgresError, OSError) as error:
                database.drop()
                if not (sent and is_lost(error)):
                    raise refusal(error, tasks, may_exist=False) from error
            try:
                return insert_again(run, tasks)
            except (PostgresError, OSError) as error:
                database.drop()
                raise refusal(error, tasks, may_exist=True) from error

    def _send_recorded(self, inserted: Sequence[NewTask | JobError]) -> list[Enqueued | JobError]:
        """Send the messages that SQS can delay until they are due. The sweep sends the others, and those that fail."""
        near = near_tasks(inserted)
        entries = [replace(task.entry, delay_seconds=delay_seconds(task.due_seconds)) for task in near]
        sent = self._send_rows(entries, near)
        self._serve_replaced(inserted)
        return results(inserted, sent)

    def _send_rows(self, entries: Sequence[Entry], tasks: Sequence[NewTask]) -> set[str]:
        if not entries:
            return set()
        failed = self._sqs.send_many(entries, brief=True)
        for position, why in [item for item in failed.items() if item[1] != PAUSED][:1]:
            telemetry.logger().warning(
                NOT_SENT,
                extra={"messages": len(failed), "queue": entries[position].queue, "error": why},
            )
        return {task.id for position, task in enumerate(tasks) if position not in failed}

    def _insert_in(self, session: AnySession, tasks: Sequence[NewTask]) -> list[Enqueued | JobError]:
        """Write the rows in the caller's transaction. Its commit sends their messages."""
        session = plain(session)
        self._check_stage(session)
        self.wake_in(session)
        outbox = self._outbox(session)
        room = max(0, INLINE_SENDS - outbox.waiting(session))
        inserted = insert_tasks(runner(session), tasks, room=room)
        outbox.add(session, to_send(inserted))
        return results(inserted)

    def _insert_through(self, connection: Foreign, tasks: Sequence[NewTask]) -> list[Enqueued | JobError]:
        """Write the rows through the caller's own driver, in the caller's transaction."""
        self._check_foreign(connection)
        self._wake(is_async=connection.is_async)
        inserted = insert_tasks(connection.run, tasks, room=connection.room)
        if tasks := to_send(inserted):
            connection.send_later(tasks, self.send_committed, self._always_in_thread)
        return results(inserted)

    def _check_foreign(self, connection: Foreign) -> None:
        """Check the stage of a connection's database, once per database. Raises :class:`WrongStageError`."""
        if connection.database is None or connection.database not in self._checked_databases:
            match_stage(connection.run(STAGE, None), self._prefix)
            self._checked_databases.add(connection.database)

    def _outbox(self, session: Session) -> Outbox:
        return Outbox.of(session, self.send_committed, self._always_in_thread)

    async def _always_in_thread(self, send: Callable[[], None]) -> None:
        try:
            await self.threads.call(send, always=True)
        except RuntimeError as error:  # no thread can be started: too many, or the interpreter ends
            telemetry.logger().warning(NOT_SENT, extra={"error": text_of(error)})

    @cached_property
    def threads(self) -> Threads:
        """The threads of asynchronous callers."""
        from joblane.enqueue.threads import Threads

        return Threads()

    def _check_stage(self, session: Session) -> None:
        """Check the stage of the session's database, once per engine. Raises :class:`WrongStageError`."""
        engine = session.get_bind().engine
        if engine not in self._checked_engines:
            if (
                self._opened is None or engine is not self._opened.engine
            ):  # the client's own engine was checked when it connected
                match_stage(executed(session, STAGE), self._prefix)
            self._checked_engines.add(engine)

    def _wake(self, *, is_async: bool = False) -> None:
        """Make sure that a sweep follows a write. ``is_async``: in a greenlet, whose event loop must not block."""
        if is_covered(self._sqs, self._prefix):
            return
        if not is_async:
            wake_after_commit(self._sqs, self._prefix)
            return
        from sqlalchemy.util import await_only

        await_only(self._always_in_thread(partial(wake_after_commit, self._sqs, self._prefix)))

    def _follow(self, follow_up: FollowUp) -> None:
        """Do what follows a commit. The sweep does what fails."""
        follow_up.act(self._sqs, self._prefix, self._run_alone, brief=True)

    def _run_alone(self, statement: Callable[[Connection], T]) -> T | None:
        """Run a statement in a transaction of its own. None: the caller's transaction is open on this connection."""
        try:
            with self._connecting() as database:
                try:
                    if not database.get().idle:  # a handler's transaction, which has not committed yet
                        return None
                    self._wake()
                    return statement(database.get())
                except (PostgresError, OSError):
                    database.drop()
                    raise
        except settings.MissingSettingError:  # a program that only enqueues in sessions needs no setting
            return None
        finally:
            time.sleep(YIELD_SECONDS)

    def _serve_replaced(self, tasks: Iterable[NewTask | JobError]) -> None:
        """Start the tasks that wait for what replaced tasks have given back."""
        if freed := [task.freed for task in tasks if isinstance(task, NewTask) and task.freed]:
            self._follow(FollowUp(freed=freed))

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
        """Make a new lock, which another thread of the parent may have held, and new threads."""
        self._lock = threading.Lock()
        self.__dict__.pop("threads", None)


def _in_transaction(
    connection: Connection, change: Callable[[Run], tuple[T, list[NewTask]]]
) -> tuple[T, list[NewTask | JobError]]:
    """Run statements in a transaction of their own, and insert the tasks that ``change`` returns. An error of the
    caller's arguments rolls it back."""
    if not connection.idle:
        raise EnqueueError(
            "session", "the handler's transaction is open: give session=ctx.session, or use a new JobClient"
        )
    connection.execute_simple("begin")
    try:
        result, tasks = change(connection.run_each)
    except JobError:
        connection.rollback()
        raise
    inserted = insert_tasks(connection.run_each, tasks, room=INLINE_SENDS) if tasks else []
    connection.commit()
    return result, inserted
