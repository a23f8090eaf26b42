"""The price of batches and children: the rate at which the members of a batch end, and the life of a child."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from joblane.local.postgres import Postgres
from joblane.tasks.job import Job
from tests.bench import backends
from tests.bench.quiet import silent
from tests.bench.record import Record, clones
from tests.bench.report import Ratio, median, rounds, within
from tests.builders.events import LambdaContext

MEMBERS, WORKERS, ROUNDS = 10_000, 8, 3
RATE, MORE = 0.7, 2.5
CHILDREN = 1_000
POSITION = "select (pg_current_wal_insert_lsn() - '0/0')::float8"


def run(steady: Postgres, durable: Postgres) -> list[Ratio]:
    return [*_of_batches(durable), *_of_children(steady)]


def _of_batches(server: Postgres) -> list[Ratio]:
    found = []
    for size in (10, 1):
        rates = rounds(ROUNDS, {kind: partial(_drained, server, size, in_batch=kind) for kind in (False, True)})
        found.append(
            Ratio(
                "ends of a batch's members",
                f"{MEMBERS:,} members, two callbacks; {WORKERS} workers, {size} at a time, durable, median ratio of "
                f"{ROUNDS} rounds in turns; against no batch",
                f"{median(rates[True]):.0f}/s",
                f"{median(rates[False]):.0f}/s",
                median([one / other for one, other in zip(rates[True], rates[False], strict=True)]),
                RATE,
                at_most=False,
            )
        )
    return found


def _drained(server: Postgres, size: int, *, in_batch: bool) -> float:
    """Run all tasks, and the callbacks, in several workers. Return the ends per second."""
    with clones(server) as [url], ExitStack() as stack:
        return _ends_per_second([stack.enter_context(Record(url)) for _ in range(WORKERS)], size, in_batch=in_batch)


def _ends_per_second(records: list[Record], size: int, *, in_batch: bool) -> float:
    jobs = [Job(records[0].task, records[0]._work()) for _ in range(MEMBERS)]
    client = records[0]._client
    if in_batch:
        callback = Job(records[0].task, records[0]._work())
        with client.batch("bench", on_end=callback, on_success=callback) as batch:
            batch.enqueue_many(jobs)
    else:
        client.enqueue_many(jobs)
    bodies = [
        f'{{"v":1,"type":"{records[0].task.type}","id":"{id_}","rec":true}}'
        for (id_,) in records[0].connection.run("select id from joblane.tasks order by created_at, id")
    ]
    lane = deque(records[0].events(bodies, size))

    def work(record: Record) -> None:
        while lane:
            try:
                event = lane.popleft()
            except IndexError:
                break
            record.sqs.bodies = []
            assert record.handler(event, LambdaContext()) == {"batchItemFailures": []}
            lane.extend(record.events(record.sqs.bodies, size))

    with silent():
        started = time.monotonic()
        with ThreadPoolExecutor(len(records)) as threads:
            list(threads.map(work, records))
        seconds = time.monotonic() - started
    [[live]] = records[0].connection.run("select count(*) from joblane.tasks where state <> 'completed'")
    assert live == 0
    return MEMBERS / seconds


def _of_children(server: Postgres) -> list[Ratio]:
    """A child with one parent, held and released, against a task without parents."""
    with clones(server) as [url], Record(url) as record:
        record.live(200, 1)
        plain = _cost(record, lambda: record.live(2 * CHILDREN, 1))
        pairs = _cost(record, lambda: _pairs(record))
    setting = f"{CHILDREN:,} pairs, batch 1"
    return [
        within(
            f"{what} of a parent and its child",
            f"{setting}; {pairs[what]:.1f}, of two tasks {plain[what]:.1f}",
            pairs[what] - plain[what],
            MORE * plain[what],
            "more",
        )
        for what in ("WAL, bytes", "CPU of PostgreSQL, µs")
    ]


def _pairs(record: Record) -> None:
    """Each child is claimed before its parent, held, released, and claimed again."""
    for _ in range(CHILDREN):
        record.sqs.bodies = []
        parent = record._client.enqueue(record.task, record._work())
        record._client.enqueue(record.task, record._work(), after=[parent])
        first, child = record.sqs.bodies
        record.deliver([child], 1)
        record.sqs.bodies = []
        record.deliver([first], 1)
        record.deliver(record.sqs.bodies, 1)


def _cost(record: Record, work: Any) -> dict[str, float]:
    [[start]] = record.connection.run(POSITION)
    cpu = backends.of(record.pid, work)
    [[end]] = record.connection.run(POSITION)
    return {"CPU of PostgreSQL, µs": cpu * 1e6 / CHILDREN, "WAL, bytes": (end - start) / CHILDREN}
