"""System users: accounts of programs, with an expiry."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from sqlalchemy import CursorResult, func, or_, select, update

from saas.mail import Mail, one_line
from saas.tables import system_users
from saas.users import address_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

STALE_WARNING = timedelta(days=7)
"""No warning for a grace period that began longer ago: the first run on an old table does not send many mails."""


@dataclass(frozen=True, slots=True)
class DueWarning:
    """A system user whose owner must be warned that its grace period has begun. Fields are columns."""

    id: UUID
    name: str
    application_name: str
    created_by: str
    grace_period_at: datetime
    expires_at: datetime | None
    email: str = field(repr=False)

    @property
    def key(self) -> str:
        """A key that is the same in every run for a grace period of a system user."""
        return f"{self.id}:{self.grace_period_at.astimezone(UTC):%Y%m%dT%H%M%S}"


def deactivate_expired(session: Session) -> int:
    """Deactivate every active system user past its ``expires_at``, in one statement, and return their number."""
    statement = (
        update(system_users)
        .where(system_users.c.is_active, system_users.c.expires_at < func.now())
        .values(is_active=False, updated_at=func.now())
    )
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def due_warnings(session: Session, limit: int) -> list[DueWarning]:
    """Return the system users in their grace period whose owners were not warned, longest waiting first.

    System users that were deactivated by hand are left out; those that have just expired are included.
    """
    users = system_users.c
    rows = session.execute(
        select(*(users[each.name] for each in fields(DueWarning)))
        .where(
            users.grace_period_at <= func.now(),
            users.grace_period_at > func.now() - STALE_WARNING,
            users.grace_warned_for.is_distinct_from(users.grace_period_at),
            or_(users.is_active, users.expires_at < func.now()),
        )
        .order_by(users.grace_period_at, users.id)
        .limit(limit)
    )
    return [DueWarning(*row) for row in rows]


def mark_warned(session: Session, warning: DueWarning) -> None:
    """Record that the owner was warned, unless the grace period has been changed: that needs another warning."""
    session.execute(
        update(system_users)
        .where(system_users.c.id == warning.id, system_users.c.grace_period_at == warning.grace_period_at)
        .values(grace_warned_for=warning.grace_period_at)
    )


def compose_warning(session: Session, warning: DueWarning) -> Mail:
    """Return the mail to the creator of the system user, or else to the system user's own address."""
    name, application = one_line(warning.name), one_line(warning.application_name)
    when = f"{warning.expires_at.astimezone(UTC):%d %B %Y, %H:%M} UTC" if warning.expires_at else None
    end = f"Its date of expiry is {when}." if when else "It has no date of expiry yet."
    text = (
        f"The grace period of the system user {name} ({application}) has begun.\n\n"
        f"{end}\n\n"
        "Give the programs that use it new credentials, or give it a later date.\n"
    )
    to = address_of(session, warning.created_by) or warning.email
    return Mail(to, f"System user {name}: the grace period has begun", text, key=f"grace:{warning.key}")
