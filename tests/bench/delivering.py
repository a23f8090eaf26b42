"""The cost of a no-op task in the worker's process, with the database: read, claim, run, finish and log.

The processor time is that of this process, which the user pays for as the function's duration.
"""

from __future__ import annotations

import time

from joblane.local.postgres import Postgres
from joblane.testing.databases import Databases
from tests.bench import backends
from tests.bench.record import Record
from tests.bench.report import Ratio, median, within

ROUNDS, TASKS = 9, 500
TARGETS_US = {1: 320, 10: 100}


def run(server: Postgres) -> list[Ratio]:
    databases = Databases(server.url)
    spent: dict[int, list[float]] = {batch: [] for batch in TARGETS_US}
    served: dict[int, list[float]] = {batch: [] for batch in TARGETS_US}
    try:
        with databases.clone() as url:
            record = Record(url)
            for batch in TARGETS_US:
                record.live(100, batch)
            for _ in range(ROUNDS):
                for batch, times in spent.items():
                    events = record.events(record.enqueue(TASKS, batch), batch)
                    started, before = time.process_time(), backends.cpu(record.pid)
                    record.handle(events)
                    times.append((time.process_time() - started) / TASKS)
                    served[batch].append((backends.cpu(record.pid) - before) / TASKS)
            record.close()
    finally:
        databases.close()
    return [
        within(
            "a no-op task in the worker's process",
            f"batch {batch}, median of {ROUNDS} rounds of {TASKS}, CPU of this process per task, with the database; "
            f"PostgreSQL {median(served[batch]) * 1e6:.0f} µs for claim and finish",
            median(times) * 1e6,
            TARGETS_US[batch],
            "µs",
        )
        for batch, times in spent.items()
    ]
