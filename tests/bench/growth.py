"""The cost of an enqueue, a claim and a finish next to 0, 1 million and 10 million ended tasks, in batches of ten.

Each size has a database of its own, and the rounds take turns. PostgreSQL's shared buffers hold the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

from joblane.local.postgres import Postgres
from tests.bench import backends
from tests.bench.record import Record, clones
from tests.bench.report import Ratio, median, rounds

SIZES = (1_000_000, 10_000_000)
ROUNDS, TASKS, BATCH = 9, 500, 10
BOUND = 1.15


def run(server: Postgres) -> list[Ratio]:
    with clones(server, 1 + len(SIZES)) as urls, ExitStack() as stack:
        records = {size: stack.enter_context(Record(url)) for size, url in zip((0, *SIZES), urls, strict=True)}
        for size, record in records.items():
            record.fill(size)
        spent = rounds(ROUNDS, {size: partial(_round, record) for size, record in records.items()}, warm=1)
    return [_grown(step, size, spent) for size in SIZES for step in ("enqueue", "claim", "finish")]


def _round(record: Record) -> Mapping[str, float]:
    before = backends.cpu(record.pid)
    bodies = record.enqueue(TASKS, BATCH)
    enqueued = backends.cpu(record.pid) - before
    with record.metered() as spent:
        record.deliver(bodies, BATCH)
    return {"enqueue": enqueued, **spent}


def _grown(step: str, size: int, spent: Mapping[int, list[Mapping[str, float]]]) -> Ratio:
    large, small = (median([one[step] for one in spent[rows]]) / TASKS * 1e6 for rows in (size, 0))
    return Ratio(
        f"{step} next to ended tasks, CPU of PostgreSQL",
        f"{size:,} ended tasks against none, batch {BATCH}, medians of {ROUNDS} rounds of {TASKS} in turns, per task",
        f"{large:.0f} µs",
        f"{small:.0f} µs",
        large / small,
        BOUND,
        at_most=True,
    )
