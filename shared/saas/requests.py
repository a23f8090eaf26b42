"""Stored answers to requests, by idempotency key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from sqlalchemy import CursorResult, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from saas.tables import api_requests

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

KEPT = timedelta(days=7)
"""Time for which a request with the same key gets the same answer."""


@dataclass(frozen=True, slots=True)
class Known:
    """A request that was answered before. ``fingerprint``: digest of its body."""

    fingerprint: str
    answer: Mapping[str, Any]


def begin(session: Session, request_id: UUID, fingerprint: str) -> Known | None:
    """Begin the request, or return the stored answer to it.

    If another transaction has begun the request, this waits for its end, so that a request that is sent twice at once
    is executed once.
    """
    statement = insert(api_requests).values(id=request_id, fingerprint=fingerprint)
    taken = session.execute(statement.on_conflict_do_nothing().returning(api_requests.c.id)).one_or_none()
    if taken is not None:
        return None
    row = session.execute(
        select(api_requests.c.fingerprint, api_requests.c.answer).where(api_requests.c.id == request_id)
    ).one()
    return Known(row.fingerprint, row.answer)


def keep(session: Session, request_id: UUID, answer: Mapping[str, Any]) -> None:
    """Store the answer, in the transaction of the request."""
    session.execute(update(api_requests).where(api_requests.c.id == request_id).values(answer=dict(answer)))


def forget(session: Session) -> int:
    """Remove requests older than ``KEPT``, and return their number."""
    statement = delete(api_requests).where(api_requests.c.created_at < func.now() - KEPT)
    return cast("CursorResult[Any]", session.execute(statement)).rowcount
