"""Redrives large dead letters with 256 MB of memory. A program, because the limit holds for a whole process."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from joblane.functions.jobs_bulk import handler
from joblane.quotas import MAX_BATCH
from joblane.record.driver.database import Database
from joblane.sqs.client import Entry, Sqs
from joblane.worker.worker import Worker
from tests.builders.events import LambdaContext, event, record
from tests.samples import sample_one
from tests.sends import is_before_commit

DLQ = "jobs-default-sample-one-dlq"
MESSAGES = 10
BODY = '{"type":"sample:one","payload":{"do":[' + '{"":0},' * 142_000 + "0]}}"
"""A body of 1 MB, which takes 30 MB once it is decoded."""


class Full(Sqs):
    """Queues with large dead letters, made as they are received."""

    def __init__(self) -> None:
        super().__init__()
        self.received = self.sent = self.deleted = 0

    def attributes(self, queue: str, names: Sequence[Any]) -> Mapping[Any, str]:
        return dict.fromkeys(names, "0") | {names[0]: str(MESSAGES - self.received if queue == DLQ else 0)}

    def receive_many(self, queue: str, visibility_seconds: int, *, wait_seconds: int = 0) -> list[Any]:
        first, self.received = self.received, min(MESSAGES, self.received + MAX_BATCH * (queue == DLQ))
        return [
            {"MessageId": f"{n}", "ReceiptHandle": f"{n}", "Body": " " * n + BODY, "Attributes": {}}
            for n in range(first, self.received)
        ]

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        self.sent += sum(not is_before_commit(entry.body) for entry in entries)
        return {}

    def delete_many(self, queue: str, receipts: Sequence[str]) -> None:
        self.deleted += len(receipts)

    def set_visibility(self, queue: str, receipts: Mapping[str, int]) -> None:
        raise AssertionError(receipts)


def main(url: str, id_: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (256 * 1024**2, 256 * 1024**2))
    sqs, tasks = Full(), {task.type: task for task in (sample_one, handler.jobs_bulk)}
    vars(handler).update(Sqs=lambda: sqs, discover=lambda: tasks)
    worker = Worker(handler.jobs_bulk, Database(url), sqs, "jobs")
    message = record({"type": "jobs:bulk", "id": id_, "rec": True}, "jobs-low-jobs-bulk")
    kept = worker.handle(event(message), LambdaContext(seconds=300))["batchItemFailures"]
    assert (kept, sqs.sent, sqs.deleted) == ([], MESSAGES, MESSAGES)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
