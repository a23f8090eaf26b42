"""A million tasks that wait for signals, far from due, each with a signal for another name. And a poll of a day.

The lives of tasks next to them are compared with those in an empty database, in turns. A wait's life is an enqueue, a
run that stops, a signal with its wake-up, and the run that continues. The buffers of each statement are those of its
generic plan, with the bounds of ``test_growth``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from functools import partial

from joblane import Payload, State, TaskContext, task
from joblane.inspector.filter import Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.local.postgres import Postgres
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.sweep.sweep import sweep
from joblane.testing import JobTester
from tests.bench import backends
from tests.bench.quiet import silent
from tests.bench.record import PREFIX, Accepting, Record, Work, bench_record, clones
from tests.bench.report import Ratio, median, rounds, within
from tests.integration.record.test_growth import MEASURED, Costs, fill_with_given

WAITING = 1_000_000
ROUNDS, TASKS = 9, 200
BOUND = 1.15
LISTING_MS = 80
"""As in ``inspecting``."""
MINUTES = 24 * 60
TASK_ROWS = """
insert into joblane.tasks (id, type, queue, tenant, state, payload, payload_digest, max_attempts, retention_seconds,
                           attempts, runs, created_at, due_at, sweep_at)
select 'waits-' || n, 'bench:waiting', 'default', 'tenant-' || n % 500, 'scheduled', '{}', '', 4, 604800, 0, 1,
       now() - n * interval '1 s', d, d - interval '15 min'
  from generate_series(1, $1::int) n, lateral (select now() + interval '1 day' + n * interval '1 s') as x(d)
"""
WAIT_ROWS = """
insert into joblane.task_waits (task_id, name, signal, until, run)
select 'waits-' || n, 'go', 'go', now() + interval '1 day' + n * interval '1 s', 1
  from generate_series(1, $1::int) n
