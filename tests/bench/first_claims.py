"""The first three claims of a new connection, as a function in a new environment makes them.

PostgreSQL loads its catalogue caches and plans the statement anew. The login is not counted.
"""

from __future__ import annotations

from functools import partial

from joblane.local.postgres import Postgres
from joblane.sqs.message import decode
from tests.bench import backends
from tests.bench.record import Record, clones
from tests.bench.report import Ratio, median, rounds

ROUNDS, CLAIMS, ENDED = 15, 3, 20_000
UPDATE = "update joblane.tasks set state = 'running', runs = runs + 1 where id = $1 and state = 'queued'"
MOST = 3.0
"""Times of as many updates of the same rows by a new connection."""


def run(server: Postgres) -> list[Ratio]:
    with clones(server) as [url], Record(url) as record:
        record.fill(ENDED)
        times = rounds(ROUNDS, {"ours": partial(_claimed, record, url), "bare": partial(_updated, record, url)})
    ours, bare = (median(times[side]) * 1000 for side in ("ours", "bare"))
    return [
        Ratio(
            f"a new connection's first {CLAIMS} claims",
            f"one message each, median of {ROUNDS} connections, CPU of PostgreSQL; against updates of the rows",
            f"{ours:.1f} ms",
            f"{bare:.1f} ms",
            ours / bare,
            MOST,
            at_most=True,
        )
    ]


def _claimed(record: Record, url: str) -> float:
    bodies = record.enqueue(CLAIMS, 1)
    with Record(url) as new, new.metered() as spent:
        new.deliver(bodies, 1)
    return spent["claim"]


def _updated(record: Record, url: str) -> float:
    ids = [decode(body).id for body in record.enqueue(CLAIMS, 1)]
    with Record(url) as new:
        return backends.of(new.pid, lambda: [new.connection.run(UPDATE, id_) for id_ in ids])
