"""What a handler gets beside its payload: one object with all it needs of the run under way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from shared import telemetry
from shared.jobs import store
from shared.jobs.errors import JobError, LeaseLostError, TaskCancelled

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger
    from sqlalchemy.orm import Session

    from shared.db import Connection, Database
    from shared.jobs.alarm import Alarm
    from shared.jobs.claim import Claim
    from shared.jobs.queues import Queue
    from shared.jobs.task import Task

T = TypeVar("T")
CHECK_EVERY_SECONDS = 1.0


class TaskContext:
    """One run of one task.

    ``attempt`` counts from 1; ``max_retry`` is how many follow the first. ``headers``: the caller's, with
    ``traceparent``. ``idempotency_key``: the same in every attempt, for services outside of the database.
    """

    def __init__(
        self,
        task: Task[Any, Any],
        claim: Claim,
        queue: Queue,
        *,
        seconds: float,
        database: Database,
        alarm: Alarm,
    ) -> None:
        self.task_id = claim.id
        self.type = task.type
        self.queue = queue
        self.attempt = claim.attempt
        self.max_retry = claim.allowed - 1
        self.headers: Mapping[str, str] = claim.headers
        self.idempotency_key = claim.id
        self._task = task
        self._ends = time.monotonic() + seconds
        self._claim = claim
        self._database = database
        self._alarm = alarm
        self._checked = 0.0
        self._committing = False

    def close(self) -> None:
        """Take the run's words off the logger. The session is the runtime's to end."""
        if "logger" in self.__dict__:
            self.logger.remove_keys(list(self.words))

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """Name → value of the settings that the task declares by ``environment`` and that are set."""
        return {name: os.environ[name] for name in self._task.environment if name in os.environ}

    @cached_property
    def logger(self) -> Logger:
        """Powertools' logger, with the task's id, type and attempt on every line."""
        logger = telemetry.logger()
        logger.append_keys(**self.words)
        return logger

    @property
    def words(self) -> dict[str, Any]:
        """What every log line of this run carries."""
        return {"task_id": self.task_id, "task_type": self.type, "attempt": self.attempt}

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
        return session

    def flush(self) -> None:
        """Write what the session has pending."""
        if self.touched:
            self.session.flush()

    @property
    def touched(self) -> bool:
        """Whether the handler has asked for its session."""
        return "session" in self.__dict__

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

    @contextmanager
    def commits(self) -> Iterator[None]:
        """The library's own commits, uninterrupted."""
        self._committing = True
        try:
            with self._alarm.held:
                yield
        finally:
            self._committing = False

    def _refuse_commit(self, session: Session) -> None:
        if not self._committing and not session.in_nested_transaction():
            raise JobError(
                "a handler does not commit: its session commits with the task's completion. To keep work item by "
                "item, loop over ctx.each(items, key=…)"
            )

    # --- Long work -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise :class:`TaskCancelled` where the task was cancelled meanwhile. Asks at most once a second."""
        if time.monotonic() - self._checked < CHECK_EVERY_SECONDS:
            return
        with self._alarm.held:
            self._checked = time.monotonic()
            if store.cancel_requested(self.connection(), self.task_id, self._claim.token):
                raise TaskCancelled("the task was cancelled while it ran")

    def each(self, items: Iterable[T], *, key: Callable[[T], str] = str) -> Iterator[T]:
        """The items whose ``key`` no earlier attempt has finished.

        When the loop asks for the next one, what the session did for the last commits together with its mark. An
        exception in the body leaves that item undone, and a retry goes on there. Keys: at most 1,000 characters.

        Raises :class:`LeaseLostError` where another run has taken the task over.
        """
        self.flush()
        with self.commits():
            done = store.done_items(self.connection(), self.task_id)
        for item in items:
            name = key(item)
            if name in done:
                continue
            yield item
            self._commit_item(name)
            done.add(name)

    def _commit_item(self, key: str) -> None:
        self.flush()
        with self.commits():
            if not store.mark_item(self.connection(), self.task_id, self._claim.token, key):
                raise LeaseLostError(f"{self.task_id}: another run has taken the task over")
            if self.touched:
                self.session.commit()
        self.check()
