"""The second argument of every handler: one object with all that a handler needs of its run."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from joblane import telemetry
from joblane.enqueue.chain import links_of_run
from joblane.enqueue.session import SessionTransaction
from joblane.errors import JobError, shortened
from joblane.handler.loops import Loops, Source, refuse_stopped
from joblane.names import OWN_TYPES
from joblane.record.driver.time_limits import OPERATOR
from joblane.record.task.run_session import ENDED, ONE_SESSION
from joblane.settings import Settings
from joblane.sqs.traceparent import headers_within, span_of
from joblane.tasks.arguments import with_payload
from joblane.tasks.job import Job, check_names
from joblane.tasks.scrubbing import Scrub, scrubber

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger
    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from joblane.client.batch import Batch
    from joblane.enqueue.producer import Producer
    from joblane.enqueue.result import Enqueued
    from joblane.enqueue.transaction import CallersTransaction
    from joblane.handler.children import Children
    from joblane.handler.steps import Steps
    from joblane.handler.waits import Waits
    from joblane.names import Queue
    from joblane.record.driver.connection import Connection
    from joblane.record.task.claim import Claim
    from joblane.record.task.run_session import RunSession
    from joblane.tasks.job import JobOptions
    from joblane.tasks.payload import Payload
    from joblane.tasks.task import Task

T = TypeVar("T")
P = TypeVar("P", bound="Payload")
REPORT_EVERY_SECONDS = 1.0
MAX_NOTE = 200


class TaskContext:
    """The run of a task: its identity, its time, its transaction, and its loops."""

    task_id: str
    """Id of the task."""
    type: str
    """Type of the task, ``category:action``."""
    queue: Queue
    """Queue from which the task was received."""
    attempt: int
    """Number of this attempt, from 1."""
    max_retry: int
    """Number of attempts after the first."""
    headers: Mapping[str, str]
    """Headers of the enqueue."""
    traceparent: str | None
    """W3C ``traceparent`` of this run, for the services that the handler calls. None: the task has no trace."""
    idempotency_key: str
    """The task's id, which is the same in every attempt. Pass it to services that accept an idempotency key."""
    _unwritten: tuple[int, int | None, str | None] | None = None
    """The last progress, if it is not written yet."""

    def __init__(
        self,
        task: Task[Any, Any],
        claim: Claim,
        queue: Queue,
        work: RunSession,
        producer: Producer,
        *,
        seconds: float,
        continues: bool = False,
    ) -> None:
        """``seconds``: time until the handler is interrupted. ``continues``: True if the attempt has time left after
        this invocation."""
        self.task_id = claim.id
        self.type = task.type
        self.queue = queue
        self.attempt = claim.attempt
        self.max_retry = claim.max_attempts - 1
        self.headers = claim.headers
        self._span = claim.span or (span_of(claim.headers, claim.id, claim.run) if claim.headers else None)
        self.traceparent = self._span.traceparent if self._span else None
        self.idempotency_key = claim.id
        self._task = task
        self._claim = claim
        self._work = work
        self._producer = producer
        self._ends = time.monotonic() + seconds
        self._continues = continues
        self._reported_at = self._asked_at = -math.inf

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """Settings that the task declares in ``environment``: name → value. Settings without a value are left out.

        A value in Secrets Manager is read when it is used, and kept for five minutes.

        Raises:
            SecretError: the secret cannot be read. The attempt fails, and the next attempt reads it again.
        """
        return Settings(self._task.environment)

    @cached_property
    def logger(self) -> Logger:
        """The logger of Powertools, with :attr:`log_fields` on every line. Do not log payload values."""
        logger = telemetry.logger()
        logger.append_keys(**self.log_fields)
        return logger

    @property
    def log_fields(self) -> dict[str, Any]:
        """The fields on every log line of this run: ``task_id``, ``task_type`` and ``attempt``, and the ids of its
        trace, if the task has one."""
        fields = {"task_id": self.task_id, "task_type": self.type, "attempt": self.attempt}
        return fields | self._span.log_fields if self._span else fields

    @property
    def deadline(self) -> datetime:
        """Time at which the handler is interrupted, in UTC: the earliest of the end of the ``timeout``, the end of the
        invocation, and the ``deadline`` of the enqueue."""
        return datetime.now(UTC) + timedelta(seconds=self._ends - time.monotonic())

    def remaining(self) -> timedelta:
        """Return the time until the handler is interrupted, at least zero."""
        return timedelta(seconds=max(0.0, self._ends - time.monotonic()))

    @property
    def session(self) -> Session:
        """An SQLAlchemy session whose work commits together with the task's completion, or not at all.

        It is created on first use. ``commit()`` is refused, because half of the handler's work would stay after a later
        failure. ``close()`` loses the work and fails the attempt, so use the session without ``with``. In an
        ``async def`` handler its statements block the event loop.

        Raises:
            JobError: the run uses :attr:`async_session`, or has ended.
        """
        self._refuse_async("ctx.session", "await ctx.async_session.execute(…)")
        return self._work.session

    @property
    def async_session(self) -> AsyncSession:
        """An SQLAlchemy ``AsyncSession`` over asyncpg, whose work commits together with the task's completion, or not
        at all. Only for an ``async def`` handler with the packages of ``joblane[async]``.

        It is created on first use. ``commit()`` is refused, and ``close()`` loses the work, so use the session without
        ``async with``. Its objects do not expire at a commit. It runs one statement at a time.

        Raises:
            JobError: the handler is not an ``async def``; or the run uses :attr:`session`, :meth:`connection` or
                :meth:`enqueue`; or a package is missing; or the run has ended.
        """
        if not self._task.is_async:
            raise JobError("ctx.async_session is for an `async def` handler; this one is a `def`: use ctx.session")
        self._refuse_ended("ctx.async_session")
        if "_loops" in self.__dict__ and self._loops.is_plain:
            raise JobError(
                "ctx.async_session: its work cannot commit in a plain loop or step; use ctx.aeach(…) or ctx.astep(…)"
            )
        return self._work.async_session

    def _refuse_ended(self, name: str) -> None:
        if self._work.has_ended:
            raise JobError(f"{name}: {ENDED}")
        refuse_stopped(self._work, name)

    def _refuse_async(self, name: str, instead: str) -> None:
        self._refuse_ended(name)
        if self._work.is_async:
            raise JobError(f"{name}: {ONE_SESSION}, and this one uses ctx.async_session; use {instead}")

    def connection(self) -> Connection:
        """Return the database connection of the session, to run statements in the same transaction.

        Raises:
            JobError: the connection broke after the transaction began, and the work of the transaction is lost; or the
                run uses :attr:`async_session`.
        """
        self._refuse_async("ctx.connection()", "await ctx.async_session.execute(…)")
        return self._work.lend(OPERATOR if self.type.startswith(OWN_TYPES) else None)

    @with_payload
    def enqueue(self, task: Task[P, Any], payload: P, **options: Unpack[JobOptions]) -> Enqueued:
        """Enqueue a task in this task's transaction: it exists only if this task's work commits.

        Arguments and errors are those of :meth:`JobClient.enqueue`. The new task is in the trace of this run, unless
        its ``headers`` name another trace.

        Raises:
            EnqueueError: an argument is wrong, or the ``grants`` of this task do not name the type of the new task.
                Nothing was written.
            DepthError: the new task is deeper than its ``max_depth``. Do not catch it: it archives this task.
        """
        self._refuse_async("ctx.enqueue", "await ctx.aenqueue(…)")
        return self._enqueue(self.session, task, payload, options)

    def _enqueue(self, session: Session, task: Task[P, Any], payload: P, options: JobOptions) -> Enqueued:
        check_names(options)
        return enqueue_within(self, SessionTransaction(session), Job(task, payload, **options))

    def enqueue_many(self, jobs: Iterable[Job]) -> list[Enqueued | JobError]:
        """Enqueue many tasks in this task's transaction. See :meth:`JobClient.enqueue_many`."""
        self._refuse_async("ctx.enqueue_many", "await ctx.aenqueue_many(…)")
        return self._enqueue_many(self.session, jobs)

    def _enqueue_many(self, session: Session, jobs: Iterable[Job]) -> list[Enqueued | JobError]:
        if self._span is not None:
            jobs = (replace(job, headers=headers_within(self._span, job.headers)) for job in jobs)
        return self._producer.enqueue_all(jobs, SessionTransaction(session), self._links)

    @cached_property
    def _links(self) -> Mapping[str, Any]:
        """The relations of the tasks that this run enqueues."""
        return links_of_run(self.task_id, self._claim.depth)

    @property
    def batch_id(self) -> str | None:
        """The id of the batch that this task belongs to. None: it does not belong to one."""
        return self._claim.batch

    @cached_property
    def batch(self) -> Batch:
        """The batch that this task belongs to. It adds members in this task's transaction, even after the batch is
        sealed.

        Raises:
            JobError: the task does not belong to a batch.
        """
        from joblane.client.batch import Batch

        self._refuse_async("ctx.batch", "ctx.session")
        if self.batch_id is None:
            raise JobError("ctx.batch: this task is in no batch; create one with ctx.new_batch(id), or use ctx.enqueue")
        return Batch(self._producer, self.batch_id, self.session, links=self._links, of_member=True)

    def new_batch(self, id: str, *, on_end: Job | None = None, on_success: Job | None = None) -> Batch:  # noqa: A002
        """Return a new batch in this task's transaction. See :meth:`JobClient.batch`."""
        self._refuse_async("ctx.new_batch", "ctx.session")
        from joblane.client.batch import Batch

        return Batch(self._producer, id, self.session, on_end=on_end, on_success=on_success, links=self._links)

    def check(self) -> None:
        """Raise an exception if this run has to stop. Reads the row at most once a second.

        Raises:
            TaskCancelled: the task was cancelled.
            LeaseLostError: another run holds the task, and the work of this run cannot be kept.
        """
        if time.monotonic() - self._asked_at >= REPORT_EVERY_SECONDS:
            self._report(None, None, None)

    def progress(self, done: int, total: int | None = None, note: str | None = None) -> None:
        """Record the progress of the run, and check as :meth:`check` does.

        The progress is visible at once, outside of the task's transaction. It is written at most once a second, and
        always when ``done`` reaches ``total``. A run that does not complete writes its last progress when it ends.

        Args:
            done: Number of items that are done, zero or more.
            total: Number of all items. None: not known.
            note: A message for operators and for readers of a progress stream, cut to 200 characters. Values of
                redacted fields are removed; do not put other payload values into it.

        Raises:
            ValueError: ``done`` or ``total`` is not a whole number of zero or more.
            TaskCancelled: the task was cancelled.
            LeaseLostError: another run holds the task, and the work of this run cannot be kept.
        """
        if not (_is_count(done) and (total is None or _is_count(total))):
            raise ValueError("progress: done and total are whole numbers of zero or more")
        self._unwritten = done, total, note
        if time.monotonic() - self._reported_at >= REPORT_EVERY_SECONDS or done == total:
            self._reported_at = time.monotonic()
            self._report(done, total, self._short(note))
            self._unwritten = None

    def _short(self, note: str | None) -> str | None:
        return self._scrub(shortened(note, MAX_NOTE))[:MAX_NOTE] if note else None

    def _report(self, done: int | None, total: int | None, note: str | None) -> None:
        self._refuse_ended("ctx.check")
        self._asked_at = time.monotonic()
        self._work.report(done, total, note)

    @cached_property
    def _scrub(self) -> Scrub:
        return scrubber(self._task.payload, self._claim.payload, headers=self.headers)

    @cached_property
    def _loops(self) -> Loops:
        return Loops(self._work, self.task_id, self.check, self.remaining, continues=self._continues)

    def each(self, items: Iterable[T], *, key: Callable[[T], str] = str) -> Iterator[T]:
        """Loop over the items that no run of this task has finished yet.

        When the loop takes the next item, the session's work for the current item commits together with a mark for its
        key. So do not read ahead, as ``list`` and ``itertools.batched`` do: items would be marked before their work is
        done. Work before the loop commits with the first item, and a retry does it again.

        An exception in the body rolls back the current item and ends the loop; a retry continues with this item. An
        exception inside ``with ctx.isolated():`` fails only the current item, and the loop raises
        :class:`PartialFailure` at its end. If two items have the same key, the second is skipped.

        Args:
            items: The items, in any order.
            key: Function that returns an item's key: a string of 1 to 2,000 bytes that is the same in every attempt.
                All loops of a task share one set of keys.

        Raises:
            ItemKeyError: a key is not a string of 1 to 2,000 bytes.
            PartialFailure: items failed inside :meth:`isolated`.
            TaskCancelled: the task was cancelled.
            LeaseLostError: another run holds the task.
        """
        self._refuse_async("ctx.each", "async for … in ctx.aeach(…)")
        return self._loops.each(items, key)

    def isolated(self) -> AbstractContextManager[None]:
        """Return a context manager for the body of a loop over :meth:`each`: an exception fails only the current item.

        Exceptions that concern the whole task pass through: SkipRetry, RevokeTask, RetryAfter, Snooze, LeaseLostError,
        TaskTimeout, TaskCancelled, and the errors of an unavailable database.
        """
        self._refuse_async("ctx.isolated", "async with ctx.aisolated()")
        return self._loops.isolated()

    @overload
    def resume(self, source: Source[T], *, cursor: Any = None, chunk: int = 100) -> Iterator[T]: ...
    @overload
    def resume(self, source: Select[*tuple[Any, ...]], *, cursor: Any, chunk: int = 100) -> Iterator[Any]: ...
    def resume(self, source: Any, *, cursor: Any = None, chunk: int = 100) -> Iterator[Any]:
        """Loop over items in a fixed order. Items that earlier runs of this task have committed are skipped.

        After each ``chunk`` of items, the session's work for them commits together with the cursor, which is the
        position in the source. So do not read ahead, as ``itertools.batched`` does: the cursor would pass items whose
        work is not done. A run that is killed repeats at most one chunk. Work before the loop commits with the first
        chunk, and every run does it again. A handler can have only one such loop.

        If the task is declared ``resumable``, it can run in several invocations, until its ``timeout``: before the time
        of an invocation ends, the run stops between two chunks, and the next invocation continues. A chunk that takes
        longer than the rest of the invocation is interrupted, and the next invocation starts it again.

        Args:
            source: A ``select(…)`` of an entity or of columns, without a limit; or a function that gets the last cursor
                and returns the items after it, in order; or a sequence that is the same in every attempt. The first
                call of the function gets None. Later calls get the cursor as JSON stores it, for example a time as a
                string.
            cursor: If ``source`` is a ``select``: a selected column that is unique and never null, for example
                ``Member.id``; the rows come in its order. If it is a function: a second function, which takes an item
                and returns its cursor. If it is a sequence: None; the position is the cursor.
            chunk: Number of items that commit together, 1 or more.

        Raises:
            CursorError: the source or the cursor cannot be used. Nothing of the chunk is committed.
            TaskCancelled: the task was cancelled.
            LeaseLostError: another run holds the task.
        """
        self._refuse_async("ctx.resume", "async for … in ctx.aresume(…)")
        return self._loops.resume(source, cursor, chunk)

    @cached_property
    def _steps(self) -> Steps:
        from joblane.handler.steps import Steps

        return Steps(self._loops, is_first_run=self._claim.run == 1)

    def step(self, name: str, function: Callable[[str], Any]) -> Any:
        """Call a function once, and remember its value: a retry returns the value and does not call again.

        The value commits together with the session's work so far. If the process is killed between the call and the
        commit, the next attempt calls again, with the same key. Work before the step commits with it, and a retry does
        it again; so write in the function, or after the last step, if it must happen once.

        The value is JSON: in each run, :meth:`step` returns the function's value as it is stored. Strings, finite
        numbers, booleans, None, lists and dicts are returned unchanged, a tuple as a list, a pydantic model as a dict,
        a time as a string.

        An exception in the function reaches the handler, and nothing is stored. Steps run one after the other: a step
        cannot be inside another step, or inside a loop over :meth:`each` or :meth:`resume`. A task has at most 1,000
        steps and waits, and its steps have values of at most 1 MiB in all.

        Args:
            name: Name of the step, 1 to 100 printable characters, the same in each attempt. A run uses it once.
                Operators see it; do not put payload values into it.
            function: Gets the idempotency key of the step, and returns a value of at most 65,536 bytes as JSON. The key
                is a UUID, calculated from the task id and the name, so it is the same in each attempt, even after a
                redrive. Pass it to the service that the function calls.

        Raises:
            StepError: the name, the function or the value is wrong. Do not catch it: it archives the task.
            TaskCancelled: the task was cancelled. The function was not called.
            LeaseLostError: another run holds the task.
        """
        self._refuse_async("ctx.step", "await ctx.astep(…)")
        return self._steps.step(name, function)

    # --- Waits -----------------------------------------------------------------------------------------------------

    @cached_property
    def _waits(self) -> Waits:
        from joblane.handler.waits import Waits

        return Waits(self._steps)

    def sleep(self, name: str, duration: timedelta | datetime) -> None:
        """Wait for a time. Nothing runs meanwhile, and the wait costs nothing.

        If the time has not come, the run stops here: its work commits, and the task waits. A later run calls the
        handler again from its beginning, and this call returns at once. Code outside of steps and waits runs again, so
        put code that reads a clock, makes a random value or reads rows that change into a :meth:`step`. Each part of
        the handler between two waits has all its attempts, and its ``timeout``; the ``deadline`` is for the whole task.

        The stop is raised as an :class:`Interrupt`. Do not catch it, and call nothing of ``ctx`` in a ``finally``.

        Args:
            name: Name of the wait, as for :meth:`step`. Waits and steps have different names.
            duration: The time from the first run that reaches this line, or the moment, a datetime with a time zone. At
                most 3,650 days. The first stop sets it: a retry, a redrive or a deploy does not restart it.

        Raises:
            StepError: the name, the duration or the place is wrong. Do not catch it: it archives the task.
        """
        self._refuse_async("ctx.sleep", "await ctx.asleep(…)")
        self._waits.sleep(name, duration)

    def wait(self, signal: str, *, timeout: timedelta, name: str | None = None, default: Any = ...) -> Any:
        """Wait for a signal of this task, see :meth:`JobClient.signal`, and return its value.

        If the signal has not come, the run stops here, as in :meth:`sleep`. A signal may also come before the wait, or
        before the first run. A signal that is there when the task continues counts, even if its time has passed.

        Args:
            signal: Name of the signal, 1 to 100 printable ASCII characters.
            timeout: The time of the wait, more than zero and at most 3,650 days, as for :meth:`sleep`.
            name: Name of the wait. None: the name of the signal. A second wait for the same signal needs one.
            default: Value to return when the time has passed. Without it, :class:`WaitExpired` is raised then.

        Raises:
            WaitExpired: the time has passed. This is remembered: a signal that comes later changes nothing.
            StepError: as for :meth:`sleep`.
            LeaseLostError: another run holds the task.
        """
        self._refuse_async("ctx.wait", "await ctx.await_signal(…)")
        return self._waits.wait(signal, timeout, name, default)

    def poll(
        self,
        name: str,
        function: Callable[[], T | None],
        *,
        every: timedelta,
        timeout: timedelta,
        default: Any = ...,
    ) -> T | Any:
        """Call a function until it returns a value that is not None, and remember the value as :meth:`step` does.

        After each None the run stops, as in :meth:`sleep`, and the next run calls again. Each call is a run, and none
        spends an attempt. The last call comes when the time has passed.

        Args:
            name: Name of the wait, as for :meth:`sleep`.
            function: Takes no arguments, and returns None or a value of at most 65,536 bytes as JSON.
            every: Time between two calls, 1 second or more.
            timeout: As for :meth:`wait`.
            default: As for :meth:`wait`.

        Raises:
            WaitExpired: as for :meth:`wait`.
            StepError: as for :meth:`sleep`.
            TaskCancelled: the task was cancelled. The function was not called.
            LeaseLostError: another run holds the task.
        """
        self._refuse_async("ctx.poll", "await ctx.apoll(…)")
        return self._waits.poll(name, function, every, timeout, default)

    @cached_property
    def _children(self) -> Children:
        from joblane.handler.children import Children

        key_limit = self._claim.limits[0] if self._claim.limits else None
        return Children(self._waits, self._task, self.task_id, key_limit, self._enqueue_many)

    def run(self, name: str, task: Task[P, Any], payload: P, **options: Unpack[JobOptions]) -> Any:
        """Enqueue a task, its *child*, wait for its end, and return its result. Like :meth:`gather` with one job.

        Args:
            name: Name of the wait, as for :meth:`sleep`.
            task: As for :meth:`enqueue`.
            payload: As for :meth:`enqueue`.
            options: As for :meth:`enqueue`, except those that :meth:`gather` refuses.

        Raises:
            ChildFailed: as for :meth:`gather`.
            EnqueueError: as for :meth:`gather`.
            StepError: as for :meth:`gather`.
        """
        self._refuse_async("ctx.run", "await ctx.arun(…)")
        return self._children.gather("ctx.run", name, self._one(task, payload, options), lambda: self.session)[0]

    def _one(self, task: Task[P, Any], payload: P, options: JobOptions) -> list[Job]:
        check_names(options)
        return [Job(task, payload, **options)]

    def gather(self, name: str, jobs: Iterable[Job]) -> list[Any]:
        """Enqueue tasks, the *children* of this one, wait until all have ended, and return their results in order.

        The run stops here, as in :meth:`sleep`: the children exist if and only if its work commits. A later run
        continues once all of them have ended, in any state, and remembers their results as a :meth:`step` does. The
        results are JSON values of at most 65,536 bytes in all. A child is a task like any other, with its own attempts,
        limits and ``deadline``, and is kept for 30 days at least. This task frees its slots, so a child can have them.
        A cancel of this task does not cancel its children.

        The task declares ``grants=Grants(run=(…,))`` with the types of its children, so that their functions may send
        this task's message.

        Args:
            name: Name of the wait, as for :meth:`sleep`.
            jobs: At most 1,000. Each run gives the same number, of the same types in the same order. Their payloads
                count when they are enqueued, not later. Without a job the result is an empty list.

        Raises:
            ChildFailed: all children have ended, and some were archived, cancelled or deleted. Uncaught, it archives
                this task: retry the children, and then this task. If it is caught, each later run raises it too.
            EnqueueError: a job is wrong, or has ``task_id``, ``on_conflict`` or ``debounce``; or it could not end,
                because it has the ordered key of this task, or ``after`` names this task. Nothing was written.
            DuplicateTaskError: a task holds the unique key of a job. Nothing was written.
            StepError: as for :meth:`sleep`; or the results are too large; or an earlier run has passed other jobs.
        """
        self._refuse_async("ctx.gather", "await ctx.agather(…)")
        return self._children.gather("ctx.gather", name, jobs, lambda: self.session)

    def signal(self, task_id: str, signal: str, value: Any = None) -> bool:
        """Send a signal to a task in this task's transaction. See :meth:`JobClient.signal`."""
        self._refuse_async("ctx.signal", "await ctx.asignal(…)")
        return self._signal(self.session, task_id, signal, value)

    def _signal(self, session: Session, task_id: str, signal: str, value: Any) -> bool:
        return self._producer.signal(SessionTransaction(session), task_id, signal, value)

    def signal_url(self, signal: str, *, value: Any = ...) -> str:
        """Return a URL with which others can send a signal to this task without a login: see
        :func:`joblane.fastapi.signals`.

        It is the same in each run until the first key changes, and is valid until the task ends. Anyone who has it can
        read the id of the task, the signal and the value in it. An ``async def`` handler can call this too.

        Args:
            signal: Name of the signal, 1 to 100 printable ASCII characters.
            value: The only value that the URL sends, which must be JSON: a person gets a page with a button. If it is
                left out, a program sends any JSON value of at most 65,536 bytes.

        Raises:
            SignalError: an argument or a setting is wrong, or the address would have more than 2,000 characters, or the
                task does not declare ``environment=["JOBLANE_SIGNAL_KEYS", "JOBLANE_SIGNAL_BASE_URL"]``.
            MissingSettingError: one of these settings has no value.
            SecretError: the secret with the keys cannot be read.
        """
        self._refuse_ended("ctx.signal_url")
        from joblane.enqueue.signal_urls import Address, signal_url

        return signal_url(self._task.environment, self._producer.prefix, Address(self.task_id, signal, value))

    # --- In an `async def` handler ---------------------------------------------------------------------------------

    @with_payload
    async def aenqueue(self, task: Task[P, Any], payload: P, **options: Unpack[JobOptions]) -> Enqueued:
        """Like :meth:`enqueue`, in the transaction of :attr:`async_session`.

        If the handler has used :attr:`session`, or ``joblane[async]`` is not installed, the task is in the transaction
        of :attr:`session`.
        """
        return await self._work.awaited(self._enqueue, self._session_to_enqueue(), task, payload, options)

    async def aenqueue_many(self, jobs: Iterable[Job]) -> list[Enqueued | JobError]:
        """Like :meth:`enqueue_many`, in the transaction that :meth:`aenqueue` describes."""
        return await self._work.awaited(self._enqueue_many, self._session_to_enqueue(), jobs)

    def _session_to_enqueue(self) -> Session:
        self._refuse_ended("ctx")
        has_plain = self._work.touched and not self._work.is_async
        if has_plain or self._work.lent or not self._task.is_async or not self._work.can_be_async:
            return self.session
        return self.async_session.sync_session

    async def asleep(self, name: str, duration: timedelta | datetime) -> None:
        """Like :meth:`sleep`. The work of :attr:`async_session` or :attr:`session` commits."""
        self._refuse_ended("ctx.asleep")
        await self._waits.asleep(name, duration)

    async def await_signal(
        self,
        signal: str,
        *,
        timeout: timedelta,
        name: str | None = None,
        default: Any = ...,
    ) -> Any:
        """Like :meth:`wait`. The work of :attr:`async_session` or :attr:`session` commits."""
        self._refuse_ended("ctx.await_signal")
        return await self._waits.await_signal(signal, timeout, name, default)

    async def apoll(
        self,
        name: str,
        function: Callable[[], Any],
        *,
        every: timedelta,
        timeout: timedelta,
        default: Any = ...,
    ) -> Any:
        """Like :meth:`poll`. The function can be an ``async def``."""
        self._refuse_ended("ctx.apoll")
        return await self._waits.apoll(name, function, every, timeout, default)

    async def arun(self, name: str, task: Task[P, Any], payload: P, **options: Unpack[JobOptions]) -> Any:
        """Like :meth:`run`, in the transaction that :meth:`aenqueue` describes."""
        self._refuse_ended("ctx.arun")
        jobs = self._one(task, payload, options)
        return (await self._children.agather("ctx.arun", name, jobs, self._session_to_enqueue))[0]

    async def agather(self, name: str, jobs: Iterable[Job]) -> list[Any]:
        """Like :meth:`gather`, in the transaction that :meth:`aenqueue` describes."""
        self._refuse_ended("ctx.agather")
        return await self._children.agather("ctx.agather", name, jobs, self._session_to_enqueue)

    async def asignal(self, task_id: str, signal: str, value: Any = None) -> bool:
        """Like :meth:`signal`, in the transaction that :meth:`aenqueue` describes."""
        return await self._work.awaited(self._signal, self._session_to_enqueue(), task_id, signal, value)

    async def acheck(self) -> None:
        """Like :meth:`check`, which an ``async def`` handler can call too."""
        self.check()

    async def aprogress(self, done: int, total: int | None = None, note: str | None = None) -> None:
        """Like :meth:`progress`, which an ``async def`` handler can call too."""
        self.progress(done, total, note)

    def aeach(self, items: Iterable[T] | AsyncIterable[T], *, key: Callable[[T], str] = str) -> AsyncIterator[T]:
        """Like :meth:`each`, for ``async for``. ``items`` can be asynchronous too.

        The work of :attr:`async_session` or :attr:`session` commits item by item.
        """
        from joblane.handler.async_loops import AsyncEach

        return AsyncEach(self._loops, items, key)

    async def astep(self, name: str, function: Callable[[str], Any]) -> Any:
        """Like :meth:`step`, with the work of :attr:`async_session` or :attr:`session`.

        The function can be an ``async def``. Calls that run at the same time must be in one step.
        """
        self._refuse_ended("ctx.astep")
        return await self._steps.astep(name, function)

    def aisolated(self) -> AbstractAsyncContextManager[None]:
        """Like :meth:`isolated`, for ``async with`` in a loop over :meth:`aeach`."""
        from joblane.handler.async_loops import isolated

        return isolated(self._loops)

    def aresume(self, source: Any, *, cursor: Any = None, chunk: int = 100) -> AsyncIterator[Any]:
        """Like :meth:`resume`, for ``async for``.

        The source function can be an ``async def``, which returns the items or yields them.
        """
        from joblane.handler.async_loops import AsyncResume

        return AsyncResume(self._loops, source, cursor, chunk)


