"""procrastinate: jobs in a table of PostgreSQL, run by an asyncio process.

A task cannot complete its job in the transaction of its own writes: the documentation has no such call. So an effect is
committed before its job is recorded as done.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import cache
from typing import Any

from procrastinate import App, JobContext, PsycopgConnector, RetryStrategy
from psycopg_pool import AsyncConnectionPool

from tests.bench.peers import kills, program

app = App(connector=PsycopgConnector(conninfo=os.environ.get("DATABASE_URL", "")))
RETRY = RetryStrategy(max_attempts=20, linear_wait=3)


@cache
def pool() -> AsyncConnectionPool:
    """The connections for the tasks' own writes."""
    url = os.environ["DATABASE_URL"]
    return AsyncConnectionPool(url, max_size=10, check=AsyncConnectionPool.check_connection, open=False)


async def write(fate: kills.Fate) -> None:
    await pool().open()
    async with pool().connection() as connection:
        await connection.execute("insert into effects (number) values (%s)", (fate.number,))
        fate.before_commit()


@app.task(name="noop")  # type: ignore[untyped-decorator]
async def noop(number: int) -> None:
    program.ran()


@app.task(name="effect", retry=RETRY)  # type: ignore[untyped-decorator]
async def effect(number: int) -> None:
    fate = kills.Fate(number)
    fate.before_write()
    await write(fate)
    fate.after_return()


@app.task(name="long", retry=RETRY)  # type: ignore[untyped-decorator]
async def long(number: int) -> None:
    fate = kills.Fate(number)
    await asyncio.sleep(kills.long_seconds())
    await write(fate)


@app.periodic(cron=f"* * * * * */{program.check_seconds()}")  # type: ignore[untyped-decorator]
@app.task(name="retry_stalled_jobs", queueing_lock="retry_stalled_jobs", pass_context=True)  # type: ignore[untyped-decorator]
async def retry_stalled_jobs(_context: JobContext, timestamp: int) -> None:
    for stalled in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=program.rescue_seconds()):
        await app.job_manager.retry_job(stalled)


JOBS: dict[str, Any] = {"noop": noop, "effect": effect, "long": long}


def describe() -> dict[str, Any]:
    return {
        "packages": ("procrastinate",),
        "record": True,
        "settings": {
            "procrastinate worker": "Launch a worker",
            f"retry_stalled_jobs each {program.check_seconds()} s, for workers without a heartbeat for "
            f"{program.rescue_seconds()} s; the page has each 10 minutes, and 30 s": "Retry stalled jobs",
            "RetryStrategy(max_attempts=20, linear_wait=3); the default is no retry": "Define a retry strategy",
        },
        "notes": {
            "many": "`batch_defer_async`",
            "transaction": "`configure(connection=…).defer_async`",
            "effect": "a transaction of its own; no completion in the job's transaction is documented",
        },
        "unfinished": "select count(*) from procrastinate_jobs"
        " where status in ('todo', 'doing') and task_name <> 'retry_stalled_jobs'",
    }


async def install() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


def worker(concurrency: int) -> list[str]:
    options = ["--log-level=warning", "--app=tests.bench.peers.procrastinate_program.app"]
    # as a module, because the script does not search the current folder
    return [sys.executable, "-m", "procrastinate", *options, "worker", f"--concurrency={concurrency}"]


class Producer:
    async def open(self) -> None:
        await app.open_async()
        self._connections = AsyncConnectionPool(os.environ["DATABASE_URL"], min_size=1, open=False)
        await self._connections.open()

    async def close(self) -> None:
        await self._connections.close()
        await app.close_async()

    async def one(self, name: str, first: int, count: int) -> None:
        for number in range(first, first + count):
            await JOBS[name].defer_async(number=number)

    async def many(self, name: str, first: int, count: int) -> None:
        await JOBS[name].batch_defer_async(*({"number": number} for number in range(first, first + count)))

    async def transaction(self, name: str, first: int, count: int) -> None:
        for number in range(first, first + count):
            async with self._connections.connection() as connection:
                await connection.execute("insert into orders (number) values (%s)", (number,))
                await JOBS[name].configure(connection=connection).defer_async(number=number)

    async def rows(self, _job: str, first: int, count: int) -> None:
        for number in range(first, first + count):
            async with self._connections.connection() as connection:
                await connection.execute("insert into orders (number) values (%s)", (number,))


if __name__ == "__main__":
    program.main("tests.bench.peers.procrastinate_program")
