"""Joblane as a peer: its workers are functions on the emulator, behind an event source mapping."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.names import dead_letter_name, lane_name
from joblane.quotas import MIN_CONCURRENCY, Numbers
from joblane.tasks.task import Task
from tests.bench import backends
from tests.bench.deployed import Deployer, zip_code
from tests.bench.functions.peers_effect.handler import peers_effect
from tests.bench.functions.peers_long.handler import peers_long
from tests.bench.functions.peers_noop.handler import peers_noop
from tests.bench.peers import kills, program
from tests.bench.peers.cost_tables import BATCHES
from tests.bench.peers.peer import Bench, Peer, Supervisor, client

PREFIX = "jobs"
EFFECT = {"BENCH_TIMEOUT": "10", "BENCH_BATCH": "1"}
HANDLER = "joblane.worker.lambda_entry.handler"
TASKS: tuple[Task[Any, Any], ...] = (peers_noop, peers_effect, peers_long, jobs_sweep)


class JoblanePeer(Peer):
    """``batches``: the batch sizes of its mapping."""

    batches = BATCHES["joblane"]

    def __init__(self, name: str, bench: Bench, settings: Mapping[str, str] | None = None) -> None:
        assert bench.emulator is not None, "it needs an emulator"
        self._lambda = client("lambda", bench.emulator.endpoint)
        self._sqs = client("sqs", bench.emulator.endpoint)
        self._mappings: list[str] = []
        self._functions: list[str] = []
        self._urls: list[str] = []
        super().__init__(name, bench, {"JOBLANE_PREFIX": PREFIX, **EFFECT, **(settings or {})})

    def _interpreter(self) -> Path:
        return Path(sys.executable)

    def _install(self) -> None:
        super()._install()
        handlers = [task.function for task in TASKS if task is not jobs_sweep]
        content = zip_code(self.folder, *handlers, modules=[program, kills])
        deployer = Deployer(self._lambda)
        names = ("DATABASE_URL", "JOBLANE_PREFIX", *(name for name in self.environment if name.startswith("BENCH_")))
        self._queues: dict[str, str] = {}
        for task in TASKS:
            environment = {name: self.environment[name] for name in names} | {"JOBLANE_TASK": task.type}
            numbers = self._numbers(task)
            seconds = int(numbers.function_timeout.total_seconds())
            deployer.create(task.folder, HANDLER, content, environment, timeout_seconds=seconds)
            self._functions.append(task.folder)
            self._queues[task.folder] = self._make_lane(lane_name(PREFIX, task.queue, task.type), numbers)

    def _numbers(self, task: Task[Any, Any]) -> Numbers:
        """Return the settings of a task's lane. The job ``effect`` has its timeout and batch size from ``settings``."""
        if task is not peers_effect:
            return task.numbers
        timeout = timedelta(seconds=int(self.environment["BENCH_TIMEOUT"]))
        batch = int(self.environment["BENCH_BATCH"])
        return Numbers.of(timeout=timeout, batch_size=batch, max_retry=task.max_retry, what=task.type)

    def _make_lane(self, name: str, numbers: Numbers) -> str:
        """Create a lane and its dead-letter queue. Return the lane's ARN."""
        dead_letters = self._make_queue(dead_letter_name(name), {})
        redrive = {"deadLetterTargetArn": dead_letters, "maxReceiveCount": numbers.max_receive_count}
        visibility = str(int(numbers.visibility.total_seconds()))
        return self._make_queue(name, {"VisibilityTimeout": visibility, "RedrivePolicy": json.dumps(redrive)})

    def _make_queue(self, name: str, attributes: Any) -> str:
        url = self._sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        self._urls.append(url)
        arn: str = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        return arn

    def work(self, concurrency: int, batch: int | None = None, *, processes: int = 1) -> None:
        """``batch`` None: that of the setting ``BENCH_BATCH``, and ``concurrency`` counts jobs, not invocations."""
        invocations = concurrency * processes
        if batch is None:
            batch = int(self.environment["BENCH_BATCH"])
            invocations //= batch
        for function, arn in self._queues.items():
            mapping = self._lambda.create_event_source_mapping(
                EventSourceArn=arn,
                FunctionName=function,
                BatchSize=batch,
                FunctionResponseTypes=["ReportBatchItemFailures"],
                ScalingConfig={"MaximumConcurrency": max(MIN_CONCURRENCY, invocations)},
            )
            self._mappings.append(mapping["UUID"])
        if "BENCH_KILLS" in self.environment:
            self._workers.append(Supervisor(self._command("tick"), self.environment, self.folder / "worker.log"))

    def stop_work(self) -> None:
        super().stop_work()
        while self._mappings:
            self._lambda.delete_event_source_mapping(UUID=self._mappings.pop())

    def close(self) -> None:
        self.stop_work()
        while self._functions:
            self._lambda.delete_function(FunctionName=self._functions.pop())
        while self._urls:
            self._sqs.delete_queue(QueueUrl=self._urls.pop())
        super().close()

    def _worker_cpu(self) -> float:
        assert self.bench.emulator is not None
        assert self.bench.emulator.pid is not None
        return backends.descendants(self.bench.emulator.pid)
