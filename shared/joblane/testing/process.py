"""The process under test: its messages go to the tester's queues, its rows to the tester's database."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest import mock
from weakref import WeakKeyDictionary

from joblane.client import message_client
from joblane.enqueue.check import check
from joblane.enqueue.producer import Producer
from joblane.record.driver.database import Database
from joblane.record.task.insert import NewTask
from joblane.sqs.client import Sqs
from joblane.tasks.task import Task
from joblane.testing.clock import Clock
from joblane.testing.errors import KitError

IN_MEMORY = ("send", "send_many", "set_visibility", "url", "attributes")
"""The methods of :class:`Sqs` that the queues in memory have."""
OF_AWS = ("client", "brief_client", "sender", "brief_sender")
"""Everything through which :class:`Sqs` reaches AWS. A property also hides what was made before the test."""


def _refuse(_: Sqs) -> NoReturn:
    raise KitError("a test of jobs has no SQS; the library sends to queues in memory")


@contextmanager
def diverted(url: str, queues: Sqs, clock: Clock, add: Callable[[Task[Any, Any]], None]) -> Iterator[None]:
    """Divert every client of the process, also existing ones, so that no test reaches AWS by mistake.

    ``clock``: the time of the test. ``add`` is called with each task that is enqueued.
    """
    databases: WeakKeyDictionary[Producer, Database] = WeakKeyDictionary()
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
