"""An operator's queries over a table of a million tasks: each kind of listing, and the statements of an overview.

The rows cover ten days: most are completed, 1 in 100 is archived for one of three reasons, 2 in 100 are live. So a live
or archived row lies on a page of its own, among ended ones. That is the worst case: tasks that have just been enqueued
share pages, but tasks that are due in days, or retry for days, lie so.

The table is vacuumed, as autovacuum leaves it, and in PostgreSQL's memory. The sweep reads all live rows each minute,
so these are in memory on any server. A listing of rows that are on disk takes as long as the disk.

The times are the processor time of PostgreSQL's session and of this process, with planning: what a query takes on a
machine that does nothing else. The elapsed time is printed as well. A query of several calls has the time of the
slowest.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from joblane import Queue
from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.stage import glance
from joblane.inspector.stage.trends import causes
from joblane.inspector.tasks import find, listing
from joblane.inspector.tasks.filter_sql import BOUND, aimed, checked, cursor_of, mark_of, reading
from joblane.inspector.tasks.selection import Selection, count, select
from joblane.inspector.tasks.why import AHEAD
from joblane.local.postgres import Postgres
from joblane.record.driver.database import Database
from joblane.record.row.states import State
from joblane.sqs.client import Sqs
from joblane.tasks.discovery import discover
from tests.bench import backends
from tests.bench.record import clones
from tests.bench.report import Ratio, median, within

TASKS = 1_000_000
ROUNDS = 9
TARGET_MS = 80
FIND_MS = 200
"""Target for queries that look into each row: a search, and a listing by duration."""
SEARCH_MS = 2_000
"""Target for the count of a bulk action that has to search all tasks, in statements of 20,000 rows."""
ABSENT = "jobs:bulk"
"""A declared type without tasks."""
INDEX_SECONDS = 120
"""Target for a rebuild of all indexes of the table. While a migration builds an index, no task can be enqueued."""
CAUSES = """
update joblane.tasks set fingerprint = left(md5(type || '|' || error_type), 16) where error_type is not null
"""

# The first two types have half of all tasks. One in eleven tasks has no tenant, and a few tenants have most tasks.
TASK_ROWS = """
insert into joblane.tasks (id, type, queue, tenant, tags, state, payload, payload_digest, max_attempts, attempts, runs,
                   retention_seconds, created_at, due_at, sweep_at, lease_until, finished_at, dead_sent_at,
                   expire_at, reason, error_type, error_message, started_at, duration_ms, billed_ms, memory_mb,
                   cost_usd)
select md5(n::text)::uuid::text,
       ($2::text[])[case when n % 10 < 3 then 1 when n % 10 < 5 then 2
                         else 3 + n / 10 % (array_length($2::text[], 1) - 2) end],
       case when n % 100 < 5 then 'critical' when n % 100 < 25 then 'low' else 'default' end,
       case when n % 11 > 0 then 'tenant-' || floor(power(n::bigint * 7919 % 1000 / 1000.0, 3) * 500) end,
       case when n % 1000 = 0 then array['import-' || n / 100000] when n % 10 = 0 then array['nightly'] else '{}' end,
       s.state, jsonb_build_object('tenant_id', md5(n::text), 'number', n), md5(n::text), 6, 1,
       case when s.state = 'active' or s.state = 'completed' and n % 4 = 0 then 2 else 1 end, 604800,
       at, d.due_at,
       case when s.state in ('scheduled', 'pending', 'retry', 'active') then d.due_at + interval '1 min' end,
       case when s.state = 'active' then clock_timestamp() + interval '1 min' end,
       case when s.state in ('completed', 'archived', 'cancelled') then at + interval '3 s' end,
       case when s.state = 'archived' then at + interval '3 s' end,
       case when s.state in ('completed', 'archived', 'cancelled') then at + interval '90 days' end,
       case s.state when 'archived' then 'attempt 6 of 6 failed' when 'cancelled' then 'cancelled before it ran' end,
       case when s.state in ('archived', 'retry') then
            (array['ValueError', 'HTTPStatusError', 'TaskTimeout'])[1 + n % 3] end,
       case when s.state in ('archived', 'retry') then
            (array['no room', 'the service answered 503', 'the task exceeded its timeout'])[1 + n % 3] end,
       case when s.state in ('completed', 'archived', 'retry', 'active') then at + n % 2000 * interval '1 ms' end,
       case when s.state = 'completed' then 20 + n * 7 % 900 end, case when s.state = 'completed' then 60 end,
       case when s.state = 'completed' then 512 end, case when s.state = 'completed' then 0.000001 end
  from generate_series(1, $1::int) n,
       lateral (select case when k < 100 then 'archived' when k < 220 then 'scheduled' when k < 270 then 'pending'
                            when k < 290 then 'retry' when k < 300 then 'active' when k < 350 then 'cancelled'
                            else 'completed' end as state,
                       clock_timestamp() - n * interval '864 ms' as at
                  from (select n::bigint * 7907 % 10000 as k) as m) as s,
       lateral (select case when s.state in ('scheduled', 'retry') then clock_timestamp() + n % 500 * interval '1 min'
                            else at end as due_at) as d
