"""The statements of schedules read no more than what they were given, whatever the tables hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.schedules import CANCEL_TICKS, DELETE, DUE, DUE_BY_NAME, GET, LOCK, MOVE, PAUSE, listing
from joblane.sweep.next_sweep import TIMES
from joblane.sweep.walk import PLANNING

NUMBER = 3_000
SCHEDULES = """
insert into joblane.schedules (name, type, payload, tenant, expression, timezone, missed, ticks_a_day,
                               revision, next_at, paused_at, origin)
select 's' || n, 'a:' || (n % 100), '{}', 'tenant-' || (n % 1000), '0 6 * * *', 'UTC', 'latest', n / 9.0, 1,
       now() + n * interval '1 minute', case when n % 10 = 0 then now() end,
       case when n % 100 = 1 then 'code' else 'run_time' end
  from generate_series(1, $1::int) n
"""
TICKS = """
insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds, due_at,
                           finished_at, expire_at)
select '@s' || s || to_char(now() + n * interval '1 minute', ':YYYY-MM-DD"T"HH24:MI"Z:1"'), 'a:b', 'default',
       case when n > 0 then 'scheduled' else 'completed' end, '{}', '', 4, 60, now() + n * interval '1 minute',
       case when n <= 0 then now() end, case when n <= 0 then now() + interval '1 day' end
  from generate_series(1, 2) s, generate_series(-1500, 15) n
"""
ROWS_READ = """
select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::int from pg_stat_xact_all_tables
 where schemaname = 'joblane'
"""


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with Database(database_url) as database:
        connection = database.get()
        connection.run(SCHEDULES, str(NUMBER))
        connection.execute_simple(TICKS)
        connection.execute_simple("analyze joblane.schedules; analyze joblane.tasks")
        connection.execute_simple("set plan_cache_mode = force_generic_plan")
        yield connection


NAMED = json.dumps({"name": "s1", "revision": 2})
LISTED = json.dumps({"tenant": "tenant-7", "type": "a:7", "after": "s2", "number": 10})
DAY = 24 * 60
"""Ticks of a schedule that fires every minute."""
CANCELLED = json.dumps(
    {
        "low": f"@s1:{datetime.now(UTC) - timedelta(days=1):%Y-%m-%dT%H:%MZ}",
        "high": "@s1::",
        "later": "@s1:0",
        "time_at": 5,
        "reason": "why",
    }
)


STATEMENTS: tuple[tuple[str, tuple[Any, ...], int], ...] = (
    (LOCK, (NAMED,), 1),
    (GET, (NAMED,), 1),
    (PAUSE, (NAMED,), 2),
    (DELETE, (NAMED,), 1),
    (DUE, (1000, ["left"]), 20),  # those of 15 minutes
    (DUE_BY_NAME, ("s1",), 1),
    (MOVE, (json.dumps([{"name": f"s{n}", "next_at": "2030-01-01T00:00:00Z"} for n in range(1, 11)]),), 21),
    (listing(by_tenant=False, by_type=False), (LISTED,), 11),  # one of them is of the code
    (listing(by_tenant=True, by_type=False), (LISTED,), 20),
    (listing(by_tenant=False, by_type=True), (LISTED,), 20),
    (listing(by_tenant=True, by_type=True), (LISTED,), 30),
    (TIMES, (0,), 5),
    (CANCEL_TICKS, (CANCELLED,), 3 * DAY),
)
"""Statement, parameters, and the most rows that it may read."""


def test_a_statement_reads_only_the_schedules_that_it_needs(connection: Connection, subtests: pytest.Subtests) -> None:
    for statement, parameters, rows in STATEMENTS:
        with subtests.test(statement):
            assert rows_read(connection, statement, parameters) <= rows


def rows_read(connection: Connection, statement: str, parameters: tuple[Any, ...]) -> int:
    """Run a statement with the settings of the sweep, and roll it back."""
    if statement in (DUE, MOVE, TIMES):
        connection.execute_simple(PLANNING)
    connection.execute_simple("begin")
    [[before]] = connection.run(ROWS_READ)
    connection.run(statement, *parameters)
    [[after]] = connection.run(ROWS_READ)
    connection.execute_simple("rollback")
    return int(after - before)
