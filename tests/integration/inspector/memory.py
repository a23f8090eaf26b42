"""Reads or redrives large dead letters with 256 MB of memory. A program, as the limit holds for a whole process."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from joblane.functions.jobs_bulk import handler
from joblane.inspector.bulk import dead
from joblane.quotas import MAX_BATCH
from joblane.record.driver.database import Database
from joblane.sqs.client import Entry, Sqs
from joblane.worker.worker import Worker
from tests.builders.events import invoke, record
from tests.patience import PATIENCE_SECONDS
from tests.samples import sample_one
from tests.sends import is_before_commit

DLQ = "jobs-default-sample-one-dlq"
MESSAGES = 10
"""Messages of a redrive."""
BODIES: tuple[Callable[[int], str], ...] = (
    lambda size: "x" * size,
    lambda size: '{"type":"sample:one","payload":{"a":[' + "0," * (size // 2) + "0]}}",
    lambda size: '{"type":"sample:one","payload":{"a":[' + "{}," * (size // 3) + "0]}}",
)
BODY = '{"type":"sample:one","payload":{"do":[' + '{"":0},' * 142_000 + "0]}}"
"""A body of 1 MB, which takes 30 MB once it is decoded."""


class Full(Sqs):
    """Queues with large messages, which are created as they are received.

    ``numbers``: queue → the number of its messages. ``body``: queue, number of the message → its body.
    """

    def __init__(self, body: Callable[[str, int], str], **numbers: int) -> None:
        super().__init__()
        self._body, self._numbers = body, numbers
        self.received: Counter[str] = Counter()
        self.sent = self.deleted = 0
        self.visible: list[int] = []
        """The numbers of messages that were made visible again, one for each call."""

    def attributes(self, queue: str, names: Sequence[Any]) -> Mapping[Any, str]:
        return dict.fromkeys(names, "0") | {names[0]: str(self._numbers.get(queue, 0) - self.received[queue])}

    def receive_many(self, queue: str, visibility_seconds: int, *, wait_seconds: int = 0) -> list[Any]:
        first = self.received[queue]
        self.received[queue] = min(self._numbers.get(queue, 0), first + MAX_BATCH)
        return [
            {"MessageId": f"{queue}-{n}", "ReceiptHandle": f"{n}", "Body": self._body(queue, n), "Attributes": {}}
            for n in range(first, self.received[queue])
        ]

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        self.sent += sum(not is_before_commit(entry.body) for entry in entries)
        return {}

    def delete_many(self, queue: str, receipts: Sequence[str]) -> None:
        self.deleted += len(receipts)

    def set_visibility(self, queue: str, receipts: Mapping[str, int]) -> None:
        self.visible.append(len(receipts))


def read() -> None:
    """Read 300 dead letters, and hold all at once, as an inspector does."""
    resource.setrlimit(resource.RLIMIT_CPU, (25, 25))
    sqs = Full(lambda queue, _: BODIES[int(queue)](1_000_000), **dict.fromkeys("012", 1_000))
    kept = [dead._sample(sqs, queue, dead.MAX_READ) for queue in "012"]
    assert [len(found) for found in kept] == sqs.visible == [dead.MAX_READ] * 3
    assert [found[0].message is not None for found in kept] == [False, True, True]


def redrive(url: str, id_: str) -> None:
    """Run a redrive."""
    sqs = Full(lambda _, number: " " * number + BODY, **{DLQ: MESSAGES})
    tasks = {task.type: task for task in (sample_one, handler.jobs_bulk)}
    vars(handler).update(Sqs=lambda: sqs, discover=lambda: tasks)
    worker = Worker(handler.jobs_bulk, Database(url), sqs, "jobs")
    message = record({"type": "jobs:bulk", "id": id_, "rec": True}, "jobs-low-jobs-bulk")
    kept = invoke(worker.handle, message, seconds=300)
    assert (kept, sqs.sent, sqs.deleted, sqs.visible) == ([], MESSAGES, MESSAGES, [])


def with_little_memory(*arguments: str) -> str:
    """Run this program. Return its errors; an empty string if it has done its work."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, *arguments],
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return "" if done.returncode == 0 else done.stderr[-2_000:] or str(done.returncode)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (256 * 1024**2, 256 * 1024**2))
    if sys.argv[1:] == ["read"]:
        read()
    else:
        redrive(*sys.argv[2:])
