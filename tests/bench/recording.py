"""The cost of an enqueue with a record in PostgreSQL, one by one, on a new table and on one of 5,000 rows.

The tables were never analysed, as those of a new stage: the planner then knows nothing of their size. The sends are
accepted at once. The peers enqueue into their own tables in the same rounds. All enqueue in a loop without pauses.
"""

from __future__ import annotations

import math

from joblane.local.postgres import Postgres
from tests.bench.peers.costs import enqueue
from tests.bench.peers.peer import NO_PAUSE, Bench, Peer, PeerError
from tests.bench.record import Record, clones
from tests.bench.report import Ratio, failed, median

ROUNDS, TASKS, WARM = 5, 500, 20
ROWS = 5_000
PEERS = ("oban", "procrastinate", "pgqueuer")
FLAT = 1.35


def run(server: Postgres) -> list[Ratio]:
    new: list[float] = []
    filled: list[float] = []
    peers: dict[str, list[float]] = {name: [] for name in PEERS}
    missing: dict[str, str] = {}
    for _ in range(ROUNDS):
        with clones(server) as [url], Record(url) as record:
            record.enqueue(WARM, 1)
            new.append(record.enqueued(TASKS))
            record.enqueue(ROWS - TASKS - WARM, 10)
            filled.append(record.enqueued(TASKS))
        for name in PEERS:
            try:
                with Peer(name, Bench(server), NO_PAUSE) as peer:
                    enqueue(peer, "one", WARM)
                    peers[name].append(enqueue(peer, "one", TASKS)["server"])
            except PeerError as error:
                missing[name] = str(error)
    theirs = ", ".join(f"{name} {median(times) * 1e6:.0f}" for name, times in peers.items() if times)
    setting = f"{TASKS} one by one, medians of {ROUNDS} rounds in turns, CPU per task"
    least = min((median(times) for times in peers.values() if times), default=math.nan)
    return [
        Ratio(
            "enqueue with a row, CPU of PostgreSQL",
            f"{setting}; new table, against the cheapest of the peers, in µs: {theirs}",
            f"{median(new) * 1e6:.0f} µs",
            f"{least * 1e6:.0f} µs",
            median(new) / least,
            1.2,
            at_most=True,
        ),
        Ratio(
            "enqueue with a row, CPU of PostgreSQL",
            f"{setting}; {ROWS:,} rows, never analysed, against a new table",
            f"{median(filled) * 1e6:.0f} µs",
            f"{median(new) * 1e6:.0f} µs",
            median(filled) / median(new),
            FLAT,
            at_most=True,
        ),
        *(failed(f"enqueue of {name}, CPU of PostgreSQL", reason) for name, reason in missing.items()),
    ]
