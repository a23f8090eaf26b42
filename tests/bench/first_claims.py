"""The first three claims of a new connection, as a function in a new environment makes them.

PostgreSQL loads its catalogue caches and plans the statement anew. The login is not counted.
"""

from __future__ import annotations

from joblane.local.postgres import Postgres
from tests.bench.record import Record, clones
from tests.bench.report import Ratio, median, within

ROUNDS, CLAIMS, ENDED = 15, 3, 20_000
TARGET_MS = 8


def run(server: Postgres) -> list[Ratio]:
    took: list[float] = []
    with clones(server) as [url], Record(url) as record:
        record.fill(ENDED)
        for _ in range(ROUNDS):
            bodies = record.enqueue(CLAIMS, 1)
            with Record(url) as new, new.metered() as spent:
                new.deliver(bodies, 1)
            took.append(spent["claim"])
    setting = f"one message each, median of {ROUNDS} connections, CPU of PostgreSQL"
    return [within(f"a new connection's first {CLAIMS} claims", setting, median(took) * 1000, TARGET_MS, "ms")]
