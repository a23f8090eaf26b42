"""No-op jobs through queue, mapping and function on the emulator, with rows, against a bare Lambda without a database.

All messages except the last are sent before the mapping is created. The last message wakes the emulator's poller, which
otherwise sleeps for up to five seconds. The time is measured from the last message until the last job has ended: until
all rows are `completed`, or the bare queue is empty. The processor time is that of the function's processes and of
PostgreSQL; the emulator's is not counted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import boto3

from joblane import JobClient
from joblane.local.ministack import MiniStack
from joblane.local.postgres import Postgres
from joblane.record.driver.database import Database
from joblane.tasks.job import Job
from tests.bench import backends
from tests.bench.deployed import Deployer, zip_code
from tests.bench.functions.bench_noop.handler import BenchNoop, bench_noop
from tests.bench.report import Ratio, median, rounds

JOBS = 5_000
BATCH = 10
TIMEOUT_SECONDS = 120
ROUNDS = 5
BOUNDS = {2: (21, 0.75), 10: (21, 0.75)}
"""Concurrency → the most times of a bare Lambda's processor time, and the least of its jobs a second."""
WARM_UPS = 3
"""Runs before the measurement: the emulator starts the processes of a function one by one, and each start takes 1 s."""


@dataclass(frozen=True)
class Run:
    """The time of all jobs, and the processor time of the functions and of PostgreSQL, in seconds."""

    seconds: float
    functions: float
    postgres: float


class Bench:
    """Two functions and their queues on an emulator."""

    def __init__(self, server: Postgres, emulator: MiniStack, folder: Path) -> None:
        url = server.url
        self._server, self._emulator = server, emulator
        self._lambda, self._sqs = boto3.client("lambda"), boto3.client("sqs")
        self._database = Database(url)
        self._client = JobClient()
        environment = {"JOBLANE_TASK": bench_noop.type, "JOBLANE_PREFIX": "jobs", "DATABASE_URL": url}
        content = zip_code(folder, bench_noop.function)
        deployer = Deployer(self._lambda)
        for name, handler in (
            ("ours", "joblane.worker.lambda_entry.handler"),
            ("bare", "tests.bench.functions.bench_noop.handler.bare"),
        ):
            deployer.create(name, handler, content, environment)
        self._queues = {
            name: self._queue(queue) for name, queue in (("ours", "jobs-default-bench-noop"), ("bare", "bare"))
        }

    def _queue(self, name: str) -> str:
        return self._sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "720"})["QueueUrl"]

    def ours(self, concurrency: int) -> Run:
        self._database.get().run("truncate joblane.tasks, joblane.task_attempts")
        results = self._client.enqueue_many([Job(bench_noop, BenchNoop(number=n)) for n in range(JOBS - 1)])
        unsent = sum(not getattr(result, "sent", False) for result in results)
        assert unsent == 0, f"{unsent:,} messages were not sent: the emulator did not answer in time"

        def send_last() -> None:
            self._client.enqueue(bench_noop, BenchNoop(number=JOBS - 1))

        def has_ended() -> bool:
            return self._database.get().run("select count(*) from joblane.tasks where state = 'completed'") == [[JOBS]]

        return self._time("ours", concurrency, send_last, has_ended)

    def bare(self, concurrency: int) -> Run:
        url = self._queues["bare"]
        bodies = [json.dumps({"payload": {"number": number}}) for number in range(JOBS)]
        for start in range(0, JOBS - 1, BATCH):
            entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[:-1][start : start + BATCH])]
            self._sqs.send_message_batch(QueueUrl=url, Entries=entries)  # type: ignore[arg-type]

        def send_last() -> None:
            self._sqs.send_message(QueueUrl=url, MessageBody=bodies[-1])

        def has_ended() -> bool:
            wanted: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
            counts = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=wanted)["Attributes"]
            return all(count == "0" for count in counts.values())

        return self._time("bare", concurrency, send_last, has_ended)

    def _time(self, name: str, concurrency: int, send_last: Callable[[], None], has_ended: Callable[[], bool]) -> Run:
        """Measure from the last message until ``has_ended``."""
        arn = self._sqs.get_queue_attributes(QueueUrl=self._queues[name], AttributeNames=["QueueArn"])
        mapping = self._lambda.create_event_source_mapping(
            EventSourceArn=arn["Attributes"]["QueueArn"],
            FunctionName=name,
            BatchSize=BATCH,
            FunctionResponseTypes=["ReportBatchItemFailures"],
            ScalingConfig={"MaximumConcurrency": concurrency},
        )["UUID"]
        before = self._spent()
        send_last()
        started = time.perf_counter()
        while not has_ended():
            assert time.perf_counter() - started < TIMEOUT_SECONDS, f"{name}: not ended in {TIMEOUT_SECONDS} s"
            time.sleep(0.05)
        took = time.perf_counter() - started
        functions, postgres = (after - one for after, one in zip(self._spent(), before, strict=True))
        self._lambda.delete_event_source_mapping(UUID=mapping)
        return Run(took, functions, postgres)

    def _spent(self) -> tuple[float, float]:
        """Return the processor seconds of the functions and of PostgreSQL."""
        assert self._emulator.pid is not None, "it has ended"
        assert self._server.pid is not None, "it has ended"
        return backends.descendants(self._emulator.pid), backends.descendants(self._server.pid)


def run(server: Postgres, emulator: MiniStack, folder: Path) -> list[Ratio]:
    bench = Bench(server, emulator, folder)
    found = []
    for concurrency, (most, least) in BOUNDS.items():
        calls = {"ours": partial(bench.ours, concurrency), "bare": partial(bench.bare, concurrency)}
        runs = rounds(ROUNDS, calls, warm=WARM_UPS)
        ours, bare = (median([run.seconds for run in runs[side]]) for side in ("ours", "bare"))
        functions, postgres = (
            median([getattr(run, name) / JOBS * 1e6 for run in runs["ours"]]) for name in ("functions", "postgres")
        )
        bare_functions = median([run.functions / JOBS * 1e6 for run in runs["bare"]])
        name = "no-op jobs end to end, with rows"
        setting = f"{JOBS:,} jobs, batch {BATCH}, concurrency {concurrency}, against a bare Lambda"
        found += [
            Ratio(
                name,
                f"{setting}, CPU per job: functions {functions:.0f} µs and PostgreSQL {postgres:.0f} µs",
                f"{functions + postgres:.0f} µs",
                f"{bare_functions:.0f} µs",
                (functions + postgres) / bare_functions,
                most,
                at_most=True,
            ),
            Ratio(
                name,
                f"{setting}, jobs a second",
                f"{JOBS / ours:,.0f}/s",
                f"{JOBS / bare:,.0f}/s",
                bare / ours,
                least,
                at_most=False,
            ),
        ]
    return found
