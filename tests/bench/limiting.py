"""The price of limits: of a life without them, with a free slot, and with a wait; and the starts per second of a limit.

A life without limits is measured with and without the indexes of limits, because a task pays for each index of its
table. Starts are measured on a server that waits for its disk, next to the same work without limits.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

from joblane import Task
from joblane.local.postgres import Postgres
from joblane.record.driver.connection import Connection
from joblane.record.task_types import LIMITS, declared_limits
from tests.bench import backends
from tests.bench.quiet import silent
from tests.bench.record import Record, Work, bench_keyed, bench_record, bench_total, clones
from tests.bench.report import Ratio, median, rounds, within
from tests.builders.events import LambdaContext

ROUNDS, TASKS, WARM = 9, 1_000, 200
UNLIMITED, WITH_ROOM_BYTES = 1.08, 700
FREE_MORE, WAITS_MORE = 1.5, 7.5
"""Times of a life without limits, which goes a short way: what a limit with room costs more, and a wait for one."""
INDEXES = ("key_limit", "total_limit", "shared_limit", "waits", "waits_tenant")
POSITION = "select (pg_current_wal_insert_lsn() - '0/0')::float8"
SLOTS = "update joblane.limits set slots = $1::integer where name = $2"

KEYS, WORKERS, SECONDS, START_ROUNDS = 500, 8, 8, 3
BACKLOG = 200
"""Tasks that are enqueued and have not run yet."""
HOT = (
    (bench_total, 1, "one limit of 1"),
    (bench_total, 50, "one limit of 50"),
    (bench_keyed, 3, f"{KEYS} keys, 3 each"),
)
STARTS = 0.1
"""The least rate, of that without limits: a limit of 1 runs one task after the other."""
MINUTES = 10


def run(steady: Postgres, durable: Postgres) -> list[Ratio]:
    return [*_without_limits(steady), *_lives(steady), *_starts(durable)]


def _declare(connection: Connection) -> None:
    connection.run(LIMITS, json.dumps(declared_limits({each.type: each for each in (bench_keyed, bench_total)})))


# --- One life ------------------------------------------------------------------------------------------------------


def _without_limits(server: Postgres) -> list[Ratio]:
    found = []
    with clones(server, 2) as [with_url, without_url], Record(with_url) as ours, Record(without_url) as bare:
        for name in INDEXES:
            bare.connection.run(f"drop index joblane.tasks_{name}")
        for batch in (10, 1):
            for record in (ours, bare):
                record.fill(TASKS)
                record.live(WARM, batch)
            times = rounds(ROUNDS, {record: partial(record.live, TASKS, batch) for record in (ours, bare)})
            found.append(
                Ratio(
                    "life without limits, CPU of PostgreSQL",
                    f"batch {batch}, median ratio of {ROUNDS} rounds in turns; against no indexes of limits",
                    f"{median(times[ours]) * 1e6:.0f} µs",
                    f"{median(times[bare]) * 1e6:.0f} µs",
                    median([one / other for one, other in zip(times[ours], times[bare], strict=True)]),
                    UNLIMITED,
                    at_most=True,
                )
            )
    return found


def _lives(server: Postgres) -> list[Ratio]:
    """Lives with a free slot, and lives that wait, against lives without limits."""
    with (
        clones(server) as [url],
        Record(url) as plain,
        Record(url, bench_keyed, keys=KEYS) as roomy,
        Record(url, bench_total) as late,
    ):
        _declare(plain.connection)
        for record in (plain, roomy):
            record.live(WARM, 1)
        bare, free, waited = _cost(plain, _live), _cost(roomy, _live), _cost(late, _wait)
    setting = f"{TASKS:,} tasks, batch 1"
    most, most_waiting = FREE_MORE * bare["cpu"], WAITS_MORE * bare["cpu"]
    return [
        _more("statements of a life with a free slot", setting, free["statements"], bare["statements"], 1),
        _more("WAL of a life with a free slot, bytes", setting, free["wal"], bare["wal"], WITH_ROOM_BYTES),
        _more("claims of a task that waits", setting, waited["claims"], bare["claims"], 1),
        _more("CPU of PostgreSQL of a life with a free slot, µs", setting, free["cpu"], bare["cpu"], most),
        _more("CPU of PostgreSQL of a life that waits, µs", setting, waited["cpu"], bare["cpu"], most_waiting),
    ]


def _more(name: str, setting: str, ours: float, bare: float, most: float) -> Ratio:
    return within(name, f"{setting}; {ours:.1f}, without limits {bare:.1f}", ours - bare, most, "more")


def _live(record: Record) -> None:
    record.live(TASKS, 1)


def _wait(record: Record) -> None:
    """Deliver all tasks while the limit is 0, then one after the other."""
    record.connection.run(SLOTS, 0, bench_total.type)
    record.deliver(record.enqueue(TASKS - 1, 1), 1)
    record.connection.run(SLOTS, 1, bench_total.type)
    record.sqs.bodies = record.enqueue(1, 1)
    ended = 0
    while bodies := record.sqs.bodies:
        record.sqs.bodies = []
        record.deliver(bodies, 1)
        ended += len(bodies)
    assert ended == TASKS + 1, "the last one is delivered again, after those before it"


def _cost(record: Record, work: Callable[[Record], None]) -> dict[str, float]:
    """Return statements, claims, bytes of WAL and microseconds of PostgreSQL's CPU per task."""
    counts: Counter[str] = Counter()
    original = Connection.run

    def counted(connection: Connection, sql: str, *parameters: Any) -> Any:
        counts["statements"] += 1
        counts["claims"] += sql.startswith("select joblane.claim_")
        return original(connection, sql, *parameters)

    [[start]] = record.connection.run(POSITION)
    with patch.object(Connection, "run", counted):
        cpu = backends.of(record.pid, lambda: work(record))
    [[end]] = record.connection.run(POSITION)
    found = {"cpu": cpu * 1e6, "wal": end - start, **counts}
    return {name: value / TASKS for name, value in found.items()}


