"""The cost of a finish next to other active tasks: a batch of ten on two tables, one of them with 4,000 active tasks.

The statistics are those of a quiet moment, as autovacuum leaves them: no task was active then.
"""

from __future__ import annotations

from joblane.local.postgres import Postgres
from joblane.testing.databases import Databases
from tests.bench.record import Record
from tests.bench.report import Ratio, median

ROUNDS, TASKS, BATCH = 7, 200, 10
ENDED, ACTIVE = 20_000, 4_000
BOUND = 1.3


def run(server: Postgres) -> list[Ratio]:
    databases = Databases(server.url)
    try:
        with databases.clone() as quiet_url, databases.clone() as busy_url:
            quiet, busy = Record(quiet_url), Record(busy_url)
            for record, active in ((quiet, 0), (busy, ACTIVE)):
                record.fill(ENDED)
                record.activate(active)
                record.finished(TASKS, BATCH)  # warm-up
            alone: list[float] = []
            crowded: list[float] = []
            for _ in range(ROUNDS):
                alone.append(quiet.finished(TASKS, BATCH) * BATCH)
                crowded.append(busy.finished(TASKS, BATCH) * BATCH)
            quiet.close()
            busy.close()
    finally:
        databases.close()
    return [
        Ratio(
            f"finish of {BATCH} tasks, CPU of PostgreSQL",
            f"next to {ACTIVE:,} active tasks and {ENDED:,} ended ones, medians of {ROUNDS} rounds in turns; "
            "against no other active task",
            f"{median(crowded) * 1000:.2f} ms",
            f"{median(alone) * 1000:.2f} ms",
            median(crowded) / median(alone),
            BOUND,
            at_most=True,
        )
    ]
