"""The process under test: whatever in it would go to SQS goes to the tester's queues, and to the tester's database."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock
from weakref import WeakKeyDictionary

from joblane.client import JobClient
from joblane.declaration import Task
from joblane.record.database import Database
from joblane.record.insert import NewTask
from joblane.sqs.client import Sqs

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@contextmanager
def diverted(url: str, queues: Sqs, learn: Callable[[Task[Any, Any]], None]) -> Iterator[None]:
    """Divert every client for a while, those that were made before as well, so that no test reaches AWS by oversight.

    ``learn`` is told of each task that is enqueued.
    """
    databases: WeakKeyDictionary[JobClient, Database] = WeakKeyDictionary()
    enqueue = JobClient._enqueue

    def to_database(client: JobClient) -> Database:
        if client._made is not None and client._sqs is queues:  # a running task's: it keeps its process's connection
            return client._made
        return databases.setdefault(client, Database(url))

    def and_learn(client: JobClient, ready: Sequence[NewTask], session: Session | None) -> Any:
        for one in ready:
            learn(one.task)
        return enqueue(client, ready, session)

    def to_memory(name: str) -> Callable[..., Any]:
        return lambda _, *arguments: getattr(queues, name)(*arguments)

    with (
        mock.patch.object(Sqs, "send", to_memory("send")),
        mock.patch.object(Sqs, "send_many", to_memory("send_many")),
        mock.patch.object(Sqs, "set_visibility", to_memory("set_visibility")),
        mock.patch.multiple(JobClient, _enqueue=and_learn, _database=to_database),
    ):
        try:
            yield
        finally:
            for database in databases.values():
                database.drop()


@contextmanager
def alarm_kept() -> Iterator[None]:
    """Give the alarm clock back to whom it belongs, such as pytest-timeout: the runtime takes it for each handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler, started = signal.getsignal(signal.SIGALRM), time.monotonic()
    left, again = signal.getitimer(signal.ITIMER_REAL)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), 0.001), again)


class LambdaContext:
    """Lambda's context object as far as the library reads it."""

    def __init__(self, seconds: float, number: int) -> None:
        self._ends = time.monotonic() + seconds
        self.aws_request_id = f"00000000-0000-4000-8000-{number:012}"
        self.memory_limit_in_mb = "512"

    def get_remaining_time_in_millis(self) -> int:
        return int(max(0.0, self._ends - time.monotonic()) * 1000)
