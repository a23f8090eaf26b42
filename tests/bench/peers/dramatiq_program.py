"""Dramatiq with the broker of dramatiq-sqs. See :mod:`tests.bench.peers.program`."""

from __future__ import annotations

import time
from typing import Any

import dramatiq
from dramatiq.middleware import Retries, default_middleware
from dramatiq_sqs import SQSBroker
from sqlalchemy.orm import Session

from tests.bench.peers import kills, program
from tests.bench.peers.rows import ORDER, engine, write

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


@dramatiq.actor(actor_name="noop", queue_name=QUEUE)  # type: ignore[untyped-decorator]
def noop(number: int) -> None:
    program.ran()


@dramatiq.actor(actor_name="effect", queue_name=QUEUE)  # type: ignore[untyped-decorator]
def effect(number: int) -> None:
    write(kills.Fate(number))


@dramatiq.actor(actor_name="long", queue_name=QUEUE)  # type: ignore[untyped-decorator]
def long(number: int) -> None:
    fate = kills.Fate(number)
    time.sleep(kills.long_seconds())
    write(fate)


JOBS: dict[str, Any] = {"noop": noop, "effect": effect, "long": long}


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


class Producer:
    def one(self, job: str, first: int, count: int) -> None:
        for number in range(first, first + count):
            JOBS[job].send(number)

    def many(self, job: str, first: int, count: int) -> None:
        dramatiq.group(JOBS[job].message(number) for number in range(first, first + count)).run()

    def transaction(self, job: str, first: int, count: int) -> None:
        for number in range(first, first + count):
            self.rows(job, number, 1)
            JOBS[job].send(number)

    def rows(self, _job: str, first: int, count: int) -> None:
        for number in range(first, first + count):
            with Session(engine()) as session, session.begin():
                session.execute(ORDER, {"number": number})


if __name__ == "__main__":
    program.main("tests.bench.peers.dramatiq_program")
