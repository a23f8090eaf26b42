"""oban: jobs in a table of PostgreSQL, run by an asyncio process.

A worker cannot complete its job in the transaction of its own writes: the documentation has no such call. So an effect
is committed before its job is acknowledged.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from oban import Oban, job
from oban.schema import install as install_schema

from tests.bench.peers import program
from tests.bench.peers.rows import PoolProducer, async_jobs, pool, write_with_pool

JOBS: dict[str, Any] = {name: job()(function) for name, function in async_jobs(write_with_pool).items()}


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
    await pool().open()
    await install_schema(pool())
    await pool().close()


def worker(concurrency: int) -> list[str]:
    """Return the command of the worker. The options of the lifeline are in a file: the command line has none."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml", dir=Path.home(), delete=False) as file:
        file.write(f"[lifeline]\ninterval = {program.check_seconds()}\nrescue_after = {program.rescue_seconds()}\n")
    options = ["--queues", f"default:{concurrency}", "--cron-modules", "tests.bench.peers.oban_program"]
    options += ["--log-level", "WARNING"]
    # as a module, because the script does not search the current folder
    return [sys.executable, "-m", "oban", "start", "--config", file.name, "--dsn", os.environ["DATABASE_URL"], *options]


class Producer(PoolProducer):
    async def open(self) -> None:
        self.connections = await Oban.create_pool(os.environ["DATABASE_URL"])
        self._oban = Oban(pool=self.connections)

    async def one(self, name: str, number: int, _count: int) -> None:
        await self._oban.enqueue(JOBS[name].new(number))

    async def many(self, name: str, first: int, count: int) -> None:
        await self._oban.enqueue_many(JOBS[name].new(number) for number in range(first, first + count))

    async def within(self, connection: Any, name: str, number: int) -> None:
        await self._oban.enqueue(JOBS[name].new(number), conn=connection)


if __name__ == "__main__":
    program.main("tests.bench.peers.oban_program")
