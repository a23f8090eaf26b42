"""The sweep on large tables: a walk that finds nothing, many due tasks, a backlog, paused tasks, large dead letters.

SQS is a count: it accepts all messages, and holds them for ever.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from joblane.local.postgres import Postgres
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.depth import ATTRIBUTES
from joblane.sweep.sweep import Swept, sweep
from tests.bench import backends
from tests.bench.record import clones
from tests.bench.report import Ratio, within

LIVE = 1_000_000
DUE = 100_000
BACKLOG = 500_000
DEAD_LETTERS = 1_000
MB = 1_000_000
CHUNK = 50_000
PREFIX = "jobs"

TASKS = """
insert into joblane.tasks (id, type, queue, tenant, state, payload, payload_digest, max_attempts, retention_seconds,
                           due_at, sweep_at)
select gen_random_uuid()::text, (array['data:export', 'user:invitation'])[1 + n % 2], 'default', 'tenant-' || n % 500,
       'scheduled', jsonb_build_object('tenant_id', md5(n::text), 'number', n), md5(n::text), 4, 604800,
       now() + interval '1 day', now() + case when n <= $3::int then interval '-1 s' else interval '23 h' end
  from generate_series($1::int, $2::int) n
"""
DEAD = """
insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds,
                           sweep_at, finished_at, expire_at, reason, dead_letter_unsent)
select 'dead-' || n, 'data:export', 'default', 'archived', jsonb_build_object('do', repeat('x', 1000000)), '', 4, 60,
       now(), now(), now() + interval '90 days', 'why', true
  from generate_series($1::int, $2::int) n
"""
LATER = """
update joblane.tasks set sweep_at = now() - interval '1 s', due_at = now() - interval '2 min' where left(id, 1) = $1
"""
PAUSE = "insert into joblane.pauses (scope, name) values ('type', 'data:export'), ('type', 'user:invitation')"
PROCESS = (
    "import sys; from tests.bench.sweeping import Counting, swept; print(swept(sys.argv[1], Counting()).dead_letters)"
)


class Counting(Sqs):
    """``held``: queue → the number of messages."""

    def __init__(self) -> None:
        super().__init__()
        self.held: Counter[str] = Counter()

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        self.held.update(entry.queue for entry in entries)
        return {}

    def attributes(self, queue: str, names: Sequence[str]) -> Mapping[Any, str]:
        return dict(zip(ATTRIBUTES, (str(self.held[queue]), "0", "0"), strict=True))


def swept(url: str, sqs: Sqs) -> Swept:
    with Database(url) as database:
        return sweep(database.get(), sqs, PREFIX)


def run(server: Postgres) -> list[Ratio]:
    with _tasks(server, LIVE, due=0) as (connection, _):
        nothing = _cpu(connection, Counting())
    with _tasks(server, LIVE, due=LIVE) as (connection, _):
        connection.run(PAUSE)
        before = _written(connection)
        sweep(connection, Counting(), PREFIX)
        paused_kb = (_written(connection) - before) / 1000
    with _tasks(server, DUE, due=DUE) as (connection, _):
        a_row = _cpu(connection, Counting()) / DUE * 1e6
    with _tasks(server, BACKLOG, due=BACKLOG) as (connection, _):
        sqs = Counting()
        started = time.monotonic()
        sweep(connection, sqs, PREFIX)
        backlog_seconds = time.monotonic() - started
        assert sum(sqs.held.values()) == BACKLOG, "each task is sent once"
        for digit in "0123456789abcdef":
            connection.run(LATER, digit)
        assert sweep(connection, sqs, PREFIX).sent == 0, "a backlog is not sent again"
    with _tasks(server, 0, due=0) as (connection, url):
        for start in range(1, DEAD_LETTERS, 100):
            connection.run(DEAD, str(start), str(start + 99))
        assert _limited(url, 512 * MB) == DEAD_LETTERS
    return [
        within("a sweep, CPU of PostgreSQL", f"{LIVE:,} live tasks, none due", nothing * 1000, 600, "ms"),
        within("a swept task, CPU of PostgreSQL", f"{DUE:,} due tasks", a_row, 35, "µs"),
        within("a sweep, without the time of SQS", f"{BACKLOG:,} due tasks, sent once", backlog_seconds, 300, "s"),
        within("a sweep, WAL", f"{LIVE:,} paused tasks, all due", paused_kb, 1000, "KB"),
    ]


@contextmanager
def _tasks(server: Postgres, number: int, *, due: int) -> Iterator[tuple[Connection, str]]:
    with clones(server) as [url], Database(url) as database:
        connection = database.get()
        for start in range(1, number, CHUNK):  # within the time limit of a statement
            connection.run(TASKS, str(start), str(start + CHUNK - 1), str(due))
        connection.execute_simple("vacuum analyze joblane.tasks")
        yield connection, url


def _cpu(connection: Connection, sqs: Sqs) -> float:
    return backends.of(backends.pid_of(connection), lambda: sweep(connection, sqs, PREFIX))


def _written(connection: Connection) -> int:
    return int(connection.run("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")[0][0])


def _limited(url: str, most_bytes: int) -> int:
    """Sweep in a process with this much memory. Return the number of dead letters that were sent."""
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, url],
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes)),
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)
