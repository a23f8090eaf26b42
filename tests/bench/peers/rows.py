"""The rows of business data, by SQLAlchemy and psycopg: for systems that leave the database to the application."""

from __future__ import annotations

import os
from functools import cache

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

ORDER = text("insert into orders (number) values (:number)")
EFFECT = text("insert into effects (number) values (:number)")


@cache
def engine() -> Engine:
    """Return the engine of this process, for its first use after a fork."""
    return create_engine(_url())


@cache
def async_engine() -> AsyncEngine:
    return create_async_engine(_url())


def _url() -> str:
    return os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)
