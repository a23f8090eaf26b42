"""Joblane, in the project's own environment. See :mod:`tests.bench.peers.program`.

Its workers are Lambda functions on the emulator: :mod:`tests.bench.peers.joblane_peer` deploys them.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from joblane import JobClient, MessageClient, settings
from joblane.enqueue.result import Enqueued
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.local.ticker import Ticker
from joblane.record.migrations import upgrade
from joblane.sqs.client import Sqs
from joblane.tasks.job import Job
from tests.bench.functions.peers_effect.handler import peers_effect
from tests.bench.functions.peers_long.handler import peers_long
from tests.bench.functions.peers_noop.handler import Numbered, peers_noop
from tests.bench.peers import program

ORDER = text("insert into orders (number) values (:number)")
JOBS: dict[str, Any] = {"noop": peers_noop, "effect": peers_effect, "long": peers_long}


def install() -> None:
    upgrade(os.environ["DATABASE_URL"])


def describe() -> dict[str, Any]:
    return {
        "packages": [],
        "record": True,
        "calls": ["one", "many", "transaction", "rows", "one_without_record", "many_without_record"],
        "unfinished": "select count(*) from joblane.tasks where finished_at is null",
        "settings": {
            "timeout 10 s, max_retry 5, retention 1 day": "the defaults of `@task`, except the timeout",
            "functions of 512 MB, as Python processes of the emulator": "the default of `memory_mb`",
            "sessions of SQLAlchemy with psycopg in the producer": "Send tasks from your application, “SQLAlchemy”",
        },
        "notes": {
            "many": "`enqueue_many`",
            "transaction": "`enqueue(…, session=session)`",
            "effect": "`ctx.session`, which is committed with the end of the task",
        },
    }


class Producer:
    def __init__(self) -> None:
        self._client, self._bare = JobClient(), MessageClient()
        self._engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1))

    def one(self, job: str, number: int, _count: int) -> None:
        self._client.enqueue(JOBS[job], Numbered(number=number))

    def one_without_record(self, job: str, number: int, _count: int) -> None:
        self._bare.enqueue(JOBS[job], Numbered(number=number))

    def many(self, job: str, first: int, count: int) -> None:
        self._many(self._client, job, first, count)

    def many_without_record(self, job: str, first: int, count: int) -> None:
        self._many(self._bare, job, first, count)

    def _many(self, client: JobClient | MessageClient, job: str, first: int, count: int) -> None:
        jobs = [Job(JOBS[job], Numbered(number=number)) for number in range(first, first + count)]
        for result in client.enqueue_many(jobs):
            if not isinstance(result, Enqueued) or (not result.sent and job == "noop"):  # the sweep sends the others
                raise RuntimeError(f"not sent: {result}")

    def transaction(self, job: str, number: int, _count: int) -> None:
        with Session(self._engine) as session, session.begin():
            session.execute(ORDER, {"number": number})
            self._client.enqueue(JOBS[job], Numbered(number=number), session=session)

    def rows(self, _job: str, number: int, _count: int) -> None:
        with Session(self._engine) as session, session.begin():
            session.execute(ORDER, {"number": number})


def tick() -> None:
    """Send the ticks of the sweep until the process is stopped, as the local stack does."""
    Ticker([jobs_sweep], settings.prefix(), Sqs(), datetime.now(UTC)).run()


if __name__ == "__main__":
    if sys.argv[1:] == ["tick"]:
        tick()
    else:
        program.main("tests.bench.peers.joblane_program")
