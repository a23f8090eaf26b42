"""Tenants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, cast
from uuid import UUID

from sqlalchemy import CursorResult, func, select, update

from shared.platform.tables import tenants

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

Status = Literal["pending", "active", "suspended", "deleted"]


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as it was when it was read. ``status`` is ``deleted`` also where only ``deleted_at`` is set."""

    id: UUID
    name: str
    slug: str
    status: Status
    metadata: Mapping[str, Any]
    created_at: datetime


def load(session: Session, tenant_id: UUID) -> Tenant | None:
    """The tenant of that id, deleted ones too."""
    row = session.execute(select(tenants).where(tenants.c.id == tenant_id)).one_or_none()
    if row is None:
        return None
    status: Status = row.status if row.deleted_at is None else "deleted"
    return Tenant(row.id, row.name, row.slug, status, row.metadata, row.created_at)


def activate(session: Session, tenant_id: UUID) -> bool:
    """Make a pending tenant active; False where it is not pending any more."""
    statement = (
        update(tenants)
        .where(tenants.c.id == tenant_id, tenants.c.status == "pending", tenants.c.deleted_at.is_(None))
        .values(status="active", updated_at=func.now())
    )
    return cast("CursorResult[Any]", session.execute(statement)).rowcount == 1
