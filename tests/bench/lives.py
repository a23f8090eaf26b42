"""A task's life in the database: enqueue, claim and finish. CPU in PostgreSQL, WAL, index entries and HOT updates.

oban keeps a record as well, and its worker fetches, runs and completes jobs: the same work, except for the delivery,
which is SQS's here. oban enqueues one by one, and drains with a limit of 10 against our batches of 10, and of 2 against
our batches of 1. Both enqueue in a loop without pauses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

from joblane.local.postgres import Postgres
from joblane.record.driver.connection import Connection
from joblane.record.task.claim import claim
from joblane.worker import worker
from tests.bench.peers.costs import drain, enqueue
from tests.bench.peers.peer import NO_PAUSE, Bench, Peer, PeerError
from tests.bench.record import Record, clones
from tests.bench.report import Ratio, failed, median, rounds, within

ROUNDS, TASKS, WARM = 9, 1_000, 200
LIMITS = {10: (10, 0.62), 1: (2, 1.05)}
"""Batch → limit of oban, bound of the ratio."""
WAL_BYTES, ENTRIES, HOT = 1_900, 6.5, 0.95
LEAF_INSERTS = """
select coalesce(sum(count), 0)::int from pg_get_wal_stats($1::pg_lsn, $2::pg_lsn, true)
 where "resource_manager/record_type" ~ '^(Btree/(INSERT_LEAF|INSERT_POST|SPLIT_[LR])|Gin/INSERT)'
"""
"""A split of a leaf contains the new entry. Splits of upper pages are counted as well, about one in 10,000 entries."""
UPDATES = """
select pg_stat_get_tuples_updated(t) + pg_stat_get_xact_tuples_updated(t),
       pg_stat_get_tuples_hot_updated(t) + pg_stat_get_xact_tuples_hot_updated(t)
  from (select 'joblane.tasks'::regclass::oid as t)
"""


def run(server: Postgres) -> list[Ratio]:
    with clones(server) as [url], Record(url) as record:
        return [*_cpu(record, server), *_writes(record), _hot(record)]


def _cpu(record: Record, server: Postgres) -> list[Ratio]:
    name = "life in the database, CPU of PostgreSQL"
    for batch in LIMITS:
        record.live(WARM, batch)

    def measured(batch: int, limit: int) -> tuple[float, float]:
        ours = record.live(TASKS, batch)
        enqueued = enqueue(oban, "one", WARM + TASKS)["server"]
        return ours, enqueued + drain(oban, limit, TASKS)["server"]

    try:
        with Peer("oban", Bench(server), NO_PAUSE) as oban:
            found = rounds(ROUNDS, {batch: partial(measured, batch, limit) for batch, (limit, _) in LIMITS.items()})
    except PeerError as error:
        return [failed(name, str(error))]
    return [
        Ratio(
            name,
            f"batch {batch}, {TASKS:,} tasks, median ratio of {ROUNDS} rounds in turns, CPU per task; against oban: "
            f"enqueued one by one, and drained with limit {LIMITS[batch][0]}",
            f"{median([ours for ours, _ in pairs]) * 1e6:.0f} µs",
            f"{median([theirs for _, theirs in pairs]) * 1e6:.0f} µs",
            median([ours / theirs for ours, theirs in pairs]),
            LIMITS[batch][1],
            at_most=True,
        )
        for batch, pairs in found.items()
    ]


def _writes(record: Record) -> list[Ratio]:
    connection = record.connection
    connection.run("create extension if not exists pg_walinspect")
    found = []
    for batch in LIMITS:
        start = _position(connection)
        record.live(TASKS, batch)
        end = _position(connection)
        wal = connection.run("select ($2::pg_lsn - $1::pg_lsn)::float8", start, end)[0][0] / TASKS
        entries = connection.run(LEAF_INSERTS, start, end)[0][0] / TASKS
        setting = f"batch {batch}, {TASKS:,} tasks"
        found += [
            within("WAL of a life", f"{setting}, without full pages", wal, WAL_BYTES, "bytes"),
            within("index entries of a life", f"{setting}, read off the WAL", entries, ENTRIES, "entries"),
        ]
    return found


def _hot(record: Record) -> Ratio:
    """Count the updates of claims, and those that changed no index (heap-only tuples)."""
    counts = [0, 0]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            before = _updates(record.connection)
            answer = function(*arguments)
            after = _updates(record.connection)
            for position in (0, 1):
                counts[position] += after[position] - before[position]
            return answer

        return call

    bodies = record.enqueue(TASKS, 10)
    with patch.object(worker, "claim", counted(claim)):
        record.deliver(bodies, 10)
    return Ratio(
        "HOT updates of claims",
        f"{counts[0]:,} updates, those that wrote no index entry",
        f"{counts[1] / counts[0]:.1%}",
        "all",
        counts[1] / counts[0],
        HOT,
        at_most=False,
    )


def _position(connection: Connection) -> str:
    position: str = connection.run("select pg_current_wal_insert_lsn()::text")[0][0]
    return position


def _updates(connection: Connection) -> list[int]:
    connection.run("select pg_stat_force_next_flush()")
    connection.run("select pg_stat_clear_snapshot()")
    return connection.run(UPDATES)[0]
