"""Every operation of an inspector that reads, over a million tasks and 30 days of statistics.

So each page and each command: these only put the answers into words. The tasks are those of ``inspecting``, with the
runs of ten days, 100,000 that wait for limits, the statistics of 30 days for each type, minute and hour, three bulk
actions of 100,000 tasks, and deploys. The times are the processor time of PostgreSQL's session, without parallel
workers, with planning: the best of some calls. SQS is imitated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from joblane.errors import JobError
from joblane.inspector.bulk.start import REDRIVE
from joblane.inspector.filter import BulkAction, Filter, Group, Measure, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.permission import Permission, permission_of
from joblane.inspector.scope import Scope
from joblane.inspector.stage.doctor import database as doctor_database
from joblane.inspector.stage.doctor import doctor
from joblane.inspector.stage.doctor.trouble import PARTS
from joblane.inspector.stage.glance import glance
from joblane.local.postgres import Postgres
from joblane.names import Queue
from joblane.record import schedules
from joblane.record.deploys import write_deploy
from joblane.record.driver.database import Database
from joblane.record.row.states import State
from joblane.record.task_types import register
from joblane.sqs.client import Sqs
from joblane.sweep.causes import note_causes
from joblane.tasks.discovery import discover
from joblane.tasks.task import Task
from tests.bench import backends
from tests.bench.inspecting import ATTEMPT_ROWS, TASK_ROWS, TASKS, types_of_rows
from tests.bench.record import bench_keyed, clones
from tests.bench.report import Ratio, within

ROUNDS = 5
TARGET_MS = 100
FAILING = """
update joblane.tasks t
   set fingerprint = left(md5(cause::text), 16), runs = 5, created_at = at, started_at = at,
       finished_at = case when state = 'archived' then at + interval '170 s' end
  from (select id, now() - row_number() over (order by created_at desc) * interval '172 s' as at,
               row_number() over (order by type, id) * 10000 / count(*) over () as cause
          from joblane.tasks where error_type is not null) as f
 where t.id = f.id
"""
"""The tasks in retry and the archived ones, over 24 days: with 10,000 causes, and five failed runs each."""
LIMITED = bench_keyed.type
HELD = """
insert into joblane.tasks (id, type, queue, tenant, state, payload, payload_digest, max_attempts, retention_seconds,
                           key_limit, wait_kind, waits_for, place, first_due_at, seq, due_at, created_at)
select 'held-' || n, $1, 'default', 'tenant-' || n % 200, 'held', '{}', '', 6, 604800, $1 || '/' || n % 200,
       'limit', $1 || '/' || n % 200, n, at, n, at, at
  from (select n, clock_timestamp() - n * interval '1 s' as at from generate_series(1, 100000) n) as x
"""
"""100,000 tasks that wait for 200 keys."""
HISTOGRAM = "(select array_agg(array[b + n % 7, 1 + n % 3]) from generate_series(10, 24) b)"
PERIODS = {"minute": (60, 30 * 1440), "hour": (3600, 30 * 24), "day": (86400, 180)}
"""Length of a period in seconds, and the number of periods that are kept."""
STATISTICS = f"""
insert into joblane.run_statistics
select 'type', type, (array['critical', 'default', 'low'])[1 + place % 3], $3::int,
       date_trunc($2, now(), 'UTC') - n * make_interval(secs => $3::int), 40, 3, 1, 0, 1, 0.0001, {HISTOGRAM},
       {HISTOGRAM}
  from unnest($1::text[]) with ordinality as t(type, place), generate_series(1, $4::int) as n
"""
TENANTS = f"""
insert into joblane.run_statistics
select 'tenant', 'tenant-' || t, '', $2::int, date_trunc($1, now(), 'UTC') - n * make_interval(secs => $2::int),
       40, 3, 1, 0, 1, 0.0001, {HISTOGRAM}, {HISTOGRAM}
  from generate_series(0, 199) as t, generate_series(1, $3::int) as n
"""
WAITS = """
insert into joblane.task_waits (task_id, name, signal, until, run)
select id, 'go', 'go', case when state = 'scheduled' then due_at else created_at + interval '30 days' end, 1
  from joblane.tasks where state = 'scheduled' or state = 'completed' and runs > 1
