"""oban: jobs in a table of PostgreSQL, run by an asyncio process.

A worker cannot complete its job in the transaction of its own writes: the documentation has no such call. So an effect
is committed before its job is acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from oban import Oban, job
from oban.schema import install as install_schema
from psycopg_pool import AsyncConnectionPool

from tests.bench.peers import kills, program


@cache
def pool() -> AsyncConnectionPool:
    """The connections for the jobs' own writes."""
    url = os.environ["DATABASE_URL"]
    return AsyncConnectionPool(url, max_size=10, check=AsyncConnectionPool.check_connection, open=False)


async def write(fate: kills.Fate) -> None:
    await pool().open()
    async with pool().connection() as connection:
        await connection.execute("insert into effects (number) values (%s)", (fate.number,))
        fate.before_commit()


@job()  # type: ignore[untyped-decorator]
async def noop(number: int) -> None:
    program.ran()


@job()  # type: ignore[untyped-decorator]
async def effect(number: int) -> None:
    fate = kills.Fate(number)
    fate.before_write()
    await write(fate)
    fate.after_return()


@job()  # type: ignore[untyped-decorator]
async def long(number: int) -> None:
    fate = kills.Fate(number)
    await asyncio.sleep(kills.long_seconds())
    await write(fate)


JOBS: dict[str, Any] = {"noop": noop, "effect": effect, "long": long}


def describe() -> dict[str, Any]:
    return {
        "packages": ("oban",),
        "record": True,
        "settings": {
            "oban start": "Ready for Production",
            f"lifeline with interval {program.check_seconds()} s and rescue_after {program.rescue_seconds()} s; "
            "the defaults are 60 s and 300 s": "API reference, “Oban”",
            "max_attempts 20, the default": "Writing Jobs",
        },
        "notes": {
            "many": "`enqueue_many`",
            "transaction": "`enqueue(…, conn=connection)`",
            "effect": "a transaction of its own; no completion in the job's transaction is documented",
        },
        "unfinished": "select count(*) from oban_jobs where state not in ('completed', 'discarded', 'cancelled')",
    }


async def install() -> None:
    async with AsyncConnectionPool(os.environ["DATABASE_URL"], open=False) as connections:
        await install_schema(connections)


def worker(concurrency: int) -> list[str]:
    """Return the command of the worker. The options of the lifeline are in a file: the command line has none."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml", dir=Path.home(), delete=False) as file:
        file.write(f"[lifeline]\ninterval = {program.check_seconds()}\nrescue_after = {program.rescue_seconds()}\n")
    options = ["--queues", f"default:{concurrency}", "--cron-modules", "tests.bench.peers.oban_program"]
    options += ["--log-level", "WARNING"]
    # as a module, because the script does not search the current folder
    return [sys.executable, "-m", "oban", "start", "--config", file.name, "--dsn", os.environ["DATABASE_URL"], *options]


class Producer:
    async def open(self) -> None:
        self._connections = await Oban.create_pool(os.environ["DATABASE_URL"])
        self._oban = Oban(pool=self._connections)

    async def close(self) -> None:
        await self._connections.close()

    async def one(self, name: str, first: int, count: int) -> None:
        for number in range(first, first + count):
            await self._oban.enqueue(JOBS[name].new(number))

    async def many(self, name: str, first: int, count: int) -> None:
        await self._oban.enqueue_many(JOBS[name].new(number) for number in range(first, first + count))

    async def transaction(self, name: str, first: int, count: int) -> None:
        for number in range(first, first + count):
            async with self._connections.connection() as connection:
                await connection.execute("insert into orders (number) values (%s)", (number,))
                await self._oban.enqueue(JOBS[name].new(number), conn=connection)

    async def rows(self, _job: str, first: int, count: int) -> None:
        for number in range(first, first + count):
            async with self._connections.connection() as connection:
                await connection.execute("insert into orders (number) values (%s)", (number,))


if __name__ == "__main__":
    program.main("tests.bench.peers.oban_program")
