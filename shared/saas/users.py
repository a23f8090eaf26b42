"""Users' addresses. The users themselves are kept by the identity provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, literal, select, union_all
from sqlalchemy.dialects.postgresql import insert

from saas.tables import system_users, user_addresses

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def address_of(session: Session, user_id: str) -> str | None:
    """Where to write to a user, system users included; None where nobody knows."""
    known = union_all(
        select(user_addresses.c.email, literal(1).label("rank")).where(user_addresses.c.user_id == user_id),
        select(system_users.c.email, literal(2)).where(system_users.c.user_id == user_id),
    ).subquery()
    return session.execute(select(known.c.email).order_by(known.c.rank).limit(1)).scalar_one_or_none()


def remember_address(session: Session, user_id: str, email: str) -> None:
    """Keep where a user may be written to, as the identity provider has it now."""
    statement = insert(user_addresses).values(user_id=user_id, email=email)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["user_id"],
            set_={"email": statement.excluded.email, "updated_at": func.now()},
            where=user_addresses.c.email != statement.excluded.email,
        )
    )