"""
"""Each scheduled task waits for a signal. A quarter of the completed tasks did: their waits are kept."""
SCHEDULES = """
insert into joblane.schedules (name, type, payload, tenant, expression, timezone, ticks_a_day, revision, next_at,
                               last_at, last_task, problem, paused_at)
select 'tenant-' || lpad(n::text, 6, '0') || '-nightly', $1, '{}', 'tenant-' || n % 5000, n % 60 || ' 6 * * *',
       'Europe/Berlin', 1, n, now() + interval '1 hour', now() - interval '23 hours', 'task-' || n,
       case when n % 20 = 0 then 'the type is not declared' end, case when n % 50 = 1 then now() end
  from generate_series(1, 100000) as n
"""
"""100,000 schedules that were made at run time, of 5,000 tenants; 5,000 have a problem, 2,000 are paused. Those of the
code are there, too."""
AUDIT = """
insert into joblane.audit (at, who, action, target, reason, bulk)
select now() - (300000 - n) * interval '8 s', 'ann', 'retry', md5(n::text)::uuid::text, 'fixed', 'bulk-' || n / 100000
  from generate_series(0, 299999) as n
"""
ACTIONS = """
insert into joblane.audit (at, who, action, target, reason)
select now() - (3000 - n) * interval '15 min', 'ann', (array['pause', 'resume', 'set_limit', 'redrive'])[1 + n % 4],
       case n % 4 when 2 then $1 when 3 then 'bulk-' || n % 3 else 'type:' || $1 end, 'fixed'
  from generate_series(1, 3000) as n
