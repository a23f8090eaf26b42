"""The cost of a message in the worker, without the database, against the same job in Powertools' BatchProcessor.

Both validate the payload and count metrics per job, and both run in this process, in turns. The handler of Powertools
writes a log line per job; Joblane writes a line for all completed jobs of a batch.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from pydantic import BaseModel

from joblane import Payload, TaskContext, task
from joblane.record.driver.database import Database
from joblane.record.row.options import AS_DECLARED
from joblane.record.task.claim import Claim, Verdict
from joblane.sqs.client import Sqs
from joblane.worker import worker
from joblane.worker.invocation import lambda_handler
from tests.bench.quiet import silent
from tests.bench.report import Ratio, in_turns
from tests.builders.events import LambdaContext, event
from tests.builders.events import record as sqs_record

MESSAGES = 2000
ROUNDS = 9


class Work(Payload):
    tenant_id: str
    number: int


@task("bench:work", timeout=timedelta(seconds=10), batch_size=10)
def bench_work(payload: Work, ctx: TaskContext) -> None:
    pass


class Bare(BaseModel):
    tenant_id: str
    number: int


class Envelope(BaseModel):
    type: str
    id: str
    payload: Bare


def run() -> list[Ratio]:
    found = []
    for batch in (1, 10):
        sent = events(batch, MESSAGES)
        mine, bare = in_turns(ROUNDS, lambda: ours(sent, Sqs()), lambda: powertools(sent))  # noqa: B023
        found.append(
            Ratio(
                "handle a message, without the database",
                f"batch {batch}, CPU per message, against Powertools' BatchProcessor",
                f"{mine * 1e6 / MESSAGES:.0f} µs",
                f"{bare * 1e6 / MESSAGES:.0f} µs",
                mine / bare,
                1.0,
                at_most=True,
            )
        )
    return found


def events(batch: int, count: int) -> list[dict[str, Any]]:
    """Return the events of ``count`` messages, ``batch`` to an event."""

    def body(number: int) -> dict[str, Any]:
        return {"v": 1, "type": "bench:work", "id": f"id-{number}", "payload": {"tenant_id": "acme", "number": number}}

    numbers = range(count)
    return [
        event(*(sqs_record(body(number), "jobs-default-bench-work") for number in numbers[start : start + batch]))
        for start in numbers[::batch]
    ]


def ours(events: list[dict[str, Any]], sqs: Sqs) -> float:
    """Handle the events. Return the processor time in seconds."""
    measured = worker.Worker(bench_work, Database("postgresql://nobody@127.0.0.1/none"), sqs, "jobs")
    handler = lambda_handler(measured.handle)
    with _without_database(), silent():
        started = time.process_time()
        for event_ in events:
            handler(event_, LambdaContext())
        return time.process_time() - started


@contextlib.contextmanager
def _without_database() -> Iterator[None]:
    """Replace the claim and the finish by functions that return at once. The rest of the path is unchanged."""

    class Idle:
        idle = True

    def claim(_connection: object, arrivals: Any, _lease: object, _request: object, _token: object) -> dict[str, Claim]:
        return {
            item["id"]: Claim(
                item["id"],
                Verdict.RUN,
                "token",
                1,
                1,
                6,
                0,
                0,
                0,
                0,
                item["payload"],
                None,
                {},
                AS_DECLARED,
                None,
                0,
                None,
                None,
            )
            for item in arrivals
        }

    with (
        patch.object(Database, "get", lambda _self: Idle()),
        patch.object(worker, "claim", claim),
        patch.object(worker, "finish", lambda _connection, ends, **_: {end.id for end in ends}),
    ):
        yield


def powertools(events: list[dict[str, Any]]) -> float:
    logger = Logger(service="bare", use_rfc3339=True, utc=True)
    metrics = Metrics(namespace="Bare", service="bare")
    processor = BatchProcessor(event_type=EventType.SQS)

    def handle(record: Any) -> None:
        started = time.perf_counter()
        message = Envelope.model_validate_json(record.body)
        log_fields = {
            "task_id": message.id,
            "task_type": message.type,
            "attempt": record.attributes.approximate_receive_count,
        }
        logger.append_keys(**log_fields)
        ms = round((time.perf_counter() - started) * 1000)
        logger.info("task completed", extra={"outcome": "completed", "ms": ms, "queue": "default"})
        logger.remove_keys(list(log_fields))
        metrics.add_metric("Started", "Count", 1)
        metrics.add_metric("Completed", "Count", 1)
        metrics.add_metric("WaitMs", "Milliseconds", time.time() * 1000 - int(record.attributes.sent_timestamp))
        metrics.add_metric("DurationMs", "Milliseconds", ms)

    @metrics.log_metrics
    def handler(event_: dict[str, Any], context: Any) -> Any:
        metrics.add_dimension("task_type", "bench:work")
        metrics.add_dimension("queue", "default")
        return process_partial_response(event_, handle, processor, context)

    with silent():
        started = time.process_time()
        for event_ in events:
            handler(event_, LambdaContext())
        return time.process_time() - started
