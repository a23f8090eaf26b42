"""Tenants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, cast
from uuid import UUID

from sqlalchemy import CursorResult, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from saas.tables import tenants

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

Status = Literal["pending", "active", "suspended", "deleted"]


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant at the time of its reading. ``status`` is also ``deleted`` if only ``deleted_at`` is set."""

    id: UUID
    name: str
    slug: str
    status: Status
    metadata: Mapping[str, Any]
    created_at: datetime


def load(session: Session, tenant_id: UUID) -> Tenant | None:
    """Return the tenant with this id, also a deleted one, or None."""
    row = session.execute(select(tenants).where(tenants.c.id == tenant_id)).one_or_none()
    if row is None:
        return None
    status: Status = row.status if row.deleted_at is None else "deleted"
    return Tenant(row.id, row.name, row.slug, status, row.metadata, row.created_at)


def activate(session: Session, tenant_id: UUID) -> bool:
    """Activate a pending tenant. Return False if it is no longer pending."""
    statement = (
        update(tenants)
        .where(tenants.c.id == tenant_id, tenants.c.status == "pending", tenants.c.deleted_at.is_(None))
        .values(status="active", updated_at=func.now())
    )
    return cast("CursorResult[Any]", session.execute(statement)).rowcount == 1


def create(
    session: Session, tenant_id: UUID, *, name: str, slug: str, metadata: Mapping[str, Any], created_by: str
) -> bool:
    """Insert a pending tenant. Return False if the slug or the id exists already."""
    statement = (
        insert(tenants)
        .values(id=tenant_id, name=name, slug=slug, metadata=dict(metadata), created_by=created_by)
        .on_conflict_do_nothing()
        .returning(tenants.c.id)
    )
    return session.execute(statement).one_or_none() is not None


def created_today(session: Session, created_by: str, limit: int) -> int:
    """Return the number of tenants that a user has created in the last 24 hours, at most ``limit``."""
    made = select(tenants.c.id).where(
        tenants.c.created_by == created_by, tenants.c.created_at > func.now() - timedelta(days=1)
    )
    return session.execute(select(func.count()).select_from(made.limit(limit).subquery())).scalar_one()


def page_after(session: Session, after: UUID | None, size: int) -> list[Tenant]:
    """Return up to ``size`` tenants that are not deleted, in order of their ids."""
    statement = select(tenants).where(tenants.c.deleted_at.is_(None), tenants.c.status != "deleted")
    if after is not None:
        statement = statement.where(tenants.c.id > after)
    rows = session.execute(statement.order_by(tenants.c.id).limit(size))
    return [Tenant(row.id, row.name, row.slug, row.status, row.metadata, row.created_at) for row in rows]


# --- Removal -------------------------------------------------------------------------------------------------------


def long_deleted(session: Session, grace: timedelta, limit: int) -> list[UUID]:
    """Return the tenants that were soft-deleted more than ``grace`` ago, the oldest first."""
    statement = (
        select(tenants.c.id)
        .where(tenants.c.deleted_at < func.now() - grace)
        .order_by(tenants.c.deleted_at, tenants.c.id)
        .limit(limit)
    )
    return list(session.execute(statement).scalars())


def remove(session: Session, tenant_id: UUID, grace: timedelta) -> bool:
    """Delete a tenant with its roles, members and invitations. Return False if it has been restored."""
    statement = delete(tenants).where(tenants.c.id == tenant_id, tenants.c.deleted_at < func.now() - grace)
    return cast("CursorResult[Any]", session.execute(statement)).rowcount == 1
