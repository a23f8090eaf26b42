"""The client: it enqueues tasks, shows their state, and cancels them. See :mod:`joblane.enqueue.producer` for how."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack

from pg8000.exceptions import Error as PostgresError

from joblane.client.waiting import Waiting
from joblane.enqueue.follow_up import FollowUp
from joblane.enqueue.producer import Producer, transaction_of
from joblane.enqueue.result import Enqueued
from joblane.errors import (
    DatabaseUnavailableError,
    EnqueueError,
    JobError,
    UnknownTaskError,
    text_of,
)
from joblane.record.row.states import State
from joblane.record.row.transitions import CANCEL
from joblane.record.task.status import PROGRESS, STATUS, TaskStatus
from joblane.sqs.message import ID_PATTERN
from joblane.tasks.arguments import BATCH, MANY, advised, with_payload
from joblane.tasks.job import Job, JobOptions, check_names

if TYPE_CHECKING:
    from joblane.client.async_batch import AsyncBatch
    from joblane.client.batch import Batch
    from joblane.client.limits import Limits
    from joblane.client.progress import Streams
    from joblane.client.schedules import Schedules
    from joblane.enqueue.session import AnyAsyncSession, AnySession
    from joblane.enqueue.transaction import AfterCommit, AsyncAfterCommit
    from joblane.record.driver.database import Database
    from joblane.sqs.client import Sqs
    from joblane.tasks.payload import Payload
    from joblane.tasks.task import Task

P = TypeVar("P", bound="Payload")


class JobClient:
    """Enqueues tasks, shows their state, and cancels them.

    One client serves any number of threads. Settings are read and connections are made on first use. It keeps one
    connection to the database until :meth:`close`, or until the end of ``with JobClient() as jobs:``.
    """

    def __init__(self, *, record: Literal[True] = True) -> None:
        """``record``: a client without a database is a :class:`~joblane.client.message_client.MessageClient`.

        Raises:
            EnqueueError: ``record`` is False.
        """
        if not record:
            raise EnqueueError(
                "record", "a JobClient writes rows; for a producer without a database use MessageClient()"
            )
        self._producer = Producer()

    @with_payload
    def enqueue(
        self,
        task: Task[P, Any],
        payload: P,
        *,
        session: AnySession | None = None,
        connection: object = None,
        after_commit: AfterCommit | None = None,
        **options: Unpack[JobOptions],
    ) -> Enqueued:
        """Enqueue one task.

        Args:
            task: A function declared by ``@task``.
            payload: An instance of the task's payload class.
            session: A session of SQLAlchemy. The task exists once the session commits; its
                message is sent after that. None: the client commits the row and sends the message at once.
            connection: A connection of psycopg or of Django, instead of ``session``. The task exists once its
                transaction commits. None: none.
            after_commit: Gets a function without arguments that sends the message; call it after the commit. Required
                with a connection of psycopg, for example ``callbacks.append`` of a list. None with a connection of
                Django: its ``on_commit`` calls the function.
            options: The enqueue options, see :class:`~joblane.tasks.job.Job`.

        Raises:
            EnqueueError: an argument is wrong. Nothing was written or sent.
            TaskIdConflictError: ``task_id`` exists already. Nothing was written or sent.
            DuplicateTaskError: a live task holds the unique key. Nothing was written or sent.
            DatabaseUnavailableError: the database is unavailable.
            WrongStageError: the database belongs to another stage.
            MissingSettingError: ``DATABASE_URL`` is not set.
        """
        check_names(options)
        where = transaction_of(session, connection, after_commit)
        return self._producer.enqueue_one(Job(task, payload, **options), where, {})

    @advised(MANY, EnqueueError)
    def enqueue_many(
        self,
        jobs: Iterable[Job],
        *,
        session: AnySession | None = None,
        connection: object = None,
        after_commit: AfterCommit | None = None,
    ) -> list[Enqueued | JobError]:
        """Enqueue many tasks with one INSERT per 10,000 tasks, in one transaction, and batched sends.

        Returns a result for each job, in order. A job that was not enqueued has its error instead of a result:
        :class:`TaskIdConflictError` or :class:`DuplicateTaskError`.

        Args:
            jobs: The jobs. Each can have a ``task_id`` of its own.
            session: As for :meth:`enqueue`. After the session's commit the client sends the first 100 messages, and the
                sweep sends the rest.
            connection: As for :meth:`enqueue`.
            after_commit: As for :meth:`enqueue`. It gets at most one function for all jobs.

        Raises:
            EnqueueError: an argument of a job is wrong. The message has the job's position. Nothing was written or
                sent.
            DatabaseUnavailableError: the database is unavailable.
            WrongStageError: the database belongs to another stage.
        """
        return self._producer.enqueue_all(jobs, transaction_of(session, connection, after_commit), {})

    @with_payload
    async def aenqueue(
        self,
        task: Task[P, Any],
        payload: P,
        *,
        session: AnyAsyncSession | None = None,
        connection: object = None,
        after_commit: AsyncAfterCommit | None = None,
        **options: Unpack[JobOptions],
    ) -> Enqueued:
        """Enqueue one task without blocking the event loop. Options and errors are those of :meth:`enqueue`.

        If the caller is cancelled meanwhile, the task may have been enqueued, unless it is in a transaction that does
        not commit.

        Args:
            task: A function declared by ``@task``.
            payload: An instance of the task's payload class.
            session: An asynchronous session of SQLAlchemy. The task exists once the session commits. A thread sends the
                message, and ``await session.commit()`` returns after that. None: a thread commits the row and sends the
                message at once.
            connection: A connection of asyncpg, or an ``AsyncConnection`` of psycopg, instead of ``session``. The task
                exists once its transaction commits. None: none.
            after_commit: Gets an asynchronous function without arguments that sends the message; await it after the
                commit. Required with ``connection``, for example ``callbacks.append`` of a list.
            options: The enqueue options, see :class:`~joblane.tasks.job.Job`.
        """
        check_names(options)
        where = transaction_of(session, connection, after_commit, is_async=True)
        call = partial(self._producer.enqueue_one, Job(task, payload, **options), where, {})
        return await self._producer.awaited(where, call)

    async def aenqueue_many(
        self,
        jobs: Iterable[Job],
        *,
        session: AnyAsyncSession | None = None,
        connection: object = None,
        after_commit: AsyncAfterCommit | None = None,
    ) -> list[Enqueued | JobError]:
        """Enqueue many tasks without blocking the event loop, see :meth:`enqueue_many` and :meth:`aenqueue`."""
        where = transaction_of(session, connection, after_commit, is_async=True)
        return await self._producer.awaited(where, partial(self._producer.enqueue_all, list(jobs), where, {}))

    @advised(BATCH, EnqueueError)
    def batch(
        self,
        id: str,  # noqa: A002 - as of Enqueued
        *,
        on_end: Job | None = None,
        on_success: Job | None = None,
        session: AnySession | None = None,
    ) -> Batch:
        """Return a new batch: tasks whose common end starts a callback. See :class:`~joblane.client.batch.Batch`.

        Args:
            id: Id of the batch: 1 to 90 printable ASCII characters without spaces. The id must be new in the stage.
            on_end: The job that runs once all members have ended, archived and cancelled ones included. None: none.
            on_success: The job that runs once all members have completed, even after a redrive. If a member is
                cancelled, this job is cancelled. None: none.
            session: As for :meth:`enqueue`. None: the batch has a session of its own, which commits at the end of the
                ``with`` block, or of each call without it.

        Raises:
            EnqueueError: an argument is wrong. Nothing was written or sent.
        """
        from joblane.client.batch import Batch

        return Batch(self._producer, id, session, on_end=on_end, on_success=on_success)

    def abatch(
        self,
        id: str,  # noqa: A002 - as for batch
        *,
        on_end: Job | None = None,
        on_success: Job | None = None,
        session: AnyAsyncSession | None = None,
    ) -> AsyncBatch:
        """Return a new batch for ``async with``, which does not block the event loop. See :meth:`batch`.

        Args:
            id: As for :meth:`batch`.
            on_end: As for :meth:`batch`.
            on_success: As for :meth:`batch`.
            session: As for :meth:`aenqueue`. None: the batch has a session of its own, in a thread.
        """
        from joblane.client.async_batch import AsyncBatch
        from joblane.enqueue.session import asynchronous

        own = None if session is None else asynchronous(session).sync_session
        batch = self.batch(id, on_end=on_end, on_success=on_success, session=own)
        return AsyncBatch(batch, self._producer, has_session=session is not None)

    def get(self, task_id: str) -> TaskStatus | None:
        """Return the state of a task, or None if the id is unknown.

        Raises:
            DatabaseUnavailableError: the database is unavailable.
        """
        rows = self._query(STATUS, task_id)
        return TaskStatus.of(rows[0]) if rows else None

    async def aget(self, task_id: str) -> TaskStatus | None:
        """Return the state of a task as :meth:`get` does, without blocking the event loop."""
        return await self._producer.threads.call(partial(self.get, task_id))

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
        waiting = Waiting(task_id, timeout)
        while not (status := waiting.checked(self.get(task_id))).ended:
            time.sleep(waiting.pause())
        return status

    async def await_end(self, task_id: str, timeout: timedelta) -> TaskStatus:
        """Wait until a task has ended as :meth:`wait` does, without blocking the event loop."""
        import asyncio

        waiting = Waiting(task_id, timeout)
        while not (status := waiting.checked(await self.aget(task_id))).ended:
            await asyncio.sleep(waiting.pause())
        return status

    def signal(
        self,
        task_id: str,
        signal: str,
        value: Any = None,
        *,
        session: AnySession | None = None,
        connection: object = None,
        after_commit: AfterCommit | None = None,
    ) -> bool:
        """Send a signal to a task, which continues if it waits for it in ``ctx.wait``.

        The first signal of a name counts: this returns True. It returns False, and changes nothing, if a signal of this
        name came before, or if the task has completed or was cancelled. A signal may come before the wait, and before
        the first run. An archived task keeps its signals, for a retry.

        The task continues after the commit, as fast as a new task starts. If this process ends between the commit and
        the message, the sweep continues the task.

        Args:
            task_id: Id of the task.
            signal: Name of the signal, 1 to 100 printable ASCII characters.
            value: Value that ``ctx.wait`` returns: what JSON can hold, at most 65,536 bytes. A task gets at most 1,000
                signals, of 1 MiB in all.
            session: As for :meth:`enqueue`. The signal exists once the session commits. None: it commits by itself.
            connection: As for :meth:`enqueue`.
            after_commit: As for :meth:`enqueue`. It gets a function that lets the task continue.

        Raises:
            SignalError: an argument is wrong. Nothing was sent.
            UnknownTaskError: no task has this id.
            DatabaseUnavailableError: the database is unavailable. The signal may have been sent: repeat it.
        """
        return self._producer.signal(transaction_of(session, connection, after_commit), task_id, signal, value)

    async def asignal(
        self,
        task_id: str,
        signal: str,
        value: Any = None,
        *,
        session: AnyAsyncSession | None = None,
        connection: object = None,
        after_commit: AsyncAfterCommit | None = None,
    ) -> bool:
        """Send a signal as :meth:`signal` does, without blocking the event loop. See :meth:`aenqueue` for the
        transactions."""
        where = transaction_of(session, connection, after_commit, is_async=True)
        return await self._producer.awaited(where, partial(self._producer.signal, where, task_id, signal, value))

    def cancel(self, task_id: str) -> State | None:
        """Cancel a task.

        Returns ``cancelled`` if the task was waiting: it never runs. Returns ``active`` if the task is running: the run
        is interrupted at its next ``ctx.check()`` or ``ctx.progress()``, or rolled back at its end. Returns None if the
        task has ended or is unknown. The tasks that wait for a limit of the cancelled one start at once. Its children
        are cancelled too, unless they were enqueued with ``on_parent_dead="run"``. If they are so many that this takes
        longer than a second, the sweep cancels the rest, within minutes of the return.

        A cancel commits at once, even in a handler: a rollback does not undo it.

        Raises:
            DatabaseUnavailableError: the database is unavailable.
        """
        rows = self._query(CANCEL, task_id, writes=True)
        if not rows:
            return None
        state, has_children, *limits = rows[0]
        if state == State.CANCELLED and (has_children or any(limits)):
            following = FollowUp(ended=[task_id] if has_children else [])
            if any(limits):
                following.freed.append(limits)
            self._producer.follow(following)
        return State(state)

    async def acancel(self, task_id: str) -> State | None:
        """Cancel a task as :meth:`cancel` does, without blocking the event loop."""
        return await self._producer.threads.call(partial(self.cancel, task_id))

    @cached_property
    def limits(self) -> Limits:
        """The limits of the stage: ``jobs.limits.set``, ``reset`` and ``get``, see
        :class:`~joblane.client.limits.Limits`."""
        from joblane.client.limits import Limits

        return Limits(self._producer)

    @cached_property
    def schedules(self) -> Schedules:
        """The schedules made at run time: ``jobs.schedules.put``, ``get``, ``list``, ``pause``, ``resume``, ``delete``
        and ``run_now``, see :class:`~joblane.client.schedules.Schedules`."""
        from joblane.client.schedules import Schedules

        return Schedules(self._producer)

    def _query(self, sql: str, task_id: str, *more: str, writes: bool = False) -> list[list[Any]]:
        if not isinstance(task_id, str):
            raise TypeError(f"task_id: a string is required, not {type(task_id).__name__}")
        if not ID_PATTERN.fullmatch(task_id):  # no row has such an id, and the database could refuse it
            return []
        return self._run(sql, task_id, *more, writes=writes)

    def _run(self, sql: str, *parameters: Any, writes: bool = False) -> list[list[Any]]:
        with self._producer.connecting() as database:
            try:
                connection = database.get()
                if writes:
                    self._producer.wake_after_commit()
                return connection.run(sql, *parameters)
            except (PostgresError, OSError) as error:
                database.drop()
                raise DatabaseUnavailableError(f"the database is unavailable: {text_of(error)}") from error

    def close(self) -> None:
        """Close the client's connection. The client can be used again: it then connects again."""
        self._producer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.threads.call(self.close, always=True)


def client_within(database: Database, sqs: Sqs, prefix: str) -> JobClient:
    """Return a client over existing connections."""
    client = JobClient()
    client._producer = Producer.within(database, sqs, prefix)
    return client


def counting_signal(client: JobClient, task_id: str, signal: str, value: Any) -> str | None:
    """Send a signal by an address, and return the value of this name that counts, as JSON text.

    None: the task has ended, or is unknown. Raises as :meth:`JobClient.signal` does.
    """
    from joblane.enqueue.signals import json_text  # most programs have no addresses
    from joblane.record.task.waits import READ_SIGNAL

    try:
        if client._producer.signal(None, task_id, signal, value, "url"):
            return json_text(value)
    except UnknownTaskError:
        return None
    rows = client._query(READ_SIGNAL, task_id, signal)
    return rows[0][0] if rows else None


def streams_of(client: JobClient) -> Streams:
    """Return the streams of progress of a client, which has none before the first call."""
    from joblane.client.progress import Streams

    made: dict[str, Streams] = client.__dict__
    return made.get("_streams") or made.setdefault("_streams", Streams(partial(client._run, PROGRESS)))
