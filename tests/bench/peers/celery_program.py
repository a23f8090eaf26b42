"""Celery with SQS as its broker, without a result backend. See :mod:`tests.bench.peers.program`."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from celery import Celery, group

from tests.bench.peers import program, rows

QUEUE = "celery-jobs"
RETRIES = {"autoretry_for": (Exception,), "retry_backoff": True, "retry_backoff_max": 20, "max_retries": None}

app = Celery("bench", broker=f"sqs://test:test@{urlsplit(os.environ['AWS_ENDPOINT_URL']).netloc}")
app.conf.update(
    task_default_queue=QUEUE,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1 if "BENCH_KILLS" in os.environ else 4,
    worker_enable_remote_control=False,
    broker_transport_options={
        "region": os.environ["AWS_DEFAULT_REGION"],
        "visibility_timeout": program.rescue_seconds(),
        "wait_time_seconds": 10,
        "polling_interval": 0,
        "is_secure": False,
    },
)


JOBS: dict[str, Any] = {
    name: app.task(name=name, **({} if name == "noop" else RETRIES))(job) for name, job in rows.JOBS.items()
}


def install() -> None:
    """There is no table; the queue is created by the first send."""


def describe() -> dict[str, Any]:
    return {
        "packages": ["celery", "kombu"],
        "record": False,
        "queues": [QUEUE],
        "settings": {
            "task_acks_late, task_reject_on_worker_lost": "Tasks, “acks_late”; Configuration and defaults",
            "worker_prefetch_multiplier 4, the default; 1 in the crashes": "Optimizing, “Prefetch Limits”",
            f"visibility_timeout {program.rescue_seconds()} s, wait_time_seconds 10, polling_interval 0": (
                "Using Amazon SQS; kombu, SQS transport, “Polling interval”"
            ),
            "autoretry_for, retry_backoff of at most 20 s, less than the visibility timeout, max_retries None": (
                "Tasks, “Automatic retry for known exceptions”; Using Amazon SQS, “Caveats”"
            ),
            "no result backend, task_ignore_result": "Tasks, “Ignore results you don't want”",
            "worker_enable_remote_control off, because SQS has none": "Using Amazon SQS, “Caveats”",
            "prefork, one process for each concurrent job, log level WARNING": "Workers guide",
        },
        "notes": {
            "many": "a `group`, which sends one message at a time: there is no batch send",
            "effect": "a transaction of its own, before the message is deleted",
            "transaction": "`delay` after the commit, as `delay_on_commit` does it in Django",
        },
    }


def worker(concurrency: int) -> list[str]:
    return [
        program.script("celery"),
        "--app=tests.bench.peers.celery_program:app",
        "worker",
        f"--concurrency={concurrency}",
        "--loglevel=WARNING",
    ]


class Producer(rows.Producer):
    def one(self, job: str, number: int, _count: int) -> None:
        JOBS[job].delay(number)

    def many(self, job: str, first: int, count: int) -> None:
        group(JOBS[job].s(number) for number in range(first, first + count)).apply_async()


if __name__ == "__main__":
    program.main("tests.bench.peers.celery_program")
