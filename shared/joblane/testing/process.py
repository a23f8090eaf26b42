"""The process under test: its messages go to the tester's queues, its rows to the tester's database.

And the task context for a function that a test calls directly: it claims the row, and finishes it after the block.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, Self
from unittest import mock

from joblane.client import message_client
from joblane.enqueue.check import check
from joblane.enqueue.producer import Producer
from joblane.errors import Stopped
from joblane.handler.context import TaskContext, close_context
from joblane.names import Queue
from joblane.quotas import LEASE_MARGIN
from joblane.record.driver.database import Database
from joblane.record.task.claim import Claim, Verdict, arrival, claim
from joblane.record.task.finish import Finish, finish
from joblane.record.task.insert import NewTask
from joblane.record.task.run_session import RunSession
from joblane.settings import SIGNAL_BASE_URL, SIGNAL_KEYS
from joblane.sqs.client import Sqs
from joblane.sqs.message import Message
from joblane.tasks.task import Task
from joblane.testing.clock import Clock
from joblane.testing.errors import KitError
from joblane.worker import outcome
from joblane.worker.run import completed, ms_since

IN_MEMORY = ("send", "send_many", "set_visibility", "url", "attributes")
"""The methods of :class:`Sqs` that the queues in memory have."""
SIGNAL_SETTINGS = {
    SIGNAL_KEYS: "a-key-of-tests-which-signs-nothing-else",
    SIGNAL_BASE_URL: "https://signals.test",
}
OF_AWS = ("client", "brief_client", "sender", "brief_sender")
"""Everything through which :class:`Sqs` reaches AWS. A property also hides what was made before the test."""


def _refuse(_: Sqs) -> NoReturn:
    raise KitError("a test of jobs has no SQS; the library sends to queues in memory")


@contextmanager
def diverted(url: str, queues: Sqs, clock: Clock, add: Callable[[Task[Any, Any]], None]) -> Iterator[None]:
    """Divert every client of the process, also existing ones, so that no test reaches AWS by mistake.

    ``clock``: the time of the test. ``add`` is called with each task that is enqueued.
    """
    databases: dict[Producer, Database] = {}
    adding = threading.Lock()

    def to_database(producer: Producer) -> Database:
        if producer.opened is not None and producer.sqs is queues:  # a running task keeps its connection
            return producer.opened
        return databases.setdefault(producer, Database(url))

    def and_add(check: Callable[..., NewTask]) -> Callable[..., NewTask]:
        def check_and_add(*arguments: Any, **named: Any) -> NewTask:
            new = check(*arguments, **named)
            with adding:  # asynchronous enqueues check in threads
                add(new.task)
            return new

        return check_and_add

    def to_memory(name: str) -> Callable[..., Any]:
        return lambda _, *arguments, **named: getattr(queues, name)(*arguments, **named)

    methods: dict[str, Any] = {name: to_memory(name) for name in IN_MEMORY}
    methods |= dict.fromkeys(OF_AWS, property(_refuse))
    with (
        mock.patch.multiple(Sqs, **methods),
        mock.patch.multiple(Producer, checked=and_add(Producer.checked), database=to_database),
        mock.patch.object(message_client, "check", and_add(check)),
        clock.of_schedules(),
    ):
        try:
            yield
        finally:
            for database in databases.values():
                database.drop()


@contextmanager
def signal_settings() -> Iterator[None]:
    """Set the settings of the addresses of signals that have no value."""
    added = {name: value for name, value in SIGNAL_SETTINGS.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def alarm_restored() -> Iterator[None]:
    """Restore the process's alarm after the block, for example for pytest-timeout.

    A worker sets it for each handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler, started = signal.getsignal(signal.SIGALRM), time.monotonic()
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), 0.001), interval)


def refuse_running_loop() -> None:
    """Refuse to run an async handler in a coroutine, as the worker does not."""
    if sys.modules.get("asyncio") is not None and sys.modules["asyncio"]._get_running_loop() is not None:
        raise KitError(
            "an `async def` handler runs on the worker's own event loop, and this test has one already: make the test "
            "a plain `def`, or call the kit in another thread, for example await asyncio.to_thread(jobs.drain)"
        )


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
        self._finish(completed(self._claim, None))

    def stop(self) -> None:
        """Record that the handler has stopped at a wait. The sweep sends the next message."""
        assert self.work.waits is not None
        assert self.work.waits.stop is not None
        self._finish(outcome.stopped(self._claim, self.work.waits.stop))

    def _finish(self, end: Finish) -> None:
        end.duration_ms = ms_since(self._started)
        self.work.finish(end)

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
        try:
            yield running.context
        except Stopped:
            running.stop()
        else:
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
        try:
            yield running.context
        except Stopped:
            await awaited(running.stop)
        else:
            await awaited(running.complete)
    except BaseException as error:
        await awaited(running.fail, error)
        raise
    finally:
        await awaited(running.close)
        if running.work.is_async:
            await database.asynchronous.aclose()
