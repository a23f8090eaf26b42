"""The database and the jobs, as the routes use them: one connection, made with the first request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from joblane import JobClient, settings
from joblane.record.database import Database
from joblane.sqs.client import Sqs

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@cache
def database() -> Database:
    return Database(settings.database_url(), prefix=settings.prefix())


@cache
def jobs() -> JobClient:
    return JobClient.within(database(), Sqs(), settings.prefix())


@contextmanager
def transaction() -> Iterator[Session]:
    """A session that commits when its block ends, and rolls back where it raises."""
    from sqlalchemy.orm import Session

    database().get()  # a connection that died since the last request is replaced
    with Session(database().engine) as session, session.begin():
        yield session
