"""System users: accounts of programs, which expire."""

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
"""A grace period that began longer ago is no news: a first run on an old table writes no flood of mails."""


@dataclass(frozen=True, slots=True)
class DueWarning:
    """A system user whose owner gets a mail that its grace period has begun. Columns by their names."""

    id: UUID
    name: str
    application_name: str
    created_by: str
    grace_period_at: datetime
    expires_at: datetime | None
    email: str = field(repr=False)

    @property
    def key(self) -> str:
        """The same for one grace period of one system user, whichever run tells of it."""
        return f"{self.id}:{self.grace_period_at.astimezone(UTC):%Y%m%dT%H%M%S}"


def deactivate_expired(session: Session) -> int:
    """Take every active system user past its ``expires_at`` out of service, in one statement; how many there were."""
    statement = (
        update(system_users)
        .where(system_users.c.is_active, system_users.c.expires_at < func.now())
        .values(is_active=False, updated_at=func.now())
    )
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def due_warnings(session: Session, limit: int) -> list[DueWarning]:
    """Those whose grace period has come and whose owner was not told of it, longest waiting first.

    A system user that was switched off by hand is left out; one that has just expired is not.
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
    """Record that the owner was told, unless the grace period was moved meanwhile: that is another warning."""
    session.execute(
        update(system_users)
        .where(system_users.c.id == warning.id, system_users.c.grace_period_at == warning.grace_period_at)
        .values(grace_warned_for=warning.grace_period_at)
    )


def compose_warning(session: Session, warning: DueWarning) -> Mail:
    """The mail to the owner: whoever made the system user, or the system user's own address."""
    name, application = one_line(warning.name), one_line(warning.application_name)
    when = f"{warning.expires_at.astimezone(UTC):%d %B %Y, %H:%M} UTC" if warning.expires_at else None
    end = f"Its date of expiry is {when}." if when else "It has no date of expiry yet."
    text = (
        f"The grace period of the system user {name} ({application}) has begun.\n\n"
        f"{end}\n\n"
        "Move what uses it to new credentials, or give it a later date.\n"
    )
    to = address_of(session, warning.created_by) or warning.email
    return Mail(to, f"System user {name}: the grace period has begun", text, key=f"grace:{warning.key}")
