"""Joblane as a peer: its workers are functions on the emulator, behind an event source mapping."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from joblane.queues import lane_name
from tests.bench import backends
from tests.bench.deployed import Deployer, zip_code
from tests.bench.functions.peers_noop.handler import peers_noop
from tests.bench.peers import program
from tests.bench.peers.cost_tables import BATCHES
from tests.bench.peers.peer import Bench, Peer, client

PREFIX = "jobs"
VISIBILITY_SECONDS = 720
TASKS = (peers_noop,)


class JoblanePeer(Peer):
    """``batches``: the batch sizes of its mapping."""

    batches = BATCHES["joblane"]

    def __init__(self, name: str, bench: Bench, settings: Mapping[str, str] | None = None) -> None:
        assert bench.emulator is not None, "it needs an emulator"
        self._lambda = client("lambda", bench.emulator.endpoint)
        self._sqs = client("sqs", bench.emulator.endpoint)
        self._mappings: list[str] = []
        self._functions: list[str] = []
        super().__init__(name, bench, {"JOBLANE_PREFIX": PREFIX, **(settings or {})})

    def _interpreter(self) -> Path:
        return Path(sys.executable)

    def _install(self) -> None:
        super()._install()
        content = zip_code(self.folder, *(task.function for task in TASKS), modules=[program])
        deployer = Deployer(self._lambda)
        names = ("DATABASE_URL", "JOBLANE_PREFIX", *(name for name in self.environment if name.startswith("BENCH_")))
        self._queues: dict[str, str] = {}
        for task in TASKS:
            environment = {name: self.environment[name] for name in names} | {"JOBLANE_TASK": task.type}
            deployer.create(task.folder, "joblane.worker.lambda_entry.handler", content, environment)
            self._functions.append(task.folder)
            url = self._sqs.create_queue(
                QueueName=lane_name(PREFIX, task.queue, task.type),
                Attributes={"VisibilityTimeout": str(VISIBILITY_SECONDS)},
            )["QueueUrl"]
            attributes: Any = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
            self._queues[task.folder] = attributes["Attributes"]["QueueArn"]

    def work(self, concurrency: int, batch: int | None = None, *, processes: int = 1) -> None:
        for function, arn in self._queues.items():
            mapping = self._lambda.create_event_source_mapping(
                EventSourceArn=arn,
                FunctionName=function,
                BatchSize=batch or 1,
                FunctionResponseTypes=["ReportBatchItemFailures"],
                ScalingConfig={"MaximumConcurrency": concurrency * processes},
            )
            self._mappings.append(mapping["UUID"])

    def stop_work(self) -> None:
        while self._mappings:
            self._lambda.delete_event_source_mapping(UUID=self._mappings.pop())

    def close(self) -> None:
        self.stop_work()
        while self._functions:
            self._lambda.delete_function(FunctionName=self._functions.pop())
        super().close()

    def _worker_cpu(self) -> float:
        assert self.bench.emulator is not None
        assert self.bench.emulator.pid is not None
        return backends.descendants(self.bench.emulator.pid)