"""
SIGNAL_ROWS = """
insert into joblane.task_signals (task_id, name, value, heard)
select 'waits-' || n, 'another', '{"yes": true}', true from generate_series(1, $1::int) n
"""
ROWS = ((TASK_ROWS,), (WAIT_ROWS, SIGNAL_ROWS))
STATEMENTS = (
    "claim of an ordinary task", "finish of an ordinary task", "conflicts of an insert", "stop", "signal", "wake-up",
    "history of a run", "signal of a wait", "expiry",
)  # fmt: skip


@task("bench:waiting", timeout=timedelta(seconds=10))
def bench_waiting(payload: Work, ctx: TaskContext) -> None:
    ctx.wait("go", timeout=timedelta(days=30))


class Nothing(Payload):
    pass


@task("bench:poll", timeout=timedelta(seconds=10))
def bench_poll(payload: Nothing, ctx: TaskContext) -> None:
    ctx.poll("never", lambda: None, every=timedelta(minutes=1), timeout=timedelta(days=1), default=None)


def run(server: Postgres) -> Iterator[Ratio]:
    with clones(server, 2) as urls, ExitStack() as stack:
        few, many = urls
        database = stack.enter_context(Database(many))
        yield _filled(database.get())
        tasks = {bench_waiting.type: bench_waiting}
        yield from _listings(database.get(), Inspector(Scope(database, Accepting(), PREFIX, tasks, "bench")))
        for name, task_, live in (
            ("an ordinary task", bench_record, lambda record: record.live(TASKS, 1) * TASKS),
            ("a task that waits", bench_waiting, _wait),
        ):
            records = {url: stack.enter_context(Record(url, task_)) for url in (many, few)}
            spent = rounds(ROUNDS, {url: partial(live, record) for url, record in records.items()}, warm=2)
            yield _compared(
                f"life of {name}, CPU of PostgreSQL",
                f"{WAITING:,} waiting tasks against none, medians of {ROUNDS} rounds of {TASKS} in turns, per task",
                *(median(spent[url]) / TASKS * 1000 for url in (many, few)),
            )
        yield from _buffers(database.get())
    yield _poll(server)


def _filled(connection: Connection) -> Ratio:
    """Write the tasks, and then their waits and signals. Compare a sweep after that with one before."""
    connection.limit(None)
    found = []
    for statements in ROWS:
        for statement in statements:
            connection.run(statement, str(WAITING))
        connection.execute_simple("vacuum analyze joblane.tasks, joblane.task_waits, joblane.task_signals")
        found.append(
            median([_cpu(connection, lambda: sweep(connection, Accepting(), PREFIX)) for _ in range(1 + ROUNDS)][1:])
        )
    before, after = found
    return _compared(
        "a sweep, CPU of PostgreSQL", f"{WAITING:,} scheduled tasks, with waits against without", after, before
    )


def _compared(name: str, setting: str, ours: float, bare: float) -> Ratio:
    return Ratio(name, setting, f"{ours:.2f} ms", f"{bare:.2f} ms", ours / bare, BOUND, at_most=True)


def _wait(record: Record) -> float:
    def lives() -> None:
        bodies = record.enqueue(TASKS, 1)
        record.deliver(bodies, 1)
        record.deliver(record.signal(bodies, "go"), 1)

    return backends.of(record.pid, lives)


def _cpu(connection: Connection, work: Callable[[], object]) -> float:
    return backends.of(backends.pid_of(connection), work) * 1000


def _listings(connection: Connection, inspector: Inspector) -> Iterator[Ratio]:
    scheduled, of_type = Filter(states=(State.SCHEDULED,)), Filter(types=(bench_waiting.type,))
    calls: dict[str, Callable[[], object]] = {
        "all": lambda: inspector.tasks(Filter()),
        "scheduled": lambda: inspector.tasks(scheduled),
        "scheduled, of a type": lambda: inspector.tasks(Filter(states=scheduled.states, types=of_type.types)),
        "a rare state": lambda: inspector.tasks(Filter(states=(State.ARCHIVED,))),
        "of a tenant": lambda: inspector.tasks(Filter(tenant="tenant-3")),
        "count": lambda: inspector.count(scheduled),
        "a waiting task": lambda: inspector.task("waits-1"),
        "overview": inspector.overview,
    }
    found = {name: median([_cpu(connection, call) for _ in range(ROUNDS)]) for name, call in calls.items()}
    texts = ", ".join(f"{name} {ms:.1f}" for name, ms in found.items())
    yield within(
        "listings, CPU of PostgreSQL",
        f"next to {WAITING:,} waiting tasks: {texts}",
        max(found.values()),
        LISTING_MS,
        "ms",
    )


def _buffers(connection: Connection) -> Iterator[Ratio]:
    fill_with_given(connection)
    connection.execute_simple("set plan_cache_mode = force_generic_plan")
    for name in STATEMENTS:
        sql, parameters, most = MEASURED[name]
        costs = Costs(connection, name, sql, parameters)
        yield within(
            f"{name}, generic plan", f"next to {WAITING:,} waiting tasks, {costs!r}", costs.buffers, most, "buffers"
        )


def _poll(server: Postgres) -> Ratio:
    """A poll each minute for a day, in the time of the test kit."""
    with clones(server) as [url], JobTester(url) as jobs, silent():
        jobs.enqueue(bench_poll, Nothing(), task_id="it")
        jobs.drain(within=timedelta(days=1, hours=1), limit=2 * MINUTES).check()
        found = jobs.task("it")
        assert (found.state, found.attempts, jobs.dead_letters(bench_poll)) == (State.COMPLETED, 1, []), found
    return Ratio(
        "a poll of a day, each minute", "looks, without an attempt or a dead letter; the difference is at most 2",
        f"{found.runs:,}", f"{MINUTES:,}", abs(found.runs - MINUTES), 2, at_most=True,
    )  # fmt: skip
