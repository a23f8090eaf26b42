"""The cost of an enqueue against bare boto3, measured in turns on the same emulator.

`enqueue` is compared by the processor time of this process: without a row, in a transaction of its own, and in a
session, whose begin and commit are part of it. Each turn is a round of calls of one kind, because a call that follows
another kind of call takes up to 12 % more: the processor's caches hold the other's code.
`enqueue_many` is compared by its rate with the same number of threads, without and with rows in the database.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import boto3
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from joblane import JobClient, MessageClient, Payload, TaskContext, settings, task
from joblane.names import lane_name
from joblane.sqs.client import CONNECTIONS
from joblane.tasks.job import Job
from tests.bench.report import Ratio, in_turns, median, rounds

ROUNDS, SENDS = 100, 20
MANY = 10_000
KINDS = {"without a row": 0.5, "in its own transaction": 0.8, "in a session, with its commit": 1.7}
"""Kind of enqueue → the most of boto3's processor time."""
RATES = {"without rows": 1.0, "with rows": 0.75}


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
    direct, recorded = MessageClient(), JobClient()
    engine = create_engine(settings.database_url().replace("postgresql:", "postgresql+pg8000:", 1))

    def body(number: int) -> str:
        return json.dumps({"type": "bench:order", "payload": {"tenant_id": "acme", "number": number}})

    def in_session(number: int) -> None:
        with Session(engine) as session:
            recorded.enqueue(bench_order, Order(tenant_id="acme", number=number), session=session)
            session.commit()

    kinds: dict[str, Callable[[int], Any]] = {
        "without a row": lambda number: direct.enqueue(bench_order, Order(tenant_id="acme", number=number)),
        "in its own transaction": lambda number: recorded.enqueue(bench_order, Order(tenant_id="acme", number=number)),
        "in a session, with its commit": in_session,
        "boto3": lambda number: sqs.send_message(QueueUrl=url, MessageBody=body(number)),
    }

    def many(client: JobClient | MessageClient) -> float:
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
    measured = {kind: partial(_processor_time, call, numbers) for kind, call in kinds.items()}
    times = rounds(ROUNDS, measured, warm=3)
    bare = median(times["boto3"])
    found = [
        Ratio(
            f"enqueue {kind}",
            f"{ROUNDS} rounds of {SENDS} in turns, median of the client's processor time, against boto3's send_message",
            f"{median(times[kind]) * 1e6:.0f} µs",
            f"{bare * 1e6:.0f} µs",
            median(times[kind]) / bare,
            bound,
            at_most=True,
        )
        for kind, bound in KINDS.items()
    ]
    clients: tuple[JobClient | MessageClient, ...] = (direct, recorded)
    for client, (kind, bound) in zip(clients, RATES.items(), strict=True):
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
    """Return the seconds of a call, as the mean of a round."""
    started = time.process_time()
    for number in itertools.islice(numbers, SENDS):
        send(number)
    return (time.process_time() - started) / SENDS
