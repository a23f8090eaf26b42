"""A planned sweep that SQS does not accept for its next hop."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from joblane.enqueue.wake import planned_entry
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.local.memory_queues import MemoryQueues
from joblane.record.driver.database import Database
from joblane.sqs.client import Entry
from joblane.worker.invocation import lambda_handler
from joblane.worker.sweep_worker import SweepWorker
from joblane.worker.worker import Worker
from tests.builders.events import LambdaContext, event, invoke, record


class RefusingQueues(MemoryQueues):
    """``visibilities``: the visibility timeouts that were set, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.visibilities: list[int] = []

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        return dict.fromkeys(range(len(entries)), "refused")

    def set_visibility(self, queue: str, receipts: Mapping[str, int]) -> None:
        self.visibilities += receipts.values()


def test_an_event_without_messages_has_no_failures() -> None:
    database, queues = Database("postgresql://nobody@127.0.0.1:1/none"), RefusingQueues()
    for worker in (Worker(jobs_sweep, database, queues, "jobs"), SweepWorker(jobs_sweep, database, queues, "jobs")):
        assert lambda_handler(worker.handle)(event(), LambdaContext()) == {"batchItemFailures": []}


def test_a_hop_that_sqs_refuses_for_long_comes_back_at_its_time() -> None:
    queues, now = RefusingQueues(), time.time()
    entry = planned_entry("jobs", round(now + 60), now)
    database = Database("postgresql://nobody@127.0.0.1:1/none")

    worker = SweepWorker(jobs_sweep, database, queues, "jobs")
    kept = invoke(worker.handle, record(entry.body, entry.queue, receives=20))

    assert len(kept) == 1
    assert 0 < queues.visibilities[0] <= 61
