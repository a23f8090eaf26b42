"""procrastinate: jobs in a table of PostgreSQL, run by an asyncio process.

A task cannot complete its job in the transaction of its own writes: the documentation has no such call. So an effect is
committed before its job is recorded as done.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from procrastinate import App, JobContext, PsycopgConnector, RetryStrategy
from psycopg_pool import AsyncConnectionPool

from tests.bench.peers import program
from tests.bench.peers.rows import PoolProducer, async_jobs, write_with_pool

app = App(connector=PsycopgConnector(conninfo=os.environ.get("DATABASE_URL", "")))
RETRY = RetryStrategy(max_attempts=20, linear_wait=3)


JOBS: dict[str, Any] = {
    name: app.task(name=name, **({} if name == "noop" else {"retry": RETRY}))(job)
    for name, job in async_jobs(write_with_pool).items()
}


@app.periodic(cron=f"* * * * * */{program.check_seconds()}")  # type: ignore[untyped-decorator]
@app.task(name="retry_stalled_jobs", queueing_lock="retry_stalled_jobs", pass_context=True)  # type: ignore[untyped-decorator]
async def retry_stalled_jobs(_context: JobContext, timestamp: int) -> None:
    for stalled in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=program.rescue_seconds()):
        await app.job_manager.retry_job(stalled)


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


class Producer(PoolProducer):
    async def open(self) -> None:
        await app.open_async()
        self.connections = AsyncConnectionPool(os.environ["DATABASE_URL"], min_size=1, open=False)
        await self.connections.open()

    async def close(self) -> None:
        await super().close()
        await app.close_async()

    async def one(self, name: str, number: int, _count: int) -> None:
        await JOBS[name].defer_async(number=number)

    async def many(self, name: str, first: int, count: int) -> None:
        await JOBS[name].batch_defer_async(*({"number": number} for number in range(first, first + count)))

    async def within(self, connection: Any, name: str, number: int) -> None:
        await JOBS[name].configure(connection=connection).defer_async(number=number)


if __name__ == "__main__":
    program.main("tests.bench.peers.procrastinate_program")
