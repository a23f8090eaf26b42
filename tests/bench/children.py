"""Tasks with very many children: the end of the parent, its cancel, and the enqueues of other threads meanwhile.

Each statement has a limit of the processor time of its session. SQS accepts all messages at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from joblane import TaskContext, task
from joblane.client.client import client_within
from joblane.errors import SkipRetry
from joblane.local.postgres import Postgres
from joblane.record.driver.connection import Connection
from joblane.record.driver.time_limits import NO_LIMITS
from joblane.record.row.states import State
from joblane.sweep.sweep import sweep
from tests.bench import backends
from tests.bench.record import PREFIX, Accepting, Record, Work, bench_record, clones
from tests.bench.report import Ratio, within

MANY, CANCELLED, CHAIN = 650_000, 100_000, 20_000
THREADS = 8
OF_WORKER, OF_SWEEP, OF_CANCEL, OF_ENQUEUE = 0.7, 1.7, 2.0, 1.0
"""The limits in seconds: for a statement's processor time in a worker or a client, and in the sweep; for a cancel; for
99 of 100 enqueues during a cancel."""
CHUNK = 50_000
HELD = """
insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds, wait_kind,
                           place, after, on_parent_dead)
select 'c' || lpad(n::text, 9, '0'), $4, 'default', 'held', '{"tenant_id": "acme", "number": 1}', '', 4, 86400,
       'parents', 1.8e9 + n * 1e-5,
       array[$3::text], $5::text
  from generate_series($1::int, $2::int) n
"""
EDGES = """
insert into joblane.task_parents (child, parent, on_parent_dead)
select 'c' || lpad(n::text, 9, '0'), coalesce($3, 'c' || lpad((n - 1)::text, 9, '0')), $4
  from generate_series($1::int, $2::int) n where n > 1 or $3 is not null