"""
ATTEMPT_ROWS = """
insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, finished_at, outcome, duration_ms,
                                   type, queue, tenant, wait_ms, billed_ms, memory_mb, cost_usd, error_type,
                                   error_message, fingerprint)
select id, run, run, 0, at, at + duration * interval '1 ms', outcome, duration, type, queue, tenant,
       abs(hashtext(id)) % 90000, 60, 512, 0.000001, case when failed then error_type end,
       case when failed then error_message end, case when failed then fingerprint end
  from joblane.tasks t, generate_series(1, runs) as run,
       lateral (select case when run < runs then case when fingerprint is null then 'waiting' else 'failed' end
                            when state = 'retry' then 'failed' when state <> 'active' then state end as outcome,
                       case when state = 'active' and run = runs then clock_timestamp() - interval '5 s'
                            else t.started_at + (run - 1) * interval '34 s' end as at) as o,
       lateral (select outcome in ('failed', 'archived') as failed,
                       case when outcome is not null then 20 + abs(hashtext(id)) % 900 end as duration) as f
 where state in ('archived', 'retry', 'active') or state = 'completed' and runs > 1
 order by at
"""
"""The runs that are not on the row of their task. A run in progress started five seconds ago."""


@dataclass(frozen=True, slots=True)
class Query:
    """The queries by name, and their statements for the plans."""

    name: str
    calls: Mapping[str, Callable[[], object]]
    statements: tuple[Selection, ...]
    target_ms: float = TARGET_MS


def run(server: Postgres) -> list[Ratio]:
    with clones(server) as [url], Database(url) as database:
        migration = _fill(database)
        return [migration, *_measure(Scope(database, Sqs(), "jobs", discover(), "bench"))]


def types_of_rows() -> list[str]:
    """The types of the rows, in their order."""
    return sorted(discover().keys() - {ABSENT})


def _fill(database: Database) -> Ratio:
    connection = database.get()
    connection.limit(None)
    connection.run(TASK_ROWS, str(TASKS), types_of_rows())
    connection.run(CAUSES)
    started = time.perf_counter()
    connection.run("reindex table joblane.tasks")
    took = time.perf_counter() - started
    connection.run(ATTEMPT_ROWS)
    connection.run("vacuum analyze joblane.tasks")  # as by autovacuum
    connection.run("vacuum analyze joblane.task_attempts")
    database.drop()
    return within("index the tables", f"{TASKS:,} tasks, all indexes", took, INDEX_SECONDS, "s")


# --- Queries -------------------------------------------------------------------------------------------------------


def _measure(scope: Scope) -> list[Ratio]:
    return [_measured(scope, query) for query in (*_listings(scope), *_searches(scope), *_other_queries(scope))]


def _measured(scope: Scope, query: Query) -> Ratio:
    pid = backends.pid_of(scope.connection)
    rounds = [{name: _timed_ms(pid, call) for name, call in query.calls.items()} for _ in range(ROUNDS)]
    medians = {name: tuple(median([each[name][kind] for each in rounds]) for kind in (0, 1)) for name in query.calls}
    texts = ", ".join(f"{name} {cpu:.1f} ({elapsed:.1f})" for name, (cpu, elapsed) in medians.items())
    plans = "\n".join(dict.fromkeys(_scans(scope, statement) for statement in query.statements))
    slowest = max(cpu for cpu, _ in medians.values())
    return within(query.name, f"CPU ms (elapsed), medians: {texts}\n{plans}", slowest, query.target_ms, "ms")


def _timed_ms(pid: int, call: Callable[[], object]) -> tuple[float, float]:
    """The processor time of PostgreSQL's session and of this thread, and the elapsed time."""
    before, client, started = backends.cpu(pid), time.thread_time(), time.perf_counter()
    call()
    elapsed, ours = time.perf_counter() - started, time.thread_time() - client
    return (backends.cpu(pid) - before + ours) * 1000, elapsed * 1000


