"""A world for one test: a migrated database, queues in moto, and a worker over both."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self

import boto3
import pytest
from moto.core.base_backend import BackendDict
from moto.core.model_instances import reset_model_data
from moto.core.models import DEFAULT_ACCOUNT_ID, MockAWS, botocore_stubber
from moto.sqs.models import sqs_backends

from joblane.client.client import JobClient
from joblane.enqueue.event_bus import EventBus
from joblane.names import SWEEP, Queue, dead_letter_name, front_door_name, lane_name
from joblane.record.driver.database import Database
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.depth import queue_depth
from joblane.sweep.sweep import Swept, sweep
from joblane.tasks.task import Task
from joblane.testing.faults import Hook, HookedDatabase
from joblane.worker.of_type import worker_of
from joblane.worker.worker import Worker
from tests import fast_moto
from tests.builders.events import invoke, record
from tests.sends import is_before_commit

PREFIX = "jobs"

fast_moto.accelerate()


class Moto(MockAWS):
    """moto for boto3 only. To intercept the package ``requests`` as well takes longer than a test."""

    def _enable_patching(self, reset: bool = True) -> None:
        botocore_stubber.enabled = True
        BackendDict.reset()

    def _disable_patching(self, remove_data: bool) -> None:
        botocore_stubber.enabled = False
        BackendDict.reset()
        reset_model_data()


@cache
def session() -> boto3.Session:
    """A session for all tests, which reads the descriptions of AWS's services once. Clients are not shared."""
    return boto3.Session()


@contextmanager
def mocked_aws(monkeypatch: pytest.MonkeyPatch, region: str = "us-east-1") -> Iterator[None]:
    """Mock AWS by moto, without the shell's settings for AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with Moto():
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", session())
        yield


class RecordingSqs(Sqs):
    """The real queues. It records the messages that are sent, without wake-ups that precede a commit, and the
    visibility timeouts that are set."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Entry] = []
        self.visibilities: list[int] = []

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        self.sent += (entry for entry in entries if not is_before_commit(entry.body))
        return super().send_many(entries, brief=brief)

    def set_visibility(self, queue: str, receipts: Mapping[str, int]) -> None:
        self.visibilities += receipts.values()
        super().set_visibility(queue, receipts)


def handle(worker: Worker, *records: dict[str, Any], seconds: float = 60.0) -> list[str]:
    """Invoke a worker. Return the ids of the messages that stay in the queue."""
    return invoke(worker.handle, *records, seconds=seconds)


