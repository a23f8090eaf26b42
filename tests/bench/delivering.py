"""The cost of a no-op task in the worker's process, with the database: read, claim, run, finish and log.

The processor time is that of this process, which the user pays for as the function's duration. It is compared with that
of Powertools' BatchProcessor, which reads and runs the same messages without a record.
"""

from __future__ import annotations

import time
from functools import partial

from joblane.local.postgres import Postgres
from tests.bench import backends
from tests.bench.handling import powertools
from tests.bench.record import Record, clones
from tests.bench.report import Ratio, median, rounds

ROUNDS, TASKS = 9, 500
MOST = {1: 2.9, 10: 1.35}
"""Batch → the most times of Powertools."""


def run(server: Postgres) -> list[Ratio]:
    with clones(server) as [url], Record(url) as record:
        for batch in MOST:
            record.live(100, batch)
        found = rounds(ROUNDS, {batch: partial(_delivered, record, batch) for batch in MOST})
    return [_compared(batch, times) for batch, times in found.items()]


def _compared(batch: int, times: list[tuple[float, float, float]]) -> Ratio:
    ours, bare, served = (median(values) for values in zip(*times, strict=True))
    return Ratio(
        "a no-op task in the worker's process",
        f"batch {batch}, median of {ROUNDS} rounds of {TASKS}, CPU of this process per task, with its record; against "
        f"Powertools' BatchProcessor without one. PostgreSQL {served:.0f} µs for claim and finish",
        f"{ours:.0f} µs",
        f"{bare:.0f} µs",
        ours / bare,
        MOST[batch],
        at_most=True,
    )


def _delivered(record: Record, batch: int) -> tuple[float, float, float]:
    """Return the processor time for a task, of this process, of Powertools and of PostgreSQL, in microseconds."""
    events = record.events(record.enqueue(TASKS, batch), batch)
    bare = powertools(events)
    started, before = time.process_time(), backends.cpu(record.pid)
    record.handle(events)
    spent, served = time.process_time() - started, backends.cpu(record.pid) - before
    return spent / TASKS * 1e6, bare / TASKS * 1e6, served / TASKS * 1e6
