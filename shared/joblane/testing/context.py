"""The task context for a function that a test calls directly: it claims the row, and finishes it after the block."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Self

from joblane.enqueue.producer import Producer
from joblane.handler.context import TaskContext, close_context
from joblane.names import Queue
from joblane.quotas import LEASE_MARGIN
from joblane.record.driver.database import Database
from joblane.record.task.claim import Claim, Verdict, arrival, claim
from joblane.record.task.finish import finish
from joblane.record.task.run_session import RunSession
from joblane.sqs.client import Sqs
from joblane.sqs.message import Message
from joblane.tasks.task import Task
from joblane.testing.errors import KitError
from joblane.worker import outcome
from joblane.worker.run import completed, ms_since

REQUEST_ID = "a test's own call"


NOT_HERE = "in a coroutine of its own loop, a test calls a handler inside of `async with jobs.acontext(…)`"


@dataclass
class Running:
    """A claimed task, whose handler a test calls itself."""

    context: TaskContext
    work: RunSession
    _task: Task[Any, Any]
    _claim: Claim
    _database: Database
    _started: float

    @classmethod
    def claimed(cls, database: Database, task: Task[Any, Any], id_: str, sqs: Sqs, prefix: str) -> Self:
        started = time.perf_counter()
        queue = Queue(database.get().run("select queue from joblane.tasks where id = $1", id_)[0][0])
        arrived = arrival(task, Message(task.type, id_, rec=True), id_, queue)
        claimed = claim(database.get(), [arrived], task.timeout + LEASE_MARGIN, REQUEST_ID)[id_]
        if claimed.verdict is not Verdict.RUN:
            raise KitError(f"{task.type} {id_} cannot run: the verdict of its claim is {claimed.verdict}")
        work = RunSession(database, database.another(), id_, claimed.token)
        producer = Producer.within(database, sqs, prefix, task)
        context = TaskContext(task, claimed, queue, work, producer, seconds=task.timeout.total_seconds())
        return cls(context, work, task, claimed, database, started)

    def complete(self) -> None:
        """Raises :class:`TaskCancelled` and :class:`LeaseLostError`, as a worker does."""
        self.work.flush()
        self.work.finish(completed(self._claim, None, ms_since(self._started)))

    def fail(self, error: BaseException) -> None:
        self.work.undo()
        finish(self._database.get(), [outcome.failed(self._task, self._claim, error, ms_since(self._started))])

    def close(self) -> None:
        close_context(self.context)
        self.work.close()


@contextmanager
def run_context(running: Running) -> Iterator[TaskContext]:
    """Finish the task as a worker does: completed, or failed if the block raises."""
    running.work.refusal = NOT_HERE
    try:
        yield running.context
        running.complete()
    except BaseException as error:
        running.fail(error)
        raise
    finally:
        running.close()


@asynccontextmanager
async def arun_context(running: Running, database: Database) -> AsyncIterator[TaskContext]:
    """Like :func:`run_context`, on the loop of the test."""
    awaited = running.work.awaited
    try:
        yield running.context
        await awaited(running.complete)
    except BaseException as error:
        await awaited(running.fail, error)
        raise
    finally:
        await awaited(running.close)
        if running.work.is_async:
            await database.asynchronous.aclose()
