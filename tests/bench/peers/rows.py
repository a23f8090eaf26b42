"""The rows of business data, by SQLAlchemy and psycopg: for systems that leave the database to the application."""

from __future__ import annotations

import os
from functools import cache

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from tests.bench.peers import kills

ORDER = text("insert into orders (number) values (:number)")
EFFECT = text("insert into effects (number) values (:number)")


@cache
def engine() -> Engine:
    """Return the engine of this process, for its first use after a fork."""
    return create_engine(_url(), pool_pre_ping=True)


@cache
def async_engine() -> AsyncEngine:
    return create_async_engine(_url(), pool_pre_ping=True)


def write(fate: kills.Fate) -> None:
    """Write the effect of a job, and commit it."""
    fate.before_write()
    with Session(engine()) as session, session.begin():
        session.execute(EFFECT, {"number": fate.number})
        fate.before_commit()
    fate.after_return()


async def write_async(fate: kills.Fate) -> None:
    """Like :func:`write`, for an async job."""
    fate.before_write()
    async with AsyncSession(async_engine()) as session, session.begin():
        await session.execute(EFFECT, {"number": fate.number})
        fate.before_commit()
    fate.after_return()


def _url() -> str:
    return os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)
