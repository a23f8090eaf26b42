"""A world for one test: a migrated database, queues in moto, and a worker over both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from moto import mock_aws
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from joblane.client import JobClient
from joblane.declaration import Task
from joblane.queues import dead_letter_name, lane_name
from joblane.record.database import Database
from joblane.sqs.client import Sqs
from joblane.worker.worker import Worker
from tests.events import LambdaContext, event, record

PREFIX = "jobs"


@dataclass
class World:
    """The record, the queues and helpers to look at them."""

    url: str
    sqs: Sqs
    database: Database
    client: JobClient
    _looker: Database
    workers: dict[str, Worker] = field(default_factory=dict)

    def lane(self, task: Task[Any, Any]) -> str:
        """The name of the home lane, made with its dead letters on first use."""
        name = lane_name(PREFIX, task.queue, task.type)
        for queue in (name, dead_letter_name(name)):
            self.sqs.client.create_queue(QueueName=queue)
        return name

    def worker(self, task: Task[Any, Any]) -> Worker:
        self.lane(task)
        if task.type not in self.workers:
            self.workers[task.type] = Worker(task, self.database, self.sqs, PREFIX)
        return self.workers[task.type]

    def deliver(
        self, task: Task[Any, Any], *bodies: str | Mapping[str, Any], seconds: float = 60.0, **how: Any
    ) -> list[str]:
        """Hand messages to the task's function at once. Returns the message ids that stay in the queue."""
        records = [record(body, self.lane(task), **how) for body in bodies]
        answer = self.worker(task).handle(event(*records), LambdaContext(seconds=seconds))
        return [item["itemIdentifier"] for item in answer["batchItemFailures"]]

    def received(self, queue: str, *, visibility: int = 0) -> list[dict[str, Any]]:
        """What is in a queue now."""
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
        """Receive what is in the lane and delete it: as events want it, its body and attributes."""
        messages = self.received(self.lane(task), visibility=30)
        for message in messages:
            self.sqs.client.delete_message(
                QueueUrl=self.sqs.url(self.lane(task)), ReceiptHandle=message["ReceiptHandle"]
            )
        return messages

    def run(self, sql: str, *parameters: Any) -> list[list[Any]]:
        """Look at the record from outside."""
        return self._looker.get().run(sql, *parameters)

    def row(self, id_: str) -> dict[str, Any]:
        connection = self._looker.get()
        rows = connection.run("select to_jsonb(t) from joblane.tasks t where id = $1", id_)
        assert rows, f"no row {id_!r}"
        return rows[0][0]  # type: ignore[no-any-return]

    def attempts(self, id_: str) -> list[dict[str, Any]]:
        rows = self.run("select to_jsonb(a) from joblane.task_attempts a where task_id = $1 order by run", id_)
        return [row[0] for row in rows]

    def later(self, id_: str) -> None:
        """Let the waiting time of a task pass."""
        self.run("update joblane.tasks set due_at = clock_timestamp(), sweep_at = clock_timestamp() where id = $1", id_)


@pytest.fixture
def world(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        made = World(database_url, Sqs(), Database(database_url), JobClient(), Database(database_url))
        yield made
        made.database.drop()
        made._looker.drop()
        made.client.close()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Poll a condition for up to 20 seconds."""
    import time

    def wait(condition: Callable[[], bool]) -> None:
        ends = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < ends, "the condition did not come true"
            time.sleep(0.01)

    return wait


@pytest.fixture
def session(world: World) -> Iterator[Session]:
    """A caller's own, on an engine of its own."""
    engine = create_engine(world.url.replace("postgresql://", "postgresql+pg8000://"))
    with Session(engine) as made:
        yield made
    engine.dispose()
