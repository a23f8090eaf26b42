"""What a handler gets beside its payload: one object with all it needs of the run under way."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pg8000.exceptions import Error as PostgresError

from joblane import telemetry
from joblane.errors import (
    OUTCOMES,
    Continued,
    CursorError,
    JobError,
    LeaseLostError,
    PartialFailure,
    TaskCancelled,
    sqlstate,
    storable,
    text_of,
)
from joblane.limits import RESUME_RESERVE
from joblane.loops import Pages, Source, key_of
from joblane.record import checkpoints
from joblane.record.connection import is_unavailable
from joblane.record.finish import cancel_requested, finish
from joblane.redaction_scrub import scrubber
from joblane.sqs.traceparent import headers_within, span_of

if TYPE_CHECKING:
    from typing import Unpack

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
    from joblane.record.database import Database
    from joblane.record.finish import Finish
    from joblane.redaction_scrub import Scrub

T = TypeVar("T")
P = TypeVar("P", bound="Payload")
TELL_EVERY_SECONDS = 1.0
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
        *,
        seconds: float,
        database: Database,
        beside: Database,
        held: AbstractContextManager[None],
        client: JobClient,
        continues: bool = False,
    ) -> None:
        """``seconds``: until the handler is interrupted. ``beside``: for what is told while a transaction is open.
        ``held``: a stretch in which no timeout interrupts.
        ``continues``: time is left to the attempt when this invocation ends."""
        self.task_id = claim.id
        self.type = task.type
        self.queue = queue
        self.attempt = claim.attempt
        self.max_retry = claim.allowed - 1
        self.headers: Mapping[str, str] = claim.headers
        self._span = span_of(claim.headers, claim.id, claim.run)
        self.traceparent = self._span.traceparent if self._span else None
        self.idempotency_key = claim.id
        self._task = task
        self._ends = time.monotonic() + seconds
        self._claim = claim
        self._database = database
        self._held = held
        self._beside = beside
        self._client = client
        self._continues = continues
        self._told_at = self._asked_at = -math.inf
        self._committing = False
        self._loop_over = ""
        self._resumed = False
        self._kept_some = False
        self.used = False
        """Whether the session has been at the database, by the handler's word or the library's."""
        self._failures: list[Exception] = []

    def close(self) -> None:
        """Take the run's fields off the logger, close the connection beside. The session is the runtime's to end."""
        self._beside.drop()
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

    # --- The database ----------------------------------------------------------------------------------------------

    @cached_property
    def session(self) -> Session:
        """A session whose work commits together with the task's completion, or not at all.

        Made on first touch. A handler's own ``commit()`` is refused: half of its work would outlive a failure.
        """
        from sqlalchemy import event
        from sqlalchemy.orm import Session

        session = Session(self._database.engine)
        event.listen(session, "before_commit", self._refuse_commit)
        event.listen(session, "after_begin", self._note_use)
        return session

    def flush(self) -> None:
        """Write what the session has pending."""
        if self.touched:
            self.session.flush()

    @property
    def touched(self) -> bool:
        """Whether the handler has asked for its session."""
        return "session" in self.__dict__

    def _note_use(self, *_: object) -> None:
        self.used = True

    def connection(self) -> Connection:
        """The connection under the session, to run the record's statements in its transaction.

        Raises :class:`JobError` where the session's own has broken since it began, which a handler may have swallowed:
        what it wrote is lost, and nothing may be recorded as if it were not.
        """
        connection = self._database.get()
        if self.touched and self.session.in_transaction():
            used = self.session.connection()
            if used.invalidated or used.connection.dbapi_connection is not connection:
                raise JobError("the database connection broke under the handler: its work is rolled back")
        return connection

    def finish(self, end: Finish) -> None:
        """Record how the run ends in the session's transaction.

        Raises :class:`TaskCancelled`, or :class:`LeaseLostError`, where that is not this run's to say any more.
        """
        connection = self.connection()
        if not finish(connection, [end]):
            if cancel_requested(connection, end.id, end.token):
                raise TaskCancelled("the task was cancelled while it ran")
            raise self._lease_lost()

    @contextmanager
    def commits(self) -> Iterator[None]:
        """The library's own commits, uninterrupted."""
        self._committing = True
        try:
            with self._held:
                yield
        finally:
            self._committing = False

    def _refuse_commit(self, session: Session) -> None:
        if not self._committing and not session.in_nested_transaction():
            raise JobError(
                "a handler does not commit: its session commits with the task's completion. To keep work item by "
                "item, loop over ctx.each(items, key=…), or chunk by chunk over ctx.resume(…)"
            )

    # --- Child tasks -----------------------------------------------------------------------------------------------

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

    # --- Long work -------------------------------------------------------------------------------------------------

    @cached_property
    def _scrub(self) -> Scrub:
        return scrubber(self._task.payload, self._claim.payload, headers=self.headers)

    def check(self) -> None:
        """Raise :class:`TaskCancelled` where the task was cancelled meanwhile. Asks at most once a second.

        Raises :class:`LeaseLostError` where another run has taken the task over: nothing of this one will be kept.
        """
        if time.monotonic() - self._asked_at >= TELL_EVERY_SECONDS:
            self._tell(None, None, None)

    def progress(self, done: int, total: int | None = None, note: str | None = None) -> None:
        """Tell how far the run is, visible at once, and check as :meth:`check` does.

        Written at most once a second, and when ``done`` reaches ``total``. ``note``: 200 characters are kept; it is
        shown to operators, so no payload value belongs in it; values of redacted fields are taken out.
        """
        if not (_is_count(done) and (total is None or _is_count(total))):
            raise ValueError("progress: done and total are whole numbers of zero or more")
        if time.monotonic() - self._told_at >= TELL_EVERY_SECONDS or done == total:
            self._told_at = time.monotonic()
            self._tell(done, total, storable(self._scrub(note)[:MAX_NOTE]) if note else None)

    def _tell(self, done: int | None, total: int | None, note: str | None) -> None:
        """Over the connection beside the handler's where its transaction is open, which would hide it until its end.

        Where that one cannot be had, the run goes on untold: at its end it is asked again.
        """
        with self._held:
            self._asked_at = time.monotonic()
            own = done is None or self._database.get().idle
            try:
                connection = self.connection() if own else self._beside.get()
                stop = checkpoints.write_progress(
                    connection, self.task_id, self._claim.token, done=done, total=total, note=note
                )
            except (PostgresError, OSError) as error:
                if own:
                    raise
                self.logger.warning("progress could not be told", extra={"error": text_of(error)})
                return
        if stop:
            raise TaskCancelled("the task was cancelled while it ran")
        if stop is None:
            raise self._lease_lost()

    def _lease_lost(self) -> LeaseLostError:
        return LeaseLostError(f"{self.task_id}: another run has taken the task over")

    def each(self, items: Iterable[T], *, key: Callable[[T], str] = str) -> Iterator[T]:
        """The items whose ``key`` is not done yet, by this run or one before it.

        When the loop asks for the next one, what the session did for the last commits together with its mark: so
        nothing may read ahead, as ``list`` or ``itertools.batched`` would. An
        exception in the body leaves that item undone and ends the loop; a retry goes on there. One that happens inside
        ``with ctx.isolated():`` costs that item alone; at the end of the loop :class:`PartialFailure` tells of them.

        Keys are text of 1 to 2,000 bytes, the same in every attempt, and one set for the whole task: two loops
        need different ones. What was written before the loop commits with its first item, and a retry writes it again.

        Raises :class:`ItemKeyError`, and :class:`LeaseLostError` where another run has taken the task over.
        """
        with self._loop("each"):
            self.flush()
            with self.commits():
                done = checkpoints.done_items(self.connection(), self.task_id)
            self._failures = []
            for item in items:
                name = key_of(item, key)
                if name in done:
                    continue
                failures = len(self._failures)
                yield item
                if len(self._failures) == failures:
                    self._commit_item(name)
                    done.add(name)
                else:
                    self._roll_back_item()
                self.check()
            if self._failures:
                raise PartialFailure(len(self._failures), len(done), self._failures[0]) from self._failures[0]

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Inside a loop over :meth:`each`: an exception costs the item in hand, and the loop goes on.

        What speaks for the whole task goes through: :data:`~joblane.errors.OUTCOMES`, an interrupt, and a database
        that is away.
        """
        if self._loop_over != "each":
            raise JobError("ctx.isolated() belongs inside a loop over ctx.each(…), which knows the item in hand")
        try:
            yield
            self.flush()
        except (*OUTCOMES, LeaseLostError):
            raise
        except Exception as error:  # any failure of the item's own
            if not self._database.usable or (sqlstate(error) and is_unavailable(error)):
                raise
            self._roll_back_item()
            self._failures.append(error)

    def _commit_item(self, key: str) -> None:
        self.flush()
        with self.commits():
            if not checkpoints.mark_item(self.connection(), self.task_id, self._claim.token, key):
                raise self._lease_lost()
            if self.touched:
                self.session.commit()
            self._kept_some = True

    def _roll_back_item(self) -> None:
        if self.touched:
            with self._held:
                self.session.rollback()

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
        cursor: so nothing may read ahead, as ``itertools.batched`` would. A run that is killed
        does at most one chunk again. Where the task is declared ``resumable`` and the invocation's time runs out, it
        ends between two chunks and goes on in the next one, until the task's own timeout. A chunk that is longer than
        that is interrupted and done again in the next invocation, which has its whole time for it.

        A task has one cursor, so a handler has one such loop. What was written before the loop commits with its first
        chunk, and is written again by a run that goes on.

        Raises :class:`LeaseLostError`; :class:`CursorError` for what it cannot go by, before anything of the chunk.
        """
        if self._resumed:
            raise CursorError("source: a task has one cursor, so a handler has one loop over ctx.resume(…)")
        with self._loop("resume"):
            self._resumed = True
            self.flush()
            with self.commits():
                after, done = checkpoints.read_cursor(self.connection(), self.task_id)
            pages: Pages[Any] = Pages(source, cursor, lambda: self.session, chunk, done)
            slowest = 0.0
            while True:
                started = time.monotonic()
                page, after = pages.after(after)
                if not page:
                    return
                yield from page
                done += len(page)
                self._commit_chunk(after, done)
                slowest = max(slowest, time.monotonic() - started)
                self.check()
                reserve = min(timedelta(seconds=5 + 3 * slowest), RESUME_RESERVE)
                if self._continues and self.remaining() < reserve:
                    raise Continued

    def _commit_chunk(self, cursor: Any, done: int) -> None:
        self.flush()
        with self.commits():
            moved = checkpoints.move_cursor(
                self.connection(), self.task_id, self._claim.token, json.dumps(cursor), done
            )
            if not moved:
                raise self._lease_lost()
            if self.touched:
                self.session.commit()
            self._kept_some = True

    @contextmanager
    def _loop(self, over: str) -> Iterator[None]:
        """One loop at a time: what an inner one commits would be half of the outer one's item."""
        if self._loop_over:
            raise JobError("loops over ctx.each(…) and ctx.resume(…) do not go inside one another")
        self._loop_over = over
        try:
            yield
        finally:
            self._loop_over = ""

    @property
    def goes_on(self) -> bool:
        """Whether the end of its time is this invocation's alone: the attempt has more, and this run has kept some."""
        return self._continues and self._kept_some


def _is_count(value: object) -> bool:
    """A number of zero or more that Postgres's bigint holds."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
