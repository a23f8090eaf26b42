"""The model of a sweep every five minutes: the library's sweep, in a transaction that is rolled back.

It shows what a sweep at this moment would send. Nothing of it may stay unsent for five minutes without a sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from joblane.record.driver.database import Database
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import decode
from joblane.sweep.sweep import sweep
from tests.faults.days.queues import SWEEP_SLUG, DayQueues
from tests.faults.days.samples import PREFIX

NEEDED = """
select exists (select from joblane.tasks where (finished_at is null or dead_letter_unsent)
                  and (state = 'held' or sweep_at <= clock_timestamp()) and type <> 'jobs:sweep')
    or exists (select from joblane.limit_changes where until <= clock_timestamp())
"""
"""Without any of these rows a sweep has nothing to send."""


class _Recorder(Sqs):
    """SQS that takes the messages of a sweep and delivers none."""

    def __init__(self, queues: DayQueues) -> None:
        super().__init__()
        self._queues = queues
        self.sent: set[str] = set()

    def attributes(self, queue: str, names: Sequence[str]) -> Mapping[Any, str]:
        return self._queues.attributes(queue, names)

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        failed: dict[int, str] = {}
        for position, entry in enumerate(entries):
            if self._queues.refuses(entry.queue):
                failed[position] = "Refused: by the day"
            elif not entry.queue.endswith(SWEEP_SLUG):
                self.sent.add(f"{entry.queue} {decode(entry.body).id}")
        return failed


class Shadow:
    """``sync``: takes the time to the database."""

    def __init__(self, database: Database, queues: DayQueues, sync: Callable[[], None]) -> None:
        self._database, self._queues, self._sync = database, queues, sync

    def work(self) -> set[str]:
        """Return the messages that a sweep would send now, each as its queue and the id of its task."""
        self._sync()
        connection = self._database.get()
        if not connection.run(NEEDED)[0][0]:
            return set()
        recorder = _Recorder(self._queues)
        connection.execute_simple("begin")
        try:
            sweep(connection, recorder, PREFIX)
        finally:
            connection.rollback()
        return recorder.sent