def session_of(context: TaskContext) -> RunSession:
    """Return the session of a run, with its connections: a framework's adapter joins its transaction, or reads rows."""
    return context._work


def scrub_of(context: TaskContext) -> Scrub:
    """Return the function that removes the values of redacted fields from the strings of a run."""
    return context._scrub


def enqueue_within(context: TaskContext, where: CallersTransaction, job: Job) -> Enqueued:
    """Enqueue a job of a run, in its trace, in the transaction ``where``."""
    job.headers = headers_within(context._span, job.headers)
    return context._producer.enqueue_one(job, where, context._links)


def read_at_next_check(context: TaskContext) -> None:
    """Have the next ``check()`` or ``progress()`` of a run read its row, even if the last one was just before."""
    context._asked_at = context._reported_at = -math.inf


def write_last_progress(context: TaskContext) -> None:
    """Record the progress that a run has reported within a second of the one before. The run does not complete."""
    if context._unwritten is not None:
        done, total, note = context._unwritten
        context._work.report_last(done, total, context._short(note))


def close_context(context: TaskContext) -> None:
    """Refuse further work in a run, and remove its fields from the logger."""
    context._work.has_ended = True
    if "logger" in context.__dict__:
        context.logger.remove_keys(list(context.log_fields))


def _is_count(value: object) -> bool:
    """A number of zero or more that Postgres's bigint holds."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
