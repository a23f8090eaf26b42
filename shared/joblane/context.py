"""The second argument of every handler: one object with all that it needs of the run under way."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from joblane import telemetry
from joblane.errors import JobError, storable
from joblane.loops import Loops, Source
from joblane.redaction import Scrub, scrubber
from joblane.sqs.traceparent import headers_within, span_of

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger
    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    from joblane.client import Enqueued, JobClient
    from joblane.declaration import Task
    from joblane.job import Job, JobOptions
    from joblane.payload import Payload
    from joblane.queues import Queue
    from joblane.record.claim import Claim
    from joblane.record.connection import Connection
    from joblane.record.run_session import RunSession

T = TypeVar("T")
P = TypeVar("P", bound="Payload")
REPORT_EVERY_SECONDS = 1.0
MAX_NOTE = 200


class TaskContext:
    """One run of one task.

    ``attempt`` counts from 1; ``max_retry`` is how many follow the first. ``headers``: as they came with the task.
    ``traceparent``: of this run, for what it calls; None for a task without a trace. ``idempotency_key``: the same in
    every attempt, for services outside of the database.
    """

    def __init__(
        self,
        task: Task[Any, Any],
        claim: Claim,
        queue: Queue,
        work: RunSession,
        client: JobClient,
        *,
        seconds: float,
        continues: bool = False,
    ) -> None:
        """``seconds``: until the handler is interrupted. ``continues``: the attempt has time left when this invocation
        ends."""
        self.task_id = claim.id
        self.type = task.type
        self.queue = queue
        self.attempt = claim.attempt
        self.max_retry = claim.max_attempts - 1
        self.headers: Mapping[str, str] = claim.headers
        self._span = span_of(claim.headers, claim.id, claim.run) if claim.headers else None
        self.traceparent = self._span.traceparent if self._span else None
        self.idempotency_key = claim.id
        self._task = task
        self._claim = claim
        self._work = work
        self._client = client
        self._ends = time.monotonic() + seconds
        self._continues = continues
        self._reported_at = self._asked_at = -math.inf

    def close(self) -> None:
        """Take the run's fields off the logger."""
        if "logger" in self.__dict__:
            self.logger.remove_keys(list(self.log_fields))

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """Name → value of the settings that the task declares by ``environment`` and that are set."""
        return {name: os.environ[name] for name in self._task.environment if name in os.environ}

    @cached_property
    def logger(self) -> Logger:
        """Powertools' logger, with the task's id, type and attempt on every line."""
        logger = telemetry.logger()
        logger.append_keys(**self.log_fields)
        return logger

    @property
    def log_fields(self) -> dict[str, Any]:
        """The fields on every log line of this run."""
        fields = {"task_id": self.task_id, "task_type": self.type, "attempt": self.attempt}
        return fields | self._span.log_fields if self._span else fields

    @property
    def deadline(self) -> datetime:
        """When the handler is interrupted; aware."""
        return datetime.now(UTC) + timedelta(seconds=self._ends - time.monotonic())

    def remaining(self) -> timedelta:
        """Time left to this attempt; zero at least."""
        return timedelta(seconds=max(0.0, self._ends - time.monotonic()))

    @property
    def session(self) -> Session:
        """A session whose work commits together with the task's completion, or not at all.

        Made on first touch. A handler's own ``commit()`` is refused: half of its work would outlive a failure.
        """
        return self._work.session

    def connection(self) -> Connection:
        """The connection under the session, to run statements in its transaction.

        Raises :class:`JobError` where the session's own has broken since it began: what it wrote is lost.
        """
        self._work.lent = True
        return self._work.connection()

    def enqueue(self, task: Task[P, Any], payload: P, **options: Unpack[JobOptions]) -> Enqueued:
        """Enqueue a task that exists only if this one's work commits. As :meth:`JobClient.enqueue`.

        It is in this run's trace, where there is one, unless ``headers`` name another.
        """
        options["headers"] = headers_within(self._span, options.get("headers", {}))
        return self._client.enqueue(task, payload, session=self.session, **options)

    def enqueue_many(self, jobs: Iterable[Job]) -> list[Enqueued | JobError]:
        """Many at once, in one statement. As :meth:`JobClient.enqueue_many`."""
        if self._span is not None:
            jobs = (replace(job, headers=headers_within(self._span, job.headers)) for job in jobs)
        return self._client.enqueue_many(jobs, session=self.session)

    def check(self) -> None:
        """Raise :class:`TaskCancelled` where the task was cancelled meanwhile. Asks at most once a second.

        Raises :class:`LeaseLostError` where another run has taken the task over: nothing of this one will be kept.
        """
        if time.monotonic() - self._asked_at >= REPORT_EVERY_SECONDS:
            self._report(None, None, None)

    def progress(self, done: int, total: int | None = None, note: str | None = None) -> None:
        """Record how far the run is, visible at once, and check as :meth:`check` does.

        Written at most once a second, and when ``done`` reaches ``total``. ``note``: 200 characters are kept; it is
        shown to operators, so no payload value belongs in it; values of redacted fields are taken out.
        """
        if not (_is_count(done) and (total is None or _is_count(total))):
            raise ValueError("progress: done and total are whole numbers of zero or more")
        if time.monotonic() - self._reported_at >= REPORT_EVERY_SECONDS or done == total:
            self._reported_at = time.monotonic()
            self._report(done, total, storable(self._scrub(note)[:MAX_NOTE]) if note else None)

    def _report(self, done: int | None, total: int | None, note: str | None) -> None:
        self._asked_at = time.monotonic()
        self._work.report(done, total, note)

    @cached_property
    def _scrub(self) -> Scrub:
        return scrubber(self._task.payload, self._claim.payload, headers=self.headers)

    @cached_property
    def _loops(self) -> Loops:
        return Loops(self._work, self.task_id, self.check, self.remaining, continues=self._continues)

    def each(self, items: Iterable[T], *, key: Callable[[T], str] = str) -> Iterator[T]:
        """The items whose ``key`` is not done yet, by this run or one before it.

        When the loop asks for the next item, what the session did for the last commits together with its mark: so
        nothing may read ahead, as ``list`` or ``itertools.batched`` would. An exception in the body leaves that item
        undone and ends the loop; a retry continues there. An exception inside ``with ctx.isolated():`` costs that item
        alone; at the end of the loop :class:`PartialFailure` counts them.

        Keys are text of 1 to 2,000 bytes, the same in every attempt, and one set for the whole task: two loops
        need different ones. What was written before the loop commits with its first item, and a retry writes it again.

        Raises :class:`ItemKeyError`, and :class:`LeaseLostError` where another run has taken the task over.
        """
        return self._loops.each(items, key)

    def isolated(self) -> AbstractContextManager[None]:
        """Inside a loop over :meth:`each`: an exception costs the item in hand, and the loop continues.

        What speaks for the whole task goes through: :data:`~joblane.errors.OUTCOMES`, an interrupt, and a database
        that is unavailable.
        """
        return self._loops.isolated()

    @overload
    def resume(self, source: Source[T], *, cursor: Any = None, chunk: int = 100) -> Iterator[T]: ...
    @overload
    def resume(self, source: Select[*tuple[Any, ...]], *, cursor: Any, chunk: int = 100) -> Iterator[Any]: ...
    def resume(self, source: Any, *, cursor: Any = None, chunk: int = 100) -> Iterator[Any]:
        """The items after the last one whose work has committed, by this run or one before it.

        ``source``, one of:

        - a ``select(…)`` of one entity or of columns, without a limit; ``cursor`` is a column of it, never null and
          unique, in whose order the rows come, e.g. ``cursor=Member.id``;
        - a function that is given the last cursor as JSON holds it (a time as text, say; None at first) and returns
          the items after it in order; ``cursor`` is a function that gives an item's;
        - a sequence that is the same in every attempt; its cursor is the position.

        After ``chunk`` items, when the loop asks for the next, what the session did for them commits together with the
        cursor: so nothing may read ahead, as ``itertools.batched`` would. A run that is killed does at most one chunk
        again. Where the task is declared ``resumable`` and the invocation's time runs out, it ends between two chunks
        and continues in the next one, until the task's own timeout. A chunk that takes longer than that is interrupted
        and done again in the next invocation, which has its whole time for it.

        A task has one cursor, so a handler has one such loop. What was written before the loop commits with its first
        chunk, and is written again by a run that continues.

        Raises :class:`LeaseLostError`; :class:`CursorError` for what it cannot go by, before anything of the chunk.
        """
        return self._loops.resume(source, cursor, chunk)


def _is_count(value: object) -> bool:
    """A number of zero or more that Postgres's bigint holds."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
