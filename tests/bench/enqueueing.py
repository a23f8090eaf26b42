"""The cost of an enqueue against bare boto3, measured in turns on the same emulator.

`enqueue` is compared by the processor time of this process: the time that the library adds to the time of boto3.
`enqueue_many` is compared by its rate with the same number of threads, without and with rows in the database.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import boto3

from joblane import JobClient, Payload, TaskContext, task
from joblane.job import Job
from joblane.queues import lane_name
from joblane.sqs.client import CONNECTIONS
from tests.bench.report import Ratio, in_turns

SENDS = 4_000
MANY = 10_000


class Order(Payload):
    tenant_id: str
    number: int


@task("bench:order", timeout=timedelta(seconds=10))
def bench_order(payload: Order, ctx: TaskContext) -> None:
    pass


def run() -> list[Ratio]:
    sqs = boto3.client("sqs")  # with the default settings
    lane = lane_name("jobs", bench_order.queue, bench_order.type)
    url = sqs.create_queue(QueueName=lane)["QueueUrl"]
    direct, recorded = JobClient(record=False), JobClient()

    def body(number: int) -> str:
        return json.dumps({"type": "bench:order", "payload": {"tenant_id": "acme", "number": number}})

    def enqueue(number: int) -> None:
        direct.enqueue(bench_order, Order(tenant_id="acme", number=number))

    def send(number: int) -> None:
        sqs.send_message(QueueUrl=url, MessageBody=body(number))

    def many(client: JobClient) -> float:
        jobs = [Job(bench_order, Order(tenant_id="acme", number=n)) for n in range(MANY)]
        sqs.purge_queue(QueueUrl=url)
        started = time.perf_counter()
        results = client.enqueue_many(jobs)
        took = time.perf_counter() - started
        assert all(getattr(result, "sent", False) for result in results)
        return took

    def batches() -> float:
        sqs.purge_queue(QueueUrl=url)

        def send_batch(start: int) -> Any:
            entries = [{"Id": str(n), "MessageBody": body(start + n)} for n in range(10)]
            return sqs.send_message_batch(QueueUrl=url, Entries=entries)  # type: ignore[arg-type]

        started = time.perf_counter()
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            list(threads.map(send_batch, range(0, MANY, 10)))
        return time.perf_counter() - started

    numbers = itertools.count()
    in_turns(100, lambda: _processor_time(enqueue, numbers), lambda: _processor_time(send, numbers))  # warm-up
    ours, bare = in_turns(SENDS, lambda: _processor_time(enqueue, numbers), lambda: _processor_time(send, numbers))
    found = [
        Ratio(
            "enqueue without a row",
            f"{SENDS:,} sends, in turns, processor time per send, against boto3's send_message",
            f"{ours * 1e6:.0f} µs",
            f"{bare * 1e6:.0f} µs",
            ours / bare,
            1.1,
            at_most=True,
        )
    ]
    for client, kind, bound in ((direct, "without rows", 0.9), (recorded, "with rows", 0.0)):
        ours, bare = in_turns(9, lambda: many(client), batches)  # noqa: B023
        found.append(
            Ratio(
                f"enqueue_many {kind}",
                f"{MANY:,} jobs, {CONNECTIONS} threads, rate against boto3's send_message_batch",
                f"{MANY / ours:,.0f}/s",
                f"{MANY / bare:,.0f}/s",
                bare / ours,
                bound,
                at_most=False,
            )
        )
    return found


def _processor_time(send: Callable[[int], None], numbers: Iterator[int]) -> float:
    started = time.process_time()
    send(next(numbers))
    return time.process_time() - started
