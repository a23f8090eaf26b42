"""Dramatiq with the broker of dramatiq-sqs. See :mod:`tests.bench.peers.program`."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.middleware import Retries, default_middleware
from dramatiq_sqs import SQSBroker

from tests.bench.peers import program, rows

NAMESPACE, QUEUE = "dramatiq", "jobs"
PROCESSES = 2

broker = SQSBroker(
    namespace=NAMESPACE,
    dead_letter=True,
    visibility_timeout=program.rescue_seconds(),
    middleware=[
        *(middleware() for middleware in default_middleware if middleware is not Retries),
        Retries(min_backoff=1_000, max_backoff=900_000, max_retries=96),
    ],
)
dramatiq.set_broker(broker)


JOBS: dict[str, Any] = {name: dramatiq.actor(job, actor_name=name, queue_name=QUEUE) for name, job in rows.JOBS.items()}


def install() -> None:
    """There is no table; the queue is created by the first send."""


def describe() -> dict[str, Any]:
    return {
        "packages": ["dramatiq", "dramatiq-sqs"],
        "record": False,
        "queues": [f"{NAMESPACE}_{QUEUE}"],
        "settings": {
            f"SQSBroker with dead_letter and visibility_timeout {program.rescue_seconds()} s": "dramatiq_sqs, README",
            "Retries with min_backoff 1 s, max_backoff 900 s and max_retries 96": "dramatiq_sqs, README",
            "a message is acknowledged after the run": "Dramatiq, User guide",
            f"{PROCESSES} processes, one for each core, with threads": "Dramatiq, User guide, “Workers”",
        },
        "notes": {
            "many": "a `group`, which sends one message at a time: there is no batch send",
            "effect": "a transaction of its own, before the message is deleted",
            "transaction": "`send` after the commit",
        },
    }


def worker(concurrency: int) -> list[str]:
    return [
        program.script("dramatiq"),
        "tests.bench.peers.dramatiq_program",
        f"--processes={PROCESSES}",
        f"--threads={concurrency // PROCESSES}",
    ]


class Producer(rows.Producer):
    def one(self, job: str, number: int, _count: int) -> None:
        JOBS[job].send(number)

    def many(self, job: str, first: int, count: int) -> None:
        dramatiq.group(JOBS[job].message(number) for number in range(first, first + count)).run()


if __name__ == "__main__":
    program.main("tests.bench.peers.dramatiq_program")