def _scans(scope: Scope, statement: Selection) -> str:
    """Return the nodes of a plan that read tables, in their order."""
    with reading(scope.connection) as connection:
        plan = connection.run("explain " + statement.sql, *statement.parameters)
    lines = (re.search(r"(\w[\w ]* Scan.*?)(?:  \(|$)", row[0]) for row in plan)
    scans = (re.sub(r" on (tasks|task_attempts)( \w+)?$", r" on \1", found[1]) for found in lines if found)
    return ", ".join(dict.fromkeys(scan for scan in scans if "tasks" in scan or "task_attempts" in scan))


def _listings(scope: Scope) -> list[Query]:
    inspector, types = Inspector(scope), types_of_rows()
    fingerprint = scope.connection.run("select fingerprint from joblane.tasks where state = 'archived' limit 1")[0][0]
    five_days_ago = datetime.now(UTC) - timedelta(days=5)
    kinds = {
        "all": Filter(),
        "completed": Filter(states=(State.COMPLETED,)),
        "archived": Filter(states=(State.ARCHIVED,)),
        "live": Filter(states=(State.SCHEDULED, State.PENDING, State.RETRY, State.ACTIVE)),
        "a common type": Filter(types=(types[0],)),
        "a rare type": Filter(types=(types[-1],)),
        "an absent type": Filter(types=(ABSENT,)),
        "a rare state": Filter(states=(State.CANCELLED,)),
        "a type and a state": Filter(types=(types[-1],), states=(State.ARCHIVED,)),
        "a queue": Filter(queues=(Queue.CRITICAL,)),
        "a queue and a rare state": Filter(queues=(Queue.CRITICAL,), states=(State.CANCELLED,)),
        "a large tenant": Filter(tenant="tenant-0"),
        "a small tenant": Filter(tenant="tenant-498"),
        "a common tag": Filter(tag="nightly"),
        "a rare tag": Filter(tag="import-3"),
        "an id prefix": Filter(id_prefix="c4ca42"),
        "a short id prefix": Filter(id_prefix="c"),
        "text of an error": Filter(error="503"),
        "text that no error has": Filter(error="no such text"),
        "a fingerprint": Filter(fingerprint=fingerprint),
        "a fingerprint and a type": Filter(fingerprint=fingerprint, types=(types[0],)),
        "a long last run": Filter(longer=timedelta(seconds=30)),
        "a day": Filter(created_after=five_days_ago, created_before=five_days_ago + timedelta(days=1)),
        "a tenant, archived, of a day": Filter(
            tenant="tenant-3",
            states=(State.ARCHIVED,),
            created_after=five_days_ago,
            created_before=five_days_ago + timedelta(days=1),
        ),
    }
    return [
        _listing(inspector, name, filter_, cursor_of(five_days_ago, "m"), mark_of(checked(scope, filter_), None))
        for name, filter_ in kinds.items()
    ]


