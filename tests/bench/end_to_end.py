"""No-op jobs through queue, mapping and function on the emulator, with rows, against a bare Lambda without a database.

All messages except the last are sent before the mapping is created. The last message wakes the emulator's poller, which
otherwise sleeps for up to five seconds. The time is measured from the last message until the last job has ended: until
all rows are `completed`, or the bare queue is empty.
"""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3

from joblane import JobClient
from joblane.job import Job
from joblane.record.database import Database
from tests.bench.functions.bench_noop.handler import BenchNoop, bench_noop
from tests.bench.report import Ratio, in_turns
from tests.unpacked import code, layer

JOBS = 5_000
BATCH = 10
ROLE = "arn:aws:iam::000000000000:role/bench"
TIMEOUT_SECONDS = 120
WARM_UPS = 3
"""Runs before the measurement: the emulator starts the processes of a function one by one, and each start takes 1 s."""


class Bench:
    """Two functions and their queues on an emulator."""

    def __init__(self, url: str, folder: Path) -> None:
        self._lambda, self._sqs = boto3.client("lambda"), boto3.client("sqs")
        self._database = Database(url)
        self._client = JobClient()
        arn = self._lambda.publish_layer_version(LayerName="bench", Content={"ZipFile": layer().path.read_bytes()})
        environment = {"JOBLANE_TASK": bench_noop.type, "JOBLANE_PREFIX": "jobs", "DATABASE_URL": url}
        content = self._code(folder).read_bytes()
        for name, handler in (
            ("ours", "joblane.worker.lambda_entry.handler"),
            ("bare", "tests.bench.functions.bench_noop.handler.bare"),
        ):
            self._lambda.create_function(
                FunctionName=name,
                Runtime="python3.13",
                Role=ROLE,
                Handler=handler,
                Code={"ZipFile": content},
                Timeout=120,
                MemorySize=512,
                Layers=[arn["LayerVersionArn"]],
                Environment={"Variables": environment},
            )
        self._queues = {
            name: self._queue(queue) for name, queue in (("ours", "jobs-default-bench-noop"), ("bare", "bare"))
        }

    @staticmethod
    def _code(folder: Path) -> Path:
        """Return the zip of the functions, with the task of the benchmark in the folder in which the entry searches."""
        target = folder / "bench.zip"
        shutil.copy(code().path, target)
        source = Path(__file__).parent / "functions" / "bench_noop" / "handler.py"
        with zipfile.ZipFile(target, "a") as archive:
            archive.write(source, "functions/bench_noop/handler.py")
            archive.writestr("functions/bench_noop/__init__.py", "")
            archive.write(source, "tests/bench/functions/bench_noop/handler.py")
        return target

    def _queue(self, name: str) -> str:
        return self._sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "720"})["QueueUrl"]

    def ours(self, concurrency: int) -> float:
        self._database.get().run("truncate joblane.tasks, joblane.task_attempts")
        results = self._client.enqueue_many([Job(bench_noop, BenchNoop(number=n)) for n in range(JOBS - 1)])
        assert all(getattr(result, "sent", False) for result in results)

        def send_last() -> None:
            self._client.enqueue(bench_noop, BenchNoop(number=JOBS - 1))

        def has_ended() -> bool:
            return self._database.get().run("select count(*) from joblane.tasks where state = 'completed'") == [[JOBS]]

        return self._time("ours", concurrency, send_last, has_ended)

    def bare(self, concurrency: int) -> float:
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

    def _time(self, name: str, concurrency: int, send_last: Callable[[], None], has_ended: Callable[[], bool]) -> float:
        """Return the seconds from the last message until ``has_ended``."""
        arn = self._sqs.get_queue_attributes(QueueUrl=self._queues[name], AttributeNames=["QueueArn"])
        mapping = self._lambda.create_event_source_mapping(
            EventSourceArn=arn["Attributes"]["QueueArn"],
            FunctionName=name,
            BatchSize=BATCH,
            FunctionResponseTypes=["ReportBatchItemFailures"],
            ScalingConfig={"MaximumConcurrency": concurrency},
        )["UUID"]
        send_last()
        started = time.perf_counter()
        while not has_ended():
            assert time.perf_counter() - started < TIMEOUT_SECONDS, f"{name}: not ended in {TIMEOUT_SECONDS} s"
            time.sleep(0.05)
        took = time.perf_counter() - started
        self._lambda.delete_event_source_mapping(UUID=mapping)
        return took


def run(url: str, folder: Path) -> list[Ratio]:
    bench = Bench(url, folder)
    found = []
    for concurrency in (2, 10):
        for _ in range(WARM_UPS):
            bench.ours(concurrency), bench.bare(concurrency)
        ours, bare = in_turns(5, lambda: bench.ours(concurrency), lambda: bench.bare(concurrency))  # noqa: B023
        found.append(
            Ratio(
                "no-op jobs end to end, with rows",
                f"{JOBS:,} jobs, batch {BATCH}, concurrency {concurrency}, rate against a bare Lambda",
                f"{JOBS / ours:,.0f}/s",
                f"{JOBS / bare:,.0f}/s",
                bare / ours,
                0.6,
                at_most=False,
            )
        )
    return found
