"""taskiq with the broker of taskiq-aio-sqs. See :mod:`tests.bench.peers.program`."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import boto3
from sqlalchemy.ext.asyncio import AsyncSession
from taskiq import SmartRetryMiddleware
from taskiq_aio_sqs import SQSBroker

from tests.bench.peers import program
from tests.bench.peers.rows import ORDER, async_engine, async_jobs, write_with_engine

QUEUE = "taskiq-jobs"
PROCESSES = 2
SENT_SECONDS = 1.0
"""The last batch is sent in this time."""


def _broker(**options: Any) -> Any:
    return SQSBroker(
        QUEUE,
        endpoint_url=os.environ["AWS_ENDPOINT_URL"],
        region_name=os.environ["AWS_DEFAULT_REGION"],
        aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        max_number_of_messages=10,
        visibility_timeout=program.rescue_seconds(),
        enable_heartbeat=True,
        **options,
    )


broker = _broker().with_middlewares(SmartRetryMiddleware(default_retry_count=100, use_delay_exponent=True))


JOBS: dict[str, Any] = {
    name: broker.task(task_name=name, retry_on_error=name != "noop")(job)
    for name, job in async_jobs(write_with_engine).items()
}


def install() -> None:
    """Create the queue, which the broker expects."""
    boto3.client("sqs").create_queue(QueueName=QUEUE)


def describe() -> dict[str, Any]:
    return {
        "packages": ["taskiq", "taskiq-aio-sqs"],
        "record": False,
        "queues": [QUEUE],
        "settings": {
            "max_number_of_messages 10": "taskiq-aio-sqs, README, “Configuration”",
            f"visibility_timeout {program.rescue_seconds()} s with enable_heartbeat": "taskiq-aio-sqs, “Heartbeat”",
            "SmartRetryMiddleware with 100 retries, use_delay_exponent, at most 60 s": "taskiq, Available middlewares",
            "enable_batching for the bulk call": "taskiq-aio-sqs, README, “Message batching”",
            "acknowledged when the result is saved, the default; no result backend": "taskiq, CLI",
            f"{PROCESSES} worker processes, log level WARNING": "taskiq, CLI",
        },
        "notes": {
            "many": "a broker with `enable_batching`, whose `kiq` returns before the message is sent",
            "effect": "a transaction of its own, before the message is deleted",
            "transaction": "`kiq` after the commit",
        },
    }


def worker(concurrency: int) -> list[str]:
    return [
        program.script("taskiq"),
        "worker",
        "tests.bench.peers.taskiq_program:broker",
        f"--workers={PROCESSES}",
        f"--max-async-tasks={concurrency // PROCESSES}",
        "--log-level=WARNING",
    ]


class Producer:
    def __init__(self) -> None:
        self._batching = _broker(enable_batching=True)

    async def open(self) -> None:
        await broker.startup()
        await self._batching.startup()

    async def close(self) -> None:
        await self._batching.shutdown()
        await broker.shutdown()

    async def one(self, job: str, number: int, _count: int) -> None:
        await JOBS[job].kiq(number)

    async def many(self, job: str, first: int, count: int) -> None:
        """Wait until all batches are sent: a shutdown would send the rest as one batch, above the limit of SQS."""
        batched = JOBS[job].kicker().with_broker(self._batching)
        for number in range(first, first + count):
            await batched.kiq(number)
        while any(not buffer.empty() for buffer in self._batching._batch_buffers.values()):
            await asyncio.sleep(0.01)
        await asyncio.sleep(SENT_SECONDS)

    async def transaction(self, job: str, number: int, _count: int) -> None:
        await self.rows(job, number, 1)
        await self.one(job, number, 1)

    async def rows(self, _job: str, number: int, _count: int) -> None:
        async with AsyncSession(async_engine()) as session, session.begin():
            await session.execute(ORDER, {"number": number})


if __name__ == "__main__":
    program.main("tests.bench.peers.taskiq_program")
