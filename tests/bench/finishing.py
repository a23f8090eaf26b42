"""The cost of a finish next to other active tasks: a batch of ten on two tables, one of them with 4,000 active tasks.

The statistics are those of a quiet moment, as autovacuum leaves them: no task was active then.
"""

from __future__ import annotations

from functools import partial

from joblane.local.postgres import Postgres
from tests.bench.record import Record, clones
from tests.bench.report import Ratio, median, rounds

ROUNDS, TASKS, BATCH = 7, 200, 10
ENDED, ACTIVE = 20_000, 4_000
BOUND = 1.3


def run(server: Postgres) -> list[Ratio]:
    with clones(server, 2) as [quiet_url, busy_url], Record(quiet_url) as quiet, Record(busy_url) as busy:
        for record, active in ((quiet, 0), (busy, ACTIVE)):
            record.fill(ENDED)
            record.activate(active)
            record.finished(TASKS, BATCH)  # warm-up
        found = rounds(ROUNDS, {record: partial(record.finished, TASKS, BATCH) for record in (quiet, busy)})
    alone, crowded = (median(found[record]) * BATCH for record in (quiet, busy))
    return [
        Ratio(
            f"finish of {BATCH} tasks, CPU of PostgreSQL",
            f"next to {ACTIVE:,} active tasks and {ENDED:,} ended ones, medians of {ROUNDS} rounds in turns; "
            "against no other active task",
            f"{crowded * 1000:.2f} ms",
            f"{alone * 1000:.2f} ms",
            crowded / alone,
            BOUND,
            at_most=True,
        )
    ]
