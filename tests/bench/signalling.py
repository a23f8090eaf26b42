"""The time from a signal to the start of the run that continues, against that from an enqueue to the start of its run.

Both go through the queue, the mapping and the function of the emulator. Each time starts with PostgreSQL's clock in the
statement that commits the signal or the task, and ends when the handler starts. The emulator's poller sleeps between
its reads, so each round starts at a random time, and the means are compared.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import boto3

from joblane import JobClient
from joblane.local.postgres import Postgres
from joblane.names import Queue, lane_name
from joblane.record.driver.database import Database
from tests.bench.deployed import Deployer, zip_code
from tests.bench.functions.bench_wait.handler import SIGNAL, BenchWait, bench_wait
from tests.bench.report import Ratio, rounds

ROUNDS, WARM = 300, 20
MOST_PAUSE_SECONDS = 0.1
TIMEOUT_SECONDS = 60
BOUND = 1.2
STARTED = """
select (t.result #>> '{}')::float8 - extract(epoch from coalesce(g.created_at, t.created_at))::float8
  from joblane.tasks t left join joblane.task_signals g on g.task_id = t.id
 where t.id = $1 and t.state = 'completed'
"""
STOPPED = "select count(*)::int from joblane.tasks where type = $1 and state = 'scheduled'"


def run(server: Postgres, folder: Path) -> list[Ratio]:
    client, lane = JobClient(), lane_name("jobs", Queue.DEFAULT, bench_wait.type)
    functions, sqs = boto3.client("lambda"), boto3.client("sqs")
    environment = {"JOBLANE_TASK": bench_wait.type, "JOBLANE_PREFIX": "jobs", "DATABASE_URL": server.url}
    code = zip_code(folder, bench_wait.function)
    Deployer(functions).create("signalling", "joblane.worker.lambda_entry.handler", code, environment)
    url = sqs.create_queue(QueueName=lane, Attributes={"VisibilityTimeout": "720"})["QueueUrl"]
    mapping = functions.create_event_source_mapping(
        EventSourceArn=sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"],
        FunctionName="signalling",
        BatchSize=1,
        FunctionResponseTypes=["ReportBatchItemFailures"],
    )["UUID"]
    with Database(server.url) as database:
        connection = database.get()
        waiting = [client.enqueue(bench_wait, BenchWait()).id for _ in range(ROUNDS + WARM)]
        _until(lambda: connection.run(STOPPED, bench_wait.type) == [[len(waiting)]])

        def timed(send: Callable[[], str]) -> float:
            time.sleep(random.random() * MOST_PAUSE_SECONDS)
            id_ = send()
            _until(lambda: bool(connection.run(STARTED, id_)))
            ((seconds,),) = connection.run(STARTED, id_)
            return float(seconds)

        def signal() -> str:
            id_ = waiting.pop()
            assert client.signal(id_, SIGNAL), f"{id_} has a signal"
            return id_

        def enqueue() -> str:
            return client.enqueue(bench_wait, BenchWait(waits=False)).id

        found = rounds(ROUNDS, {"signal": lambda: timed(signal), "enqueue": lambda: timed(enqueue)}, warm=WARM)
    functions.delete_event_source_mapping(UUID=mapping)
    signals, enqueues = (statistics.fmean(found[name]) for name in ("signal", "enqueue"))
    return [
        Ratio(
            "from a signal to the start of the run",
            f"on the emulator, means of {ROUNDS} rounds in turns, against an enqueue",
            f"{signals * 1000:.1f} ms",
            f"{enqueues * 1000:.1f} ms",
            signals / enqueues,
            BOUND,
            at_most=True,
        )
    ]


def _until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < ends, f"not ended in {TIMEOUT_SECONDS} s"
        time.sleep(0.005)
