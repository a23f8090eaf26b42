"""The writes and sends of an enqueue: the row commits with the caller's work, and its message is sent after the commit.

If the process ends between the commit and the send, the sweep sends the message. Without a session the producer commits
the row itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, MutableSet, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property, partial
from itertools import count
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import WeakSet

from pg8000.exceptions import Error as PostgresError

from joblane import settings, telemetry
from joblane.enqueue.chain import DEPTH, not_granted, too_deep
from joblane.enqueue.check import check, delay_seconds, seconds_until
from joblane.enqueue.follow_up import FollowUp
from joblane.enqueue.insert import Execute, insert_tasks
from joblane.enqueue.own import OwnTransaction
from joblane.enqueue.result import Enqueued, check_each, near_tasks, results
from joblane.enqueue.session import SessionTransaction, asynchronous, translated
from joblane.enqueue.transaction import INLINE_SENDS, CallersTransaction, Transaction
from joblane.enqueue.wake import is_covered, wake, wake_after_commit
from joblane.errors import (
    DatabaseUnavailableError,
    DepthError,
    EnqueueError,
    JobError,
    UnknownTaskError,
    text_of,
)
from joblane.forking import follow_forks
from joblane.names import check_prefix
from joblane.record.driver.database import Database
from joblane.record.driver.stage import STAGE, match_stage
from joblane.record.driver.time_limits import CLIENT
from joblane.record.task.insert import NewTask
from joblane.sqs.client import PAUSED, Sqs
from joblane.tasks.event_kinds import ENQUEUEING
from joblane.tasks.job import Job

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from joblane.enqueue.signals import Signalled
    from joblane.enqueue.threads import Threads
    from joblane.record.driver.connection import Connection
    from joblane.tasks.task import Task

LONGEST_TURN_SECONDS = CLIENT.connect + CLIENT.answer
"""A thread waits this long for its turn on the client's connection."""
YIELD_SECONDS = 0.001
"""A thread that takes many turns pauses between them, because a lock of Python does not give turns in order."""
NOT_SENT = "messages could not be sent; their rows are safe and the sweep sends them"
T = TypeVar("T")