"""
BULKS = """
insert into joblane.bulks (id, action, filter, who, rate, canary, total)
select 'bulk-' || n, 'retry', '{}', 'ann', 50, 0, 100000 from generate_series(0, 2) as n
"""


class Empty(Sqs):
    """SQS with empty queues."""

    def attributes(self, queue: str, names: Any) -> dict[Any, str]:
        return dict.fromkeys(names, "0")


def run(server: Postgres) -> list[Ratio]:
    with clones(server) as [url], Database(url) as database:
        fill(database)
        return measured(Scope(database, Empty(), "jobs", _tasks(), "bench"))


def _tasks() -> dict[str, Task[Any, Any]]:
    return {**discover(), LIMITED: bench_keyed}


def fill(database: Database) -> None:
    types, connection = types_of_rows(), database.get()
    connection.limit(None)
    register(connection, _tasks())
    connection.run(TASK_ROWS, str(TASKS), types)
    connection.run(FAILING)
    connection.run(HELD, LIMITED)
    connection.run(ATTEMPT_ROWS)
    while note_causes(connection, may_continue=lambda: True):
        pass
    connection.run(WAITS)
    for unit, (seconds, number) in PERIODS.items():
        connection.run(STATISTICS, types, unit, str(seconds), str(number))
        if unit != "minute":
            connection.run(TENANTS, unit, str(seconds), str(number))
    connection.run("update joblane.run_statistics_until set until = date_trunc('minute', now() - interval '2 min')")
    connection.run(AUDIT)
    connection.run(ACTIONS, types[0])
    connection.run(BULKS)
    connection.run(SCHEDULES, types[0])
    schedules.register(connection, _tasks())
    for number in range(200):
        write_deploy(connection, f"v{number}", "ann")
    connection.run("update joblane.deploys set at = at - (200 - number) * interval '3 h', done_at = at")
    for table in ("tasks", "task_attempts", "task_waits", "causes", "run_statistics", "audit", "schedules"):
        connection.run(f"vacuum analyze joblane.{table}")
    database.drop()


def measured(scope: Scope) -> list[Ratio]:
    [[archived]] = scope.connection.run("select id from joblane.tasks where state = 'archived' limit 1")
    [[pending]] = scope.connection.run("select id from joblane.tasks where state = 'pending' limit 1")
    [[cause]] = scope.connection.run("select min(fingerprint) from joblane.tasks where state = 'archived'")
    found = calls(scope, archived, pending, cause)
    return [_measured(scope, name, call) for name, call in found.items()]


def missing(names: Iterable[str]) -> set[str]:
    """Return the reading operations of the inspector that no call measures. ``names``: of calls."""
    queries = {name for name in vars(Inspector) if permission_of(Inspector, name) is Permission.VIEW}
    return queries - {name.partition(":")[0] for name in names}


def _measured(scope: Scope, name: str, call: Callable[[], object]) -> Ratio:
    times = []
    for _ in range(ROUNDS):
        scope.connection.run("set max_parallel_workers_per_gather = 0")
        pid = backends.pid_of(scope.connection)
        times.append(backends.of(pid, call) * 1000)
    return within(name, f"CPU ms of PostgreSQL, the best of {ROUNDS}", min(times), TARGET_MS, "ms")


def calls(scope: Scope, archived: str, pending: str, cause: str) -> Mapping[str, Callable[[], object]]:
    """Return the calls by the names of their operations, each with what it measures.

    ``archived``, ``pending``: ids of tasks. ``cause``: a fingerprint.
    """
    inspector, types, now = Inspector(scope), types_of_rows(), datetime.now(UTC)
    day = Filter(ended_after=now - timedelta(days=5), ended_before=now - timedelta(days=4), types=(types[0],))
    found: dict[str, Callable[[], object]] = {
        "overview: 1 minute": lambda: inspector.overview(minutes=1),
        "overview: 4 hours": lambda: inspector.overview(minutes=240),
        "trouble:": inspector.trouble,
        "now: 1 hour": inspector.now,
        "now: 4 hours": lambda: inspector.now(minutes=240),
        "tasks: all": inspector.tasks,
        "tasks: that ended on a day": lambda: inspector.tasks(day),
        "tasks: all, the oldest first": lambda: inspector.tasks(oldest_first=True, limit=200),
        "tasks: archived": lambda: inspector.tasks(Filter(states=(State.ARCHIVED,))),
        "count: all": inspector.count,
        "count: that ended on a day": lambda: inspector.count(day),
        "count: to retry": lambda: inspector.count(Filter(states=(State.ARCHIVED,)), action=BulkAction.RETRY),
        "find: part of an id": lambda: inspector.find(archived[:6]),
        "find: a word of payloads": lambda: inspector.find("no such value", created_after=now - timedelta(days=10)),
        "tasks: that took long": lambda: inspector.tasks(Filter(longer=timedelta(minutes=9))),
        "task: archived": lambda: inspector.task(archived),
        "task: pending": lambda: inspector.task(pending),
        "logs: its runs": lambda: scope.connection.run("select * from joblane.runs where task_id = $1", archived),
        "dead: all": inspector.dead,
        "dead: a type": lambda: inspector.dead(types=(types[0],), sort="last"),
        "dead: newer": lambda: inspector.dead(since=now - timedelta(minutes=15)),
        "errors: 15 minutes": lambda: inspector.errors(within=timedelta(minutes=15), sort="runs"),
        "errors: 1 day": inspector.errors,
        "errors: 7 days": lambda: inspector.errors(within=timedelta(days=7)),
        "errors: 30 days": lambda: inspector.errors(within=timedelta(days=30), sort="runs"),
        "errors: 30 days, the first 500": lambda: inspector.errors(within=timedelta(days=30), sort="runs", limit=500),
        "errors: a version": lambda: inspector.errors(within=timedelta(days=30), version="v100", limit=500),
        "errors: a type": lambda: inspector.errors(within=timedelta(days=7), types=(types[0],)),
        "errors: a tenant": lambda: inspector.errors(within=timedelta(days=7), tenant="tenant-0"),
        "preview: a redrive of a cause": lambda: inspector.preview(REDRIVE, Filter(fingerprint=cause)),
        "preview: a redrive of a type": lambda: inspector.preview(REDRIVE, Filter(types=(types[0],)), canary=3),
        "preview: a redrive of all": lambda: inspector.preview(REDRIVE, Filter()),
        "preview: a cancel of all": lambda: inspector.preview(BulkAction.CANCEL, Filter()),
        "preview: a delete of all": lambda: inspector.preview(BulkAction.DELETE, Filter()),
        "waits: all": inspector.waits,
        "waits: of a type": lambda: inspector.waits(type=types[0], limit=500),
        "waits: for no such signal": lambda: inspector.waits(signal="nobody"),
        "type_logs: an unknown type": lambda: _refused(lambda: inspector.type_logs("no:type")),
        "pauses:": inspector.pauses,
        "batching:": inspector.batching,
        "why_slow:": lambda: inspector.why_slow(types[0]),
        "why_slow: a type with limits": lambda: inspector.why_slow(LIMITED),
        "limits: a type": lambda: inspector.limits(LIMITED),
        "marks: a type": lambda: inspector.marks(PauseScope.TYPE, (types[0],), within=timedelta(days=30)),
        "marks: a tenant": lambda: inspector.marks(PauseScope.TENANT, ("tenant-0",), within=timedelta(days=30)),
        "graph:": lambda: inspector.graph(archived),
        **{
            f"chart: {of} by {by}, {days} days": partial(inspector.chart, of=of, by=by, within=timedelta(days=days))
            for of in (Measure.RUNS, Measure.WAIT)
            for by in Group
            for days in (1, 7, 30, 180)
        },
        "marks: queues": lambda: inspector.marks(PauseScope.QUEUE, tuple(Queue), within=timedelta(hours=4)),
        "limits: all": inspector.limits,
        "line:": lambda: _refused(lambda: inspector.line(types[0], "7")),
        "batches:": inspector.batches,
        "batch:": lambda: _refused(lambda: inspector.batch("unknown")),
        "schedules: the first page": lambda: inspector.schedules(limit=200),
        "schedules: a later page": lambda: inspector.schedules(after="tenant-099000", limit=200),
        "schedules: a tenant": lambda: inspector.schedules(tenant="tenant-77"),
        "schedules: a type": lambda: inspector.schedules(type=types[0], limit=200),
        "schedules: a type without any": lambda: inspector.schedules(type="no:type"),
        "schedules: a part of a name": lambda: inspector.schedules(text="019999"),
        "schedules: a part of no name": lambda: inspector.schedules(text="nobody"),
        "schedules: a problem": lambda: inspector.schedules(problem=True, limit=200),
        "schedules: of the code": lambda: inspector.schedules(origin="code", limit=200),
        "schedules: made at run time": lambda: inspector.schedules(origin="run_time", limit=200),
        "schedules: paused": lambda: inspector.schedules(paused=True, limit=200),
        "schedules: the most frequent": lambda: inspector.schedules(sort="ticks", limit=200),
        "schedules: the most frequent of a tenant": lambda: inspector.schedules(tenant="tenant-77", sort="ticks"),
        "schedule:": lambda: inspector.schedule("tenant-077777-nightly"),
        "schedule: an unknown name": lambda: _refused(lambda: inspector.schedule("tenant-07")),
        "tenants:": inspector.tenants,
        "tenants: by the share of failed runs": lambda: inspector.tenants(sort="share", limit=500),
        "tenant:": lambda: inspector.tenant("tenant-0"),
        "failures: 1 hour": inspector.failures,
        "failures: 4 hours": lambda: inspector.failures(minutes=240),
        "types:": inspector.types,
        "audit:": inspector.audit,
        "audit: of a person who did nothing": lambda: inspector.audit(who="nobody"),
        "audit: of an action": lambda: inspector.audit(action="pause", since=now - timedelta(days=7)),
        "audit: of a bulk action": lambda: inspector.audit(bulk="bulk-1"),
        "audit: of a task": lambda: inspector.audit(target=archived),
        "bulks:": inspector.bulks,
        "bulk_view:": lambda: _refused(lambda: inspector.bulk_view("bulk-1")),
    }
    for within_ in (timedelta(minutes=15), timedelta(hours=2), *(timedelta(days=days) for days in (1, 7, 30))):
        found |= {
            f"performance: a type, {within_}": _performance(inspector, PauseScope.TYPE, types[0], within_),
            f"performance: a tenant, {within_}": _performance(inspector, PauseScope.TENANT, "tenant-0", within_),
        }
        for by in ("type", "tenant"):
            found[f"statistics: by {by}, {within_}"] = _statistics(inspector, within_, by)
    for what, part in (*doctor_database.PARTS, *doctor.OF_WORK, *((f"trouble {what}", one) for what, one in PARTS)):
        found[f"doctor: {what}"] = lambda part=part: list(part(glance(scope)))  # type: ignore[misc]
    return found


def _performance(inspector: Inspector, kind: PauseScope, name: str, within_: timedelta) -> Callable[[], object]:
    return lambda: inspector.performance(kind, name, within=within_)


def _statistics(inspector: Inspector, within_: timedelta, by: str) -> Callable[[], object]:
    return lambda: inspector.statistics(within=within_, by=by)


def _refused(call: Callable[[], object]) -> None:
    """Call an operation whose answer may be a refusal: its statements count."""
    with suppress(JobError):
        call()