# --- Starts per second ---------------------------------------------------------------------------------------------


def _starts(server: Postgres) -> list[Ratio]:
    settings: list[tuple[Task[Work, None], int, str]] = [(bench_record, 0, "no limit"), *HOT]

    def measured(task: Task[Work, None], slots: int) -> float:
        with clones(server) as [url], _busy(url, task, slots) as ended:
            time.sleep(1)
            before = len(ended)
            time.sleep(SECONDS)
            return (len(ended) - before) / SECONDS

    rates = rounds(START_ROUNDS, {name: partial(measured, task, slots) for task, slots, name in settings})
    bare = rates["no limit"]
    return [
        Ratio(
            "starts per second with a limit",
            f"{name}; {WORKERS} workers, batch 1, durable, median ratio of {START_ROUNDS} rounds in turns",
            f"{median(rates[name]):.0f}/s",
            f"{median(bare):.0f}/s",
            median([one / other for one, other in zip(rates[name], bare, strict=True)]),
            STARTS,
            at_most=False,
        )
        for _, _, name in HOT
    ]


def next_to_a_snapshot(durable: Postgres) -> list[Ratio]:
    """Starts of a hot limit while another transaction keeps an old snapshot, so that no dead row can be removed.

    They have no bound: PostgreSQL leaves nothing to do but to end the transaction, which an alarm asks for.
    """
    found = []
    for slots in (1, 50):
        with clones(durable) as [url], Record(url) as old:
            old.connection.execute_simple("begin isolation level repeatable read")
            old.connection.run("select count(*) from joblane.tasks")
            with _busy(url, bench_total, slots) as ended:
                counts = []
                for _ in range(MINUTES):
                    before = len(ended)
                    time.sleep(60)
                    counts.append(len(ended) - before)
        found.append(
            Ratio(
                "starts next to an old snapshot",
                f"one limit of {slots}, minute {MINUTES} against minute 1; an alarm reports such a session; each: "
                f"{', '.join(map(str, counts))}",
                f"{counts[-1] / 60:.0f}/s",
                f"{counts[0] / 60:.0f}/s",
                counts[-1] / counts[0],
                None,
                at_most=False,
            )
        )
    return found


@contextmanager
def _busy(url: str, task: Task[Work, None], slots: int) -> Iterator[list[float]]:
    """Run tasks in several workers inside the block. Yield the times of their starts, which grow."""
    ended: list[float] = []
    lane: deque[str] = deque()
    stop = threading.Event()
    enqueued = threading.Semaphore(BACKLOG)

    def handler(payload: Work, _: object) -> None:
        ended.append(time.monotonic())
        enqueued.release()

    counted = replace(task, function=handler)
    stack = ExitStack()
    records = [stack.enter_context(Record(url, counted, keys=KEYS)) for _ in range(WORKERS)]
    _declare(records[0].connection)
    records[0].connection.run(SLOTS, slots, task.type if task is bench_total else f"{task.type}/")

    def work(record: Record) -> None:
        while not stop.is_set():
            if enqueued.acquire(blocking=False):
                lane.extend(record.enqueue(1, 1))
            record.sqs.bodies = []
            try:
                body = lane.popleft()
            except IndexError:
                time.sleep(0.001)
                continue
            answer = record.handler(record.events([body], 1)[0], LambdaContext())
            if answer["batchItemFailures"]:  # its limits were locked
                lane.append(body)
            lane.extend(record.sqs.bodies)

    with stack, silent(), ThreadPoolExecutor(len(records)) as threads:
        works = [threads.submit(work, record) for record in records]
        try:
            yield ended
        finally:
            stop.set()
        for each in works:
            each.result()