class Producer:
    """Inserts rows and sends messages, for a :class:`~joblane.client.client.JobClient` and for the run of a task."""

    def __init__(self) -> None:
        self.sqs = Sqs()
        self._lock = threading.Lock()
        self.opened: Database | None = None
        """The connection. None: the first use opens one."""
        self._owns = True
        self._task: Task[Any, Any] | None = None
        """The task whose runs use this producer. None: it is used outside of runs."""
        self.keeps_chain = True
        """False while an invocation has several messages, whose chains Lambda joins: a task that one of them enqueues
        begins a chain, so that the chains do not make each other longer. ``max_depth`` stops a chain without end."""
        follow_forks(self, Producer._after_fork)
        if settings.is_on(settings.OTEL):
            from joblane.otel import start

            start()
        self._checked_engines: WeakSet[Engine] = WeakSet()
        self._checked_addresses: set[Hashable] = set()

    @classmethod
    def within(cls, database: Database, sqs: Sqs, prefix: str, task: Task[Any, Any] | None = None) -> Self:
        """Return a producer over the existing connections of a running ``task``. None: there is none."""
        producer = cls()
        producer._task = task
        producer.opened, producer.sqs, producer.prefix, producer._owns = database, sqs, prefix, False
        return producer

    def enqueue_one(self, job: Job, where: CallersTransaction | None, links: Mapping[str, Any]) -> Enqueued:
        """Enqueue one job. ``links``: its relations to other tasks besides ``after``, see ``link_task.sql``."""
        new = self.checked(job)
        result = self._enqueue([self.linked(new, links) if links else new], where)[0]
        if isinstance(result, JobError):
            raise result
        return result

    def enqueue_all(
        self, jobs: Iterable[Job], where: CallersTransaction | None, links: Mapping[str, Any]
    ) -> list[Enqueued | JobError]:
        """Enqueue jobs, see :meth:`enqueue_one`."""
        return self._enqueue([self.linked(task, links) for task in check_each(self.checked, jobs)], where)

    async def awaited(self, where: CallersTransaction | None, call: Callable[[], T]) -> T:
        """Call a function where it can wait: in a thread, or in the caller's transaction, whose driver waits."""
        if where is None:
            return await self.threads.call(call)
        from sqlalchemy.util import greenlet_spawn

        return await greenlet_spawn(call)

    def checked(self, job: Job, *, is_enqueue: bool = True) -> NewTask:
        """Check a job. Raises :class:`EnqueueError`. ``is_enqueue`` False: the job of a schedule, without hooks."""
        if ENQUEUEING and is_enqueue:  # most programs have no hooks, and do not import them
            from joblane.enqueue.hooks import with_hooks

            job = with_hooks(job)
        new = check(job, record=True, prefix=self.prefix)
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
    def own_session(self) -> Iterator[SessionTransaction]:
        """Return the transaction of a session on a connection of its own, which commits at the end of the block.

        Raises :class:`DatabaseUnavailableError` if it cannot commit.
        """
        from sqlalchemy.orm import Session

        own = self.database().another()
        session = Session(own.engine)
        try:
            with translated():
                transaction = SessionTransaction(session)
                self.join(transaction)
                own.get().limit(CLIENT)  # the transaction has begun, and a caller's has no limits
            yield transaction
            with translated():
                session.commit()
        finally:
            with suppress(Exception):  # rolls back, unless the connection is broken
                session.close()
            own.drop()

    def change(
        self,
        where: CallersTransaction | None,
        change: Callable[[Execute], tuple[T, list[NewTask]]],
        *,
        writes: bool = True,
    ) -> T:
        """Run statements in the caller's transaction, or in one of the producer's own, and return their result.

        ``change`` gets a function that runs a statement. It also returns tasks, which are inserted in the same
        transaction. Their messages are sent after its commit. ``writes`` False: the statements write nothing.
        """
        if where is None:
            transaction: Transaction = self._own(writes=writes)
        else:
            self.join(where, writes=writes)
            transaction = where
        with transaction.together() as run:
            result, tasks = change(run)
            inserted = insert_tasks(run, tasks, room=transaction.room) if tasks else []
        transaction.send(inserted)
        return result

    def _own(self, *, writes: bool = True) -> OwnTransaction:
        """Return a transaction of the producer's own connection. ``writes`` False: its statements write nothing."""
        return OwnTransaction(self.connecting, self.wake_after_commit if writes else lambda: None, self._send_now)

    async def achange(
        self,
        where: CallersTransaction | None,
        change: Callable[[Execute], tuple[T, list[NewTask]]],
        *,
        writes: bool = True,
    ) -> T:
        """Run statements as :meth:`change` does, without blocking the event loop."""
        return await self.awaited(where, lambda: self.change(where, change, writes=writes))

    def join(self, where: CallersTransaction, *, writes: bool = True) -> None:
        """Take part in a caller's transaction. ``writes`` False: the statements write nothing.

        Raises :class:`WrongStageError`, and :class:`EnqueueError` for a transaction that cannot hold a task.
        """
        where.join(self.send_committed, self._always_in_thread)
        self._check_stage(where)
        if writes:
            self.wake_after_commit(is_async=where.is_async)

    def signal(
        self, where: CallersTransaction | None, task_id: str, name: str, value: Any, sent_by: str | None = None
    ) -> bool:
        """Send a signal, and let its task continue after the commit. Return False if it does not count."""
        from joblane.enqueue.signals import Signalled, check_refusal, checked  # most programs send no signals
        from joblane.record.task.waits import SIGNAL

        document = checked(task_id, name, value, sent_by)
        if where is not None:
            self.join(where)
        try:
            [[accepted]] = (self._own().signal if where is None else where.run)(SIGNAL, document)
        except Exception as error:  # of the caller's driver too
            check_refusal(error.__cause__ or error)
            raise
        if accepted is None:
            raise UnknownTaskError(task_id)
        if accepted and where is None:
            self.follow(FollowUp(signalled=[task_id]))
        elif accepted and where is not None:
            where.send_later([Signalled(task_id)])
        return bool(accepted)

    def send_committed(self, tasks: Sequence[NewTask | Signalled]) -> None:
        """Send the messages of tasks whose rows were committed. The session's outbox calls it."""
        try:
            near = near_tasks(tasks)
            inline = near[:INLINE_SENDS]
            for task in inline:
                task.entry.delay_seconds = delay_seconds(seconds_until(task.at))
            self._send_rows(inline)
            if len(near) > INLINE_SENDS:
                wake(self.sqs, self.prefix)
            self._serve_replaced(tasks)
            if signalled := [task.id for task in tasks if not isinstance(task, NewTask)]:
                self.follow(FollowUp(signalled=signalled))
        except Exception as error:  # the caller's commit has succeeded
            telemetry.logger().warning(NOT_SENT, extra={"messages": len(tasks), "error": text_of(error)})

    def close(self) -> None:
        """Close the producer's own connection. The next use opens a new one."""
        with self._lock:
            if self.opened is not None and self._owns:
                self.opened.drop()

    def __del__(self) -> None:
        try:  # noqa: SIM105
            self.close()
        except Exception:  # noqa: S110 - at the interpreter's end modules are gone, `suppress` too
            pass

    def _enqueue(self, tasks: Sequence[NewTask], where: CallersTransaction | None) -> list[Enqueued | JobError]:
        if where is None:
            transaction: Transaction = self._own()
        else:
            self.join(where)
            transaction = where
        inserted = transaction.insert(tasks)
        return results(inserted, transaction.send(inserted))

    def _send_now(self, inserted: Sequence[NewTask | JobError]) -> set[str]:
        """Send the messages that SQS can delay until they are due, and return the ids of their tasks. The sweep sends
        the others, and those that fail."""
        near = near_tasks(inserted)
        for task in near:
            task.entry.delay_seconds = delay_seconds(task.due_seconds)
        sent = self._send_rows(near)
        self._serve_replaced(inserted)
        return sent

    def _send_rows(self, tasks: Sequence[NewTask]) -> set[str]:
        if not tasks:
            return set()
        failed = self.sqs.send_many([task.entry for task in tasks], brief=True)
        for position, why in [item for item in failed.items() if item[1] != PAUSED][:1]:
            telemetry.logger().warning(
                NOT_SENT,
                extra={"messages": len(failed), "queue": tasks[position].entry.queue, "error": why},
            )
        return {task.id for position, task in enumerate(tasks) if position not in failed}

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

    def _check_stage(self, where: CallersTransaction) -> None:
        """Check the stage of a caller's database, once per engine or address. Raises :class:`WrongStageError`."""
        is_session = isinstance(where, SessionTransaction)
        checked: MutableSet[Any] = self._checked_engines if is_session else self._checked_addresses
        if where.database in checked:
            return
        if not (is_session and self.opened is not None and where.database is self.opened.engine):
            match_stage(where.run(STAGE, None), self.prefix)  # the own engine was checked when it connected
        if where.database is not None:
            checked.add(where.database)

    def wake_after_commit(self, *, is_async: bool = False) -> None:
        """Make sure that a sweep follows a write. ``is_async``: in a greenlet, whose event loop must not block."""
        if is_covered(self.sqs, self.prefix):
            return
        if not is_async:
            wake_after_commit(self.sqs, self.prefix)
            return
        from sqlalchemy.util import await_only

        await_only(self._always_in_thread(partial(wake_after_commit, self.sqs, self.prefix)))

    def follow(self, follow_up: FollowUp) -> None:
        """Do what follows a commit. The sweep does what fails."""
        turns = count()

        def call(statement: Callable[[Connection], T]) -> T | None:
            if next(turns):
                time.sleep(YIELD_SECONDS)
            return self._run_alone(statement)

        follow_up.act(self.sqs, self.prefix, call, brief=True)

    def _run_alone(self, statement: Callable[[Connection], T]) -> T | None:
        """Run a statement in a transaction of its own. None: the caller's transaction is open on this connection."""
        try:
            with self.connecting() as database:
                try:
                    if not database.get().idle:  # a handler's transaction, which has not committed yet
                        return None
                    self.wake_after_commit()
                    return statement(database.get())
                except (PostgresError, OSError):
                    database.drop()
                    raise
        except settings.MissingSettingError:  # a program that only enqueues in sessions needs no setting
            return None

    def _serve_replaced(self, tasks: Iterable[object]) -> None:
        """Start the tasks that wait for what replaced tasks have given back."""
        if freed := [task.freed for task in tasks if isinstance(task, NewTask) and task.freed]:
            self.follow(FollowUp(freed=freed))

    @cached_property
    def prefix(self) -> str:
        return check_prefix(settings.prefix())

    def database(self) -> Database:
        if self.opened is None:
            self.opened = Database(settings.database_url(), prefix=self.prefix, limits=CLIENT)
        return self.opened

    @contextmanager
    def connecting(self) -> Iterator[Database]:
        """Reserve the connection for this thread. Raises :class:`DatabaseUnavailableError` after a limited time."""
        if not self._lock.acquire(timeout=LONGEST_TURN_SECONDS):
            raise DatabaseUnavailableError(
                f"the database is unavailable: other threads have used the client's connection for "
                f"{LONGEST_TURN_SECONDS:g} s; nothing was written or sent"
            )
        try:
            yield self.database()
        finally:
            self._lock.release()

    def _after_fork(self) -> None:
        """Make a new lock, which another thread of the parent may have held, and new threads."""
        self._lock = threading.Lock()
        self.__dict__.pop("threads", None)


def transaction_of(
    session: Any,
    connection: object,
    after_commit: Callable[[Any], object] | None,
    *,
    is_async: bool = False,
) -> CallersTransaction | None:
    """Return the adapter of a caller's transaction. None: there is none. Raises :class:`EnqueueError`."""
    if connection is None and after_commit is None:
        if session is None:
            return None
        return SessionTransaction(asynchronous(session).sync_session if is_async else session)
    from joblane.enqueue.drivers import opened

    return opened(connection, after_commit, session, is_async=is_async)
