"""The database and the job client of the routes. They share a connection, which the first request opens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from functions.api.access import Caller
from functions.api.tracing import headers_of
from joblane import JobClient, Payload, Task, settings
from joblane.client.client import client_within
from joblane.record.driver.database import Database
from joblane.record.driver.time_limits import CLIENT
from joblane.sqs.client import Sqs

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

P = TypeVar("P", bound=Payload)


@cache
def database() -> Database:
    return Database(settings.database_url(), prefix=settings.prefix(), limits=CLIENT)


@cache
def jobs() -> JobClient:
    return client_within(database(), Sqs(), settings.prefix())


@contextmanager
def transaction() -> Iterator[Session]:
    """A session that commits at the end of its block, and rolls back after an exception."""
    from sqlalchemy.orm import Session

    database().get()  # replaces a connection that was lost since the last request
    with Session(database().engine) as session, session.begin():
        yield session


def enqueue(  # noqa: PLR0917 - the parts of a request
    task: Task[P, Any], payload: P, session: Session, id_: UUID, caller: Caller, trace: str | None, **options: Any
) -> str:
    """Enqueue the task of a request with its id, in its transaction, owned by the caller. Return the task's id."""
    options |= {"task_id": str(id_), "owner": caller.user_id, "headers": headers_of(trace)}
    return jobs().enqueue(task, payload, session=session, **options).id
