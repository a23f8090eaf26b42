"""Locks that last until the end of a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def hold(session: Session, *names: str) -> None:
    """Wait until no other transaction holds one of the names, and hold them."""
    for name in sorted(names):
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))
