"""Ways to break things in a test: wrappers over the real connection and the real queues, and rows in any state."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from joblane.declaration import Task
from joblane.json_values import digest
from joblane.limits import QUEUE_RETENTION
from joblane.maintenance.sweep import Swept, sweep
from joblane.record.database import Database
from joblane.sqs.client import Entry, Sqs
from joblane.testing.faults import (
    Tap,
    TappedDatabase,
)
from joblane.worker.worker import Worker
from tests.events import LambdaContext, event
from tests.integration.jobs.conftest import PREFIX, World


class WatchedSqs(Sqs):
    """The real queues, and a note of what was sent and of the visibilities that were set."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Entry] = []
        self.visibilities: list[int] = []

    def send_many(self, entries: Sequence[Entry]) -> dict[int, str]:
        self.sent += entries
        return super().send_many(entries)

    def set_visibility(self, queue: str, receipts: Mapping[str, int]) -> None:
        self.visibilities += receipts.values()
        super().set_visibility(queue, receipts)


def watch(world: World) -> WatchedSqs:
    """Note what the world's workers send from now on. Call it before the first delivery."""
    assert not world.workers
    world.sqs = watched = WatchedSqs()
    return watched


@contextmanager
def rival(world: World, task: Task[Any, Any], tap: Tap | None = None) -> Iterator[Worker]:
    """Another worker of the same task type, as another process would be: with a connection of its own."""
    world.lane(task)
    database = TappedDatabase(world.url, tap) if tap else Database(world.url)
    try:
        yield Worker(task, database, world.sqs, PREFIX)
    finally:
        database.drop()


def handle(worker: Worker, *records: dict[str, Any], seconds: float = 60.0) -> list[str]:
    """Invoke a worker. Returns the message ids that stay in the queue."""
    answer = worker.handle(event(*records), LambdaContext(seconds=seconds))
    return [item["itemIdentifier"] for item in answer["batchItemFailures"]]


def run_sweep(world: World) -> Swept:
    """One sweep over the record."""
    return sweep(world.database.get(), world.sqs, PREFIX)


# --- The queue as a poller sees it ---------------------------------------------------------------------------------


def receive(world: World, queue: str, *, visibility: int = 30) -> list[dict[str, Any]]:
    """What is in a queue, as the records of an event with receipt handles that are good."""
    found = world.received(queue, visibility=visibility)
    return [
        {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
            "messageAttributes": {
                name: {"dataType": value["DataType"], "stringValue": value["StringValue"]}
                for name, value in message.get("MessageAttributes", {}).items()
            },
            "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{queue}",
        }
        for message in found
    ]


def acknowledge(world: World, queue: str, records: Sequence[dict[str, Any]], kept: Sequence[str]) -> None:
    """Delete what the function did not report as failed, as Lambda's poller does."""
    for one in records:
        if one["messageId"] not in kept:
            world.sqs.client.delete_message(QueueUrl=world.sqs.url(queue), ReceiptHandle=one["receiptHandle"])


def depth(world: World, queue: str) -> int:
    """Messages in a queue, seen or not."""
    answer = world.sqs.client.get_queue_attributes(QueueUrl=world.sqs.url(queue), AttributeNames=["All"])
    found = answer["Attributes"]
    return int(found["ApproximateNumberOfMessages"]) + int(found["ApproximateNumberOfMessagesNotVisible"])


# --- Rows in any state ---------------------------------------------------------------------------------------------

TOKEN = "00000000-0000-4000-8000-000000000001"
"""The lease of somebody else."""


@dataclass(frozen=True)
class In:
    """A moment, in seconds from now."""

    seconds: float


def put(world: World, task: Task[Any, Any], id_: str, payload: Mapping[str, Any] | None = None, **columns: Any) -> None:
    """Write a row of ``task``, as far as given; an active one with its open attempt."""
    payload = {"do": "nothing", "number": 0} if payload is None else payload
    row: dict[str, Any] = {
        "id": id_,
        "type": task.type,
        "queue": "default",
        "state": "pending",
        "payload": payload,
        "payload_digest": digest(payload),
        "attempts": 0,
        "runs": 0,
        "generation": 0,
        "allowed": task.max_retry + 1,
        "sweep_at": In(60),
        "retention_seconds": 86_400,
        **columns,
    }
    now = datetime.now(UTC)
    moments = {
        name: (now + timedelta(seconds=value.seconds)).isoformat()
        for name, value in row.items()
        if isinstance(value, In)
    }
    names = ", ".join(row)  # the others have their defaults
    world.run(
        f"insert into joblane.tasks ({names}) select {names} from jsonb_populate_record(null::tasks, $1::jsonb)",
        json.dumps(row | moments),
    )
    if row["state"] == "active":
        world.run(
            "insert into joblane.task_attempts (task_id, run, attempt, generation) values ($1, $2::int, "
            "$3::int, $4::int)",
            id_,
            str(row["runs"]),
            str(row["attempts"]),
            str(row["generation"]),
        )


def active(seconds: float, **columns: Any) -> dict[str, Any]:
    """Columns of a row in its first run, whose lease ends in ``seconds``."""
    lease = {"lease_token": TOKEN, "lease_until": In(seconds), "sweep_at": In(seconds + 15)}
    return {"state": "active", "attempts": 1, "runs": 1, "company": 1} | lease | columns


def archived(**columns: Any) -> dict[str, Any]:
    """Columns of a row that was given up and whose dead letter was sent."""
    ended = {"finished_at": In(-60), "expire_at": In(QUEUE_RETENTION.total_seconds()), "sweep_at": None}
    told = {"reason": "attempt 4 of 4 failed", "error_type": "ValueError", "dead_sent_at": In(-50)}
    return {"state": "archived", "attempts": 4, "runs": 4} | ended | told | columns


def expire_leases(world: World) -> None:
    """Let the leases of all runs end, and the sweep know."""
    world.run(
        "update joblane.tasks set lease_until = clock_timestamp() - interval '1 s', sweep_at = clock_timestamp()"
        " where state = 'active'"
    )


def outcomes(world: World, id_: str) -> list[str | None]:
    return [attempt["outcome"] for attempt in world.attempts(id_)]
