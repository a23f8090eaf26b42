"""Requests that may come again: what was answered to one under the same key."""

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
"""How long a request under the same key is answered alike."""


@dataclass(frozen=True, slots=True)
class Known:
    """A request that was answered before. ``fingerprint``: of what it asked for."""

    fingerprint: str
    answer: Mapping[str, Any]


def begin(session: Session, request_id: UUID, fingerprint: str) -> Known | None:
    """Take the request on, or return what was answered to it.

    Where another transaction has taken it on and is not done, this waits for its end: the same request sent twice at
    once is done once.
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
    """Remember the answer, in the transaction that did the work."""
    session.execute(update(api_requests).where(api_requests.c.id == request_id).values(answer=dict(answer)))


def forget(session: Session) -> int:
    """Remove what is older than ``KEPT``; how many there were."""
    statement = delete(api_requests).where(api_requests.c.created_at < func.now() - KEPT)
    return cast("CursorResult[Any]", session.execute(statement)).rowcount
