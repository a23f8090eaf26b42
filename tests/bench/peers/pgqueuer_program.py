"""pgqueuer: jobs in a table of PostgreSQL, run by an asyncio process.

An entrypoint cannot complete its job in the transaction of its own writes: delivery is at least once by design, and
entrypoints must be idempotent (ADR-0004 of its documentation). So an effect is committed before its job is logged.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pgqueuer
from pgqueuer import AsyncpgDriver, AsyncpgPoolDriver, Job, PgQueuer, Queries
from pgqueuer.executors import DatabaseRetryEntrypointExecutor

from tests.bench.peers import kills, program
from tests.bench.peers.rows import async_jobs


def number_of(job: Job) -> int:
    number: int = json.loads(job.payload or b"{}")["number"]
    return number


def retried(parameters: Any) -> DatabaseRetryEntrypointExecutor:
    return DatabaseRetryEntrypointExecutor(parameters, max_attempts=20, max_delay=timedelta(seconds=60))


@asynccontextmanager
async def workers() -> AsyncIterator[PgQueuer]:
    """The factory that ``pgq run`` calls."""
    url = os.environ["DATABASE_URL"]
    connection, pool = await asyncpg.connect(url), await asyncpg.create_pool(url, min_size=1)
    queue = PgQueuer(AsyncpgDriver(connection))

    async def write(fate: kills.Fate) -> None:
        async with pool.acquire() as own, own.transaction():
            await own.execute("insert into effects (number) values ($1)", fate.number)
            fate.before_commit()

    jobs = async_jobs(write)

    @queue.entrypoint("noop")  # type: ignore[untyped-decorator]
    async def noop(job: Job) -> None:
        program.ran()

    @queue.entrypoint("effect", executor_factory=retried)  # type: ignore[untyped-decorator]
    async def effect(job: Job) -> None:
        await jobs["effect"](number_of(job))

    @queue.entrypoint("long", executor_factory=retried)  # type: ignore[untyped-decorator]
    async def long(job: Job) -> None:
        await jobs["long"](number_of(job))

    yield queue
    await pool.close()
    await connection.close()


def describe() -> dict[str, Any]:
    return {
        "packages": ("pgqueuer", "asyncpg"),
        "record": True,
        "settings": {
            "shutdown_on_listener_failure, restarted by a supervisor": "Deployment Patterns",
            "pgqueuer.run in place of `pgq run`, which fails with this typer": "Running PgQueuer Programmatically",
            f"heartbeat_timeout {program.rescue_seconds()} s; the default is 30 s": "Performance Tuning",
            "pgq autovac; a single connection of asyncpg in a worker, a pool in a producer": "Performance Tuning",
            "batch_size half of max_concurrent_tasks, at most 10": "Performance Tuning",
            "DatabaseRetryEntrypointExecutor, 20 attempts and at most 60 s, in place of 5": "Database-Level Retry",
        },
        "notes": {
            "many": "`enqueue` with lists",
            "transaction": "`enqueue` on the caller's connection",
            "effect": "a transaction of its own; “delivery is at least once” (ADR-0004)",
        },
        "unfinished": "select count(*) from pgqueuer where status in ('queued', 'picked')",
    }


async def install() -> None:
    queries = Queries(AsyncpgDriver(await asyncpg.connect(os.environ["DATABASE_URL"])))
    await queries.install()
    await queries.optimize_autovacuum()


def serve(concurrency: int) -> None:
    """Run jobs until the process is stopped, as ``pgq run`` does."""
    asyncio.run(
        pgqueuer.run(
            workers,
            batch_size=min(10, concurrency // 2),
            max_concurrent_tasks=concurrency,
            heartbeat_timeout=timedelta(seconds=program.rescue_seconds()),
            shutdown_on_listener_failure=True,
        )
    )


def worker(concurrency: int) -> list[str]:
    return [sys.executable, "-m", "tests.bench.peers.pgqueuer_program", "serve", str(concurrency)]


def payload(number: int) -> bytes:
    return json.dumps({"number": number}).encode()


class Producer:
    async def open(self) -> None:
        self._pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1)

    async def close(self) -> None:
        await self._pool.close()

    async def one(self, name: str, number: int, _count: int) -> None:
        await Queries(AsyncpgPoolDriver(self._pool)).enqueue(name, payload(number))

    async def many(self, name: str, first: int, count: int) -> None:
        payloads: list[bytes | None] = [payload(number) for number in range(first, first + count)]
        await Queries(AsyncpgPoolDriver(self._pool)).enqueue([name] * count, payloads, [0] * count)

    async def transaction(self, name: str, number: int, _count: int) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("insert into orders (number) values ($1)", number)
            await Queries(AsyncpgDriver(connection)).enqueue(name, payload(number))

    async def rows(self, _job: str, number: int, _count: int) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("insert into orders (number) values ($1)", number)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        program.main("tests.bench.peers.pgqueuer_program")
