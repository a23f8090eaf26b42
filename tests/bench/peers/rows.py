"""The jobs and the rows of business data, for systems that leave the database to the application.

The synchronous systems use SQLAlchemy and psycopg. The asynchronous ones use an engine of SQLAlchemy or a pool of
psycopg.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from psycopg_pool import AsyncConnectionPool
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from tests.bench.peers import kills, program

ORDER = text("insert into orders (number) values (:number)")
EFFECT = text("insert into effects (number) values (:number)")
Jobs = dict[str, Callable[[int], Any]]


@cache
def engine() -> Engine:
    """Return the engine of this process, for its first use after a fork."""
    return create_engine(_url(), pool_pre_ping=True)


@cache
def async_engine() -> AsyncEngine:
    return create_async_engine(_url(), pool_pre_ping=True)


@cache
def pool() -> AsyncConnectionPool:
    """Return the connections of this process. They are opened by the first use."""
    url = os.environ["DATABASE_URL"]
    return AsyncConnectionPool(url, max_size=10, check=AsyncConnectionPool.check_connection, open=False)


def _url() -> str:
    return os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)


# --- Jobs -------------------------------------------------------------------------------------------------------------


def noop(number: int) -> None:
    program.ran()


def effect(number: int) -> None:
    """Write the effect of a job, and commit it."""
    fate = kills.Fate(number)
    fate.before_write()
    with Session(engine()) as session, session.begin():
        session.execute(EFFECT, {"number": number})
        fate.before_commit()
    fate.after_return()


def long(number: int) -> None:
    time.sleep(kills.long_seconds())
    effect(number)


JOBS: Jobs = {"noop": noop, "effect": effect, "long": long}


def async_jobs(write: Callable[[kills.Fate], Awaitable[None]]) -> Jobs:
    """Return the jobs. ``write``: writes the effect of a job, and commits it."""

    async def noop(number: int) -> None:
        program.ran()

    async def effect(number: int) -> None:
        fate = kills.Fate(number)
        fate.before_write()
        await write(fate)
        fate.after_return()

    async def long(number: int) -> None:
        await asyncio.sleep(kills.long_seconds())
        await effect(number)

    return {"noop": noop, "effect": effect, "long": long}


async def write_with_engine(fate: kills.Fate) -> None:
    async with AsyncSession(async_engine()) as session, session.begin():
        await session.execute(EFFECT, {"number": fate.number})
        fate.before_commit()


async def write_with_pool(fate: kills.Fate) -> None:
    await pool().open()
    async with pool().connection() as connection:
        await connection.execute("insert into effects (number) values (%s)", (fate.number,))
        fate.before_commit()


# --- Producers --------------------------------------------------------------------------------------------------------


class Producer:
    """The rows of a producer. A job follows its transaction."""

    def one(self, job: str, number: int, _count: int) -> None:
        raise NotImplementedError

    def transaction(self, job: str, number: int, _count: int) -> None:
        self.rows(job, number, 1)
        self.one(job, number, 1)

    def rows(self, _job: str, number: int, _count: int) -> None:
        with Session(engine()) as session, session.begin():
            session.execute(ORDER, {"number": number})


class PoolProducer:
    """The rows of a producer that enqueues in the transaction of its caller."""

    connections: AsyncConnectionPool

    async def close(self) -> None:
        await self.connections.close()

    async def rows(self, _job: str, number: int, _count: int) -> None:
        async with self.connections.connection() as connection:
            await connection.execute("insert into orders (number) values (%s)", (number,))

    async def transaction(self, job: str, number: int, _count: int) -> None:
        async with self.connections.connection() as connection:
            await connection.execute("insert into orders (number) values (%s)", (number,))
            await self.within(connection, job, number)

    async def within(self, connection: Any, job: str, number: int) -> None:
        """Enqueue a job in the transaction of a connection."""
        raise NotImplementedError
