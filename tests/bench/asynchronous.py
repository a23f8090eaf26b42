"""The cost of an asynchronous enqueue against that of a synchronous one, in turns, and the freedom of the event loop.

In a session, its begin and commit are part of the cost, and so is the send. The processor time is that of this process
with all its threads.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from functools import partial
from unittest import mock

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from joblane import Job, JobClient, settings
from joblane.names import lane_name
from joblane.sqs.client import Sqs
from tests.bench.enqueueing import Order, bench_order
from tests.bench.report import Ratio, median, rounds, within

ROUNDS, CALLS = 12, 50
AT_ONCE, LONGEST_MS = 1_000, 100.0
KINDS = {"asyncpg": "psycopg", "psycopg_async": "psycopg", "no session": "none"}
"""Kind of asynchronous enqueue → the synchronous one with which it is compared."""
MOST = {"asyncpg": 1.8, "psycopg_async": 2.0, "no session": 1.9}
"""The most of the synchronous enqueue's processor time. SQLAlchemy's own share of it is larger in an AsyncSession."""


def run() -> list[Ratio]:
    url = settings.database_url()
    jobs, payload = JobClient(), Order(tenant_id="acme", number=1)
    Sqs().client.create_queue(QueueName=lane_name("jobs", bench_order.queue, bench_order.type))
    plain = create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1))
    engines = {
        name: create_async_engine(url.replace("postgresql:", f"postgresql+{name}:", 1))
        for name in ("asyncpg", "psycopg_async")
    }

    async def in_session(kind: str) -> None:
        async with AsyncSession(engines[kind]) as session:
            await jobs.aenqueue(bench_order, payload, session=session)
            await session.commit()

    async def many() -> None:
        async with AsyncSession(engines["asyncpg"]) as session:
            await jobs.aenqueue_many([Job(bench_order, payload) for _ in range(AT_ONCE)], session=session)
            await session.commit()

    async def asynchronously(kind: str) -> None:
        for _ in range(CALLS):
            await (in_session(kind) if kind in engines else jobs.aenqueue(bench_order, payload))

    def synchronously(kind: str) -> None:
        for _ in range(CALLS):
            if kind == "none":
                jobs.enqueue(bench_order, payload)
                continue
            with Session(plain) as session:
                jobs.enqueue(bench_order, payload, session=session)
                session.commit()

    def measured(kind: str) -> float:
        started = time.process_time()
        runner.run(asynchronously(kind)) if kind in KINDS else synchronously(kind)
        return (time.process_time() - started) / CALLS

    with asyncio.Runner() as runner:
        times = rounds(ROUNDS, {kind: partial(measured, kind) for kind in ("psycopg", "none", *KINDS)}, warm=2)
        held = [
            within(
                f"{AT_ONCE:,} tasks at once {name}",
                "the longest time for which a callback has held the event loop, median of 5",
                runner.run(_longest_callback(call)) * 1000,
                LONGEST_MS,
                "ms",
            )
            for name, call in {
                "without a session": lambda: _at_once(lambda: jobs.aenqueue(bench_order, payload)),
                "in sessions": lambda: _at_once(lambda: in_session("asyncpg")),
                "by aenqueue_many in a session": many,
            }.items()
        ]
        for engine in engines.values():
            runner.run(engine.dispose())
    plain.dispose()
    jobs.close()
    return [
        Ratio(
            f"aenqueue, {kind}",
            f"{ROUNDS} rounds of {CALLS}, median of the client's processor time, against enqueue ({other})",
            f"{median(times[kind]) * 1e6:.0f} µs",
            f"{median(times[other]) * 1e6:.0f} µs",
            median(times[kind]) / median(times[other]),
            MOST[kind],
            at_most=True,
        )
        for kind, other in KINDS.items()
    ] + held


async def _at_once(call: Callable[[], Awaitable[object]]) -> None:
    await asyncio.gather(*(call() for _ in range(AT_ONCE)))


async def _longest_callback(call: Callable[[], Awaitable[object]]) -> float:
    """Return the longest time in seconds for which a callback has held the event loop, the median of some rounds."""
    gc.disable()  # a collection of the whole process may fall into a callback
    try:
        return median([await _longest(call) for _ in range(5)])
    finally:
        gc.enable()


async def _longest(call: Callable[[], Awaitable[object]]) -> float:
    longest, run = 0.0, asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        nonlocal longest
        started = time.perf_counter()
        run(handle)
        longest = max(longest, time.perf_counter() - started)

    with mock.patch.object(asyncio.Handle, "_run", timed):
        await call()
    return longest