@dataclass
class World:
    """The database, the queues, and helpers to inspect them."""

    url: str
    sqs: Sqs
    database: Database
    client: JobClient
    _observer: Database
    workers: dict[str, Worker] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def over(cls, url: str) -> Iterator[Self]:
        """Yield a world over a database, with the queues of the mocked AWS."""
        world = cls(url, Sqs(), Database(url), JobClient(), Database(url))
        world.make(lane_name(PREFIX, Queue.LOW, SWEEP))
        yield world
        world.database.close()
        world._observer.drop()
        world.client.close()

    def lane(self, task: Task[Any, Any]) -> str:
        """Return the name of the home lane. The lane and its dead-letter queue are created on first use."""
        name = lane_name(PREFIX, task.queue, task.type)
        self.make(name)
        return name

    def make(self, *names: str) -> None:
        """Create queues, each with its dead-letter queue. A request to moto would take twenty times as long."""
        backend = sqs_backends[DEFAULT_ACCOUNT_ID][self.sqs.client.meta.region_name]
        for name in names:
            for queue in (name, dead_letter_name(name)):
                backend.create_queue(queue)

    def deploy(self, tasks: Iterable[Task[Any, Any]]) -> None:
        """Create every queue of a deploy of these tasks: front doors, lanes, and their dead-letter queues."""
        self.make(*(front_door_name(PREFIX, queue) for queue in Queue))
        self.make(*(lane_name(PREFIX, queue, task.type) for task in tasks for queue in task.lanes))

    def worker(self, task: Task[Any, Any]) -> Worker:
        self.lane(task)
        if task.type not in self.workers:
            made: Any = worker_of(task, self.database, self.sqs, PREFIX)  # that of the sweep has the same methods
            self.workers[task.type] = made
        return self.workers[task.type]

    def deliver(
        self, task: Task[Any, Any], *bodies: str | Mapping[str, Any], seconds: float = 60.0, **how: Any
    ) -> list[str]:
        """Deliver messages to the task's function. Return the ids of the messages that stay in the queue."""
        records = [record(body, self.lane(task), **how) for body in bodies]
        return handle(self.worker(task), *records, seconds=seconds)

    def received(self, queue: str, *, visibility: int = 0) -> list[dict[str, Any]]:
        """Return the messages in a queue."""
        return self.sqs.client.receive_message(  # type: ignore[return-value]
            QueueUrl=self.sqs.url(queue),
            MaxNumberOfMessages=10,
            VisibilityTimeout=visibility,
            MessageAttributeNames=["All"],
            AttributeNames=["All"],
        ).get("Messages", [])

    def dead_letters(self, task: Task[Any, Any]) -> list[dict[str, Any]]:
        return self.received(dead_letter_name(self.lane(task)))

    def take(self, task: Task[Any, Any]) -> list[dict[str, Any]]:
        """Receive and delete the messages in the lane."""
        messages = self.received(self.lane(task), visibility=30)
        for message in messages:
            self.sqs.client.delete_message(
                QueueUrl=self.sqs.url(self.lane(task)), ReceiptHandle=message["ReceiptHandle"]
            )
        return messages

    def run(self, sql: str, *parameters: Any) -> list[list[Any]]:
        """Run a statement on a connection of the test."""
        return self._observer.get().run(sql, *parameters)

    def row(self, id_: str) -> dict[str, Any]:
        connection = self._observer.get()
        rows = connection.run("select to_jsonb(t) from joblane.tasks t where id = $1", id_)
        assert rows, f"no row {id_!r}"
        return rows[0][0]  # type: ignore[no-any-return]

    def attempts(self, id_: str) -> list[dict[str, Any]]:
        rows = self.run("select to_jsonb(a) from joblane.runs a where task_id = $1 order by run", id_)
        return [row[0] for row in rows]

    def later(self, id_: str) -> None:
        """Let the waiting time of a task pass."""
        self.run("update joblane.tasks set due_at = clock_timestamp(), sweep_at = clock_timestamp() where id = $1", id_)

    def expire_leases(self) -> None:
        """End the leases of all runs, and make their rows due for the sweep."""
        self.run(
            "update joblane.tasks set lease_until = clock_timestamp() - interval '1 s', sweep_at = clock_timestamp()"
            " where state = 'active'"
        )

    def outcomes(self, id_: str) -> list[str | None]:
        return [attempt["outcome"] for attempt in self.attempts(id_)]

    def sweep(self, bus: EventBus | None = None) -> Swept:
        """Run a sweep."""
        return sweep(self.database.get(), self.sqs, PREFIX, bus=bus)

    def watch(self) -> RecordingSqs:
        """Record the messages that the world's workers send from now on. Call it before the first delivery."""
        assert not self.workers
        self.sqs = recording = RecordingSqs()
        return recording

    @contextmanager
    def locked(self, *ids: str) -> Iterator[Database]:
        """Lock tasks in a transaction of a second connection, as an operator does. Its end is a rollback."""
        with Database(self.url) as holder:
            holder.get().execute_simple("begin")
            holder.get().run("select from joblane.tasks where id = any ($1::text[]) for update", list(ids))
            yield holder
            if not holder.get().idle:
                holder.get().rollback()

    @contextmanager
    def rival(self, task: Task[Any, Any], hook: Hook | None = None) -> Iterator[Worker]:
        """Yield another worker of the same task type with its own connection, like another process."""
        self.lane(task)
        database = HookedDatabase(self.url, hook) if hook else Database(self.url)
        try:
            yield Worker(task, database, self.sqs, PREFIX)
        finally:
            database.drop()

    def receive(self, queue: str, *, visibility: int = 30) -> list[dict[str, Any]]:
        """Receive the messages in a queue, as the records of an event with valid receipt handles."""
        return [
            record(
                message["Body"],
                queue,
                message_id=message["MessageId"],
                receipt=message["ReceiptHandle"],
                system=message["Attributes"],
                attributes={
                    name: (value["DataType"], value["StringValue"])
                    for name, value in message.get("MessageAttributes", {}).items()
                },
            )
            for message in self.received(queue, visibility=visibility)
        ]

    def acknowledge(self, queue: str, records: Sequence[dict[str, Any]], kept: Sequence[str]) -> None:
        """Delete the messages that the function did not report as failed, as Lambda's poller does."""
        for delivery in records:
            if delivery["messageId"] not in kept:
                self.sqs.client.delete_message(QueueUrl=self.sqs.url(queue), ReceiptHandle=delivery["receiptHandle"])

    def depth(self, queue: str) -> int:
        """Return the number of messages in a queue, visible or not."""
        return queue_depth(self.sqs, queue).all