def _listing(inspector: Inspector, name: str, filter_: Filter, deep: str, mark: str) -> Query:
    return Query(
        f"tasks: {name}",
        {
            "first page": lambda: inspector.tasks(filter_),
            "page in the middle": lambda: inspector.tasks(filter_, after=f"{deep}.{mark}"),
            "count": lambda: inspector.count(filter_),
        },
        (
            *(select(listing.COLUMNS, filter_, after, 51) for after in (None, deep)),
            count(filter_, None, listing.COUNT_CAP + 1),
        ),
        FIND_MS if filter_.longer else TARGET_MS,  # it looks up the last run of each row
    )


def _searches(scope: Scope) -> list[Query]:
    """A search in payloads ends after a time; these take all of it, or read all rows of a call."""
    inspector = Inspector(scope)
    after = inspector.find("no such text").after
    texts = {"a text that nothing has": "no such text", "the name of a field": "tenant_id", "a tenant": "tenant-0"}
    return [
        Query(
            "find",
            {
                **{name: partial(inspector.find, text) for name, text in texts.items()},
                "further payloads": partial(inspector.find, "no such text", after=after),
            },
            (find.statement(scope.tasks, "no such text", Filter(), None, 20),),
            FIND_MS,
        )
    ]


def _other_queries(scope: Scope) -> list[Query]:
    inspector = Inspector(scope)
    waiting = inspector.tasks(Filter(states=(State.PENDING,)), limit=1).tasks[0]
    archived = checked(scope, Filter(states=(State.ARCHIVED,), created_before=datetime.now(UTC)))
    middle = cursor_of(datetime.now(UTC) - timedelta(days=5), "m")
    rare = Filter(id_prefix="c", queues=(Queue.CRITICAL,))

    def read_overview() -> None:
        with reading(scope.connection) as connection:
            glance.read(connection, 60)

    def walk() -> None:
        listing.ids(scope.connection, archived, middle, 500)

    hour: tuple[Any, ...] = (datetime.now(UTC) - timedelta(hours=1),)
    return [
        Query(
            "overview: statements",
            {"60 minutes": read_overview},
            (
                Selection(glance.LIVE_ROWS, (str(BOUND), ["acme"])),
                Selection(glance.ARCHIVED, ()),
                Selection(glance.STARTED, hour),
            ),
        ),
        Query(
            "a waiting task and its reason",
            {
                "view": lambda: inspector.task(waiting.id),
                "tasks ahead": lambda: scope.connection.run(AHEAD, waiting.type, waiting.queue.value, waiting.due_at),
            },
            (Selection(AHEAD, (waiting.type, waiting.queue.value, waiting.due_at)),),
        ),
        Query(
            "walk through the archived tasks",
            {"500 ids": walk},
            (select("created_at, id", archived, middle, 500, oldest_first=True, acting=True),),
        ),
        Query(
            "the tasks of a bulk action",
            {str(action): partial(inspector.count, action=action) for action in BulkAction},
            tuple(
                count(aimed(Filter(), action), None, listing.COUNT_CAP + 1, acting=True)
                for action in (BulkAction.RETRY, BulkAction.DELETE)
            ),
        ),
        Query(
            "a bulk action of a filter without an index",
            {"delete": partial(inspector.count, rare, action=BulkAction.DELETE)},
            (count(aimed(rare, BulkAction.DELETE), None, listing.COUNT_CAP + 1, acting=True),),
            SEARCH_MS,
        ),
        Query(
            "dead letters: statements",
            {"groups": lambda: causes.read(scope, Filter(), archived_only=True, limit=500)},
            (),
        ),
    ]
