"""E-mail addresses of users. The identity provider stores the users themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, literal, select, union_all
from sqlalchemy.dialects.postgresql import insert

from saas.tables import system_users, user_addresses

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def address_of(session: Session, user_id: str) -> str | None:
    """Return the address of a user or system user, or None if it is unknown."""
    known = union_all(
        select(user_addresses.c.email, literal(1).label("rank")).where(user_addresses.c.user_id == user_id),
        select(system_users.c.email, literal(2)).where(system_users.c.user_id == user_id),
    ).subquery()
    return session.execute(select(known.c.email).order_by(known.c.rank).limit(1)).scalar_one_or_none()


def remember_address(session: Session, user_id: str, email: str) -> None:
    """Store the current address of a user from the identity provider."""
    statement = insert(user_addresses).values(user_id=user_id, email=email)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["user_id"],
            set_={"email": statement.excluded.email, "updated_at": func.now()},
            where=user_addresses.c.email != statement.excluded.email,
        )
    )