"""
FIRST = "update joblane.tasks set wait_kind = null, place = null, state = 'pending' where id = 'c000000001'"
STATES = "select state, count(*) from joblane.tasks where id like 'c%' group by state"


@task("bench:failing", timeout=bench_record.timeout, max_retry=0)
def bench_failing(payload: Work, ctx: TaskContext) -> None:
    raise SkipRetry("no")


@dataclass
class Spent:
    """The statements of one part. ``longest``: the processor time of the session in one of them, in seconds."""

    longest: float = 0.0
    statements: int = 0
    seconds: float = 0.0


@contextmanager
def metered(pid: int) -> Iterator[Spent]:
    """Measure each statement of a session."""
    spent, plain = Spent(), Connection.run

    def run(connection: Connection, sql: str, *parameters: Any) -> list[list[Any]]:
        before = backends.cpu(pid)
        try:
            return plain(connection, sql, *parameters)
        finally:
            spent.longest = max(spent.longest, backends.cpu(pid) - before)
            spent.statements += 1

    started = time.monotonic()
    with patch.object(Connection, "run", run):
        yield spent
    spent.seconds = time.monotonic() - started


class Family:
    """An enqueued parent and its held children. ``chain``: each task is the child of the previous one instead."""

    def __init__(self, url: str, number: int, on_parent_dead: str, parent_task: Any, *, chain: bool = False) -> None:
        self.record = Record(url, parent_task)
        self.connection = self.record.connection
        self.connection.execute_simple(NO_LIMITS)
        self.connection.execute_simple("set joblane.checks = off")
        self.body = self.record.enqueue(1, 1)[-1]
        self.parent = self.connection.run("select id from joblane.tasks")[0][0]
        for start in range(1, number + 1, CHUNK):
            part = (str(start), str(min(start + CHUNK - 1, number)))
            self.connection.run(HELD, *part, self.parent, bench_record.type, on_parent_dead)
            self.connection.run(EDGES, *part, None if chain else self.parent, on_parent_dead)
        self.connection.execute_simple("set joblane.checks = on")
        self.connection.execute_simple("vacuum analyze joblane.tasks, joblane.task_parents")

    def states(self) -> dict[str, int]:
        rows: list[Any] = self.connection.run(STATES)
        return dict(rows)

    def swept(self) -> Spent:
        """Sweep once, as long as it takes."""
        with metered(self.record.pid) as spent:
            sweep(self.connection, Accepting(), PREFIX)
        return spent


@contextmanager
def _family(server: Postgres, number: int, on_parent_dead: str = "hold", **how: Any) -> Iterator[Family]:
    with clones(server) as [url]:
        family = Family(url, number, on_parent_dead, how.pop("parent_task", bench_record), **how)
        with family.record:
            yield family


def run(server: Postgres) -> list[Ratio]:
    return [
        *_ended(server, "completes", State.COMPLETED, State.PENDING),
        *_ended(server, "is archived, with 'hold'", State.ARCHIVED, State.HELD, parent_task=bench_failing),
        *_ended(
            server,
            "is archived, with 'cancel'",
            State.ARCHIVED,
            State.CANCELLED,
            on_parent_dead="cancel",
            parent_task=bench_failing,
        ),
        *_cancelled(server, f"cancel of a task with {MANY:,} children", MANY),
        *_with_threads(server),
        *_cancelled(server, f"cancel of the first of a chain of {CHAIN:,}", CHAIN, chain=True),
    ]


def _statement(what: str, setting: str, spent: Spent, target: float) -> Ratio:
    return within(
        f"longest statement of {what}, CPU of PostgreSQL",
        f"{setting}; {spent.statements:,} statements in {spent.seconds:.1f} s",
        spent.longest * 1000,
        target * 1000,
        "ms",
    )


def _ended(server: Postgres, end: str, state: State, of_children: State, **how: Any) -> list[Ratio]:
    """Run the parent, then sweep. ``state``: the state in which the parent ends."""
    setting = f"{MANY:,} children of a task that {end}"
    with _family(server, MANY, **how) as family:
        with metered(family.record.pid) as of_worker:
            family.record.deliver([family.body], 1)
        assert family.connection.run("select state from joblane.tasks where id = $1", family.parent) == [[state]]
        of_sweep = family.swept()
        assert family.states() == {of_children: MANY}
    return [
        _statement("a worker", setting, of_worker, OF_WORKER),
        _statement("the sweep", setting, of_sweep, OF_SWEEP),
    ]


def _cancelled(server: Postgres, setting: str, number: int, *, chain: bool = False) -> list[Ratio]:
    """Cancel the parent, or the first task of a chain, then sweep."""
    with _family(server, number, chain=chain) as family:
        if chain:
            family.connection.run(FIRST)
        with metered(family.record.pid) as of_client:
            assert family.record._client.cancel("c000000001" if chain else family.parent) is State.CANCELLED
        of_sweep = family.swept()
        assert family.states() == {State.CANCELLED: number}
    statement = _statement("a client", setting, of_client, OF_WORKER)
    return [
        *([] if chain else [statement]),
        _statement("the sweep", setting, of_sweep, OF_SWEEP),
        within("a cancel", setting, of_client.seconds, OF_CANCEL, "s"),
    ]


def _with_threads(server: Postgres) -> list[Ratio]:
    setting = f"cancel of a task with {CANCELLED:,} children, while {THREADS} threads of its client enqueue"
    with _family(server, CANCELLED) as family, ThreadPoolExecutor(THREADS) as pool:
        client = client_within(family.record.database, family.record.sqs, PREFIX)
        is_over = threading.Event()

        def enqueue() -> list[float]:
            """Enqueue until the cancel has ended. Return the seconds of each enqueue. Raises its error."""
            waits = []
            while not is_over.is_set():
                started = time.monotonic()
                client.enqueue(bench_record, Work(tenant_id="acme", number=1))
                waits.append(time.monotonic() - started)
            return waits

        threads = [pool.submit(enqueue) for _ in range(THREADS)]
        started = time.monotonic()
        try:
            assert client.cancel(family.parent) is State.CANCELLED
        finally:
            seconds = time.monotonic() - started
            is_over.set()
        waits = sorted(wait for thread in threads for wait in thread.result())
        left = family.states().get(State.HELD, 0)
        family.swept()  # as if the client's process had been killed: only the rows say what is left
        assert family.states() == {State.CANCELLED: CANCELLED}
    return [
        within("a cancel", f"{setting}; {left:,} left to the sweep", seconds, OF_CANCEL, "s"),
        within(
            "an enqueue, 99 of 100 faster",
            f"{len(waits):,} enqueues during the {setting}",
            waits[len(waits) * 99 // 100] * 1000,
            OF_ENQUEUE * 1000,
            "ms",
        ),
    ]
