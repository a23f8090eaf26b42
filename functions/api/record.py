"""The database and the jobs, as the routes use them: one connection, made with the first request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from functions.api.access import Caller
from functions.api.tracing import headers_of
from joblane import JobClient, Payload, Task, settings
from joblane.record.database import Database
from joblane.sqs.client import Sqs

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

P = TypeVar("P", bound=Payload)


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


def enqueue(  # noqa: PLR0917 - as a request has them
    task: Task[P, Any], payload: P, session: Session, id_: UUID, caller: Caller, trace: str | None, **options: Any
) -> str:
    """Enqueue the task of what a request makes: under its id, in its transaction, owned by the caller. Its id."""
    options |= {"task_id": str(id_), "owner": caller.user_id, "headers": headers_of(trace)}
    return jobs().enqueue(task, payload, session=session, **options).id
