"""The cost of a no-op task in the worker's process, with the database: read, claim, run, finish and log.

The processor time is that of this process, which the user pays for as the function's duration.
"""

from __future__ import annotations

import time
from functools import partial

from joblane.local.postgres import Postgres
from tests.bench import backends
from tests.bench.record import Record, clones
from tests.bench.report import Ratio, median, rounds, within

ROUNDS, TASKS = 9, 500
TARGETS_US = {1: 320, 10: 100}


def run(server: Postgres) -> list[Ratio]:
    with clones(server) as [url], Record(url) as record:
        for batch in TARGETS_US:
            record.live(100, batch)
        found = rounds(ROUNDS, {batch: partial(_delivered, record, batch) for batch in TARGETS_US})
    return [
        within(
            "a no-op task in the worker's process",
            f"batch {batch}, median of {ROUNDS} rounds of {TASKS}, CPU of this process per task, with the database; "
            f"PostgreSQL {median([served for _, served in times]):.0f} µs for claim and finish",
            median([spent for spent, _ in times]),
            TARGETS_US[batch],
            "µs",
        )
        for batch, times in found.items()
    ]


def _delivered(record: Record, batch: int) -> tuple[float, float]:
    """Return the processor time of this process and of PostgreSQL for a task, in microseconds."""
    events = record.events(record.enqueue(TASKS, batch), batch)
    started, before = time.process_time(), backends.cpu(record.pid)
    record.handle(events)
    spent, served = time.process_time() - started, backends.cpu(record.pid) - before
    return spent / TASKS * 1e6, served / TASKS * 1e6
