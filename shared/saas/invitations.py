"""Invitations of users to a tenant, and their mails."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from sqlalchemy import extract, func, select, update
from sqlalchemy.dialects.postgresql import insert

from saas.errors import SettingError
from saas.mail import Mail, one_line
from saas.settings import Settings, require
from saas.tables import roles, tenant_members, tenants, user_invitations

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

OPEN_FOR = timedelta(days=7)
REMINDED_AFTER = timedelta(days=3)
CLOSED = "closed"
"""The signal that the task of an invitation waits for. Its value is the new status."""
TOKEN_BYTES = 32
MARGIN = timedelta(seconds=5)
"""A run that continues at the end of its wait may be early by two seconds, and an invitation is open until its end."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation with the data of its mail.

    ``closed``: the reason not to send it; None: it is open. ``ends_in``: time after which it is past its end.
    """

    id: UUID
    tenant_name: str
    role_name: str
    expires_at: datetime
    ends_in: timedelta
    closed: str | None
    email: str = field(repr=False)
    token: str = field(repr=False)


def load(session: Session, invitation_id: UUID) -> Invitation | None:
    """Return the invitation with this id, or None. The database's clock decides if it has expired."""
    invitations = user_invitations.c
    row = session.execute(
        select(
            invitations.email,
            invitations.token,
            invitations.status,
            invitations.expires_at,
            extract("epoch", invitations.expires_at - func.now()).label("left"),
            tenants.c.name.label("tenant_name"),
            tenants.c.status.label("tenant_status"),
            tenants.c.deleted_at,
            roles.c.name.label("role_name"),
        )
        .join(tenants, tenants.c.id == invitations.tenant_id)
        .join(roles, roles.c.id == invitations.role_id)
        .where(invitations.id == invitation_id)
    ).one_or_none()
    if row is None:
        return None
    closed = None
    if row.status != "pending":
        closed = row.status
    elif row.left <= 0:
        closed = "expired"
    elif row.deleted_at is not None or row.tenant_status in ("deleted", "suspended"):
        closed = "tenant closed"
    ends_in = timedelta(seconds=float(row.left)) + MARGIN
    return Invitation(
        invitation_id, row.tenant_name, row.role_name, row.expires_at, ends_in, closed, row.email, row.token
    )


def create(
    session: Session, invitation_id: UUID, tenant_id: UUID, *, email: str, role_id: UUID, invited_by: str
) -> datetime | None:
    """Insert an invitation with a new token, and return the time of its expiry. None: the id exists already."""
    statement = (
        insert(user_invitations)
        .values(
            id=invitation_id,
            tenant_id=tenant_id,
            email=email,
            invited_by=invited_by,
            role_id=role_id,
            token=secrets.token_urlsafe(TOKEN_BYTES),
            expires_at=func.now() + OPEN_FOR,
        )
        .on_conflict_do_nothing(index_elements=["id"])
        .returning(user_invitations.c.expires_at)
    )
    return session.execute(statement).scalar_one_or_none()


def sent_today(session: Session, limit: int, *, tenant_id: UUID | None = None, invited_by: str | None = None) -> int:
    """Return the number of invitations of the last 24 hours, at most ``limit``. None: of all tenants, by all users."""
    invitations = user_invitations.c
    sent = select(invitations.id).where(invitations.created_at > func.now() - timedelta(days=1))
    if tenant_id is not None:
        sent = sent.where(invitations.tenant_id == tenant_id)
    if invited_by is not None:
        sent = sent.where(invitations.invited_by == invited_by)
    return session.execute(select(func.count()).select_from(sent.limit(limit).subquery())).scalar_one()


def expire_past(session: Session, invitation_id: UUID | None = None) -> list[UUID]:
    """Expire this pending invitation if it is past its time, or all of them, and return their ids."""
    only = [] if invitation_id is None else [user_invitations.c.id == invitation_id]
    return _close(session, "expired", user_invitations.c.expires_at <= func.now(), *only)


def cancel(session: Session, invitation_id: UUID) -> bool:
    """Cancel a pending invitation. Return False if it is closed already."""
    return bool(_close(session, "cancelled", user_invitations.c.id == invitation_id))


def accept(session: Session, invitation: Any, user_id: str) -> bool:
    """Accept a pending invitation, a row of :func:`find`: the user becomes a member of its tenant.

    An active member keeps their role. Return False if it is closed or past its time.
    """
    invitations = user_invitations.c
    is_open = (invitations.id == invitation.id, invitations.expires_at > func.now())
    if not _close(session, "accepted", *is_open, accepted_at=func.now()):
        return False
    of_invitation = {
        "role_id": invitation.role_id,
        "status": "active",
        "invited_by": invitation.invited_by,
        "joined_at": func.now(),
    }
    session.execute(
        insert(tenant_members)
        .values(tenant_id=invitation.tenant_id, user_id=user_id, **of_invitation)
        .on_conflict_do_update(
            index_elements=["tenant_id", "user_id"],
            set_=of_invitation | {"updated_at": func.now()},
            where=tenant_members.c.status != "active",
        )
    )
    return True


def _close(session: Session, status: str, *where: ColumnElement[bool], **values: Any) -> list[UUID]:
    statement = (
        update(user_invitations)
        .where(user_invitations.c.status == "pending", *where)
        .values(status=status, updated_at=func.now(), **values)
        .returning(user_invitations.c.id)
    )
    return list(session.execute(statement).scalars())


def find(session: Session, **columns: object) -> Any:
    """Return the row of the invitation with this ``id`` or ``token``, or None."""
    return session.execute(select(user_invitations).filter_by(**columns)).one_or_none()


def compose(invitation: Invitation, settings: Settings, *, key: str, reminds: bool = False) -> Mail:
    """Return the invitation's mail, or its reminder. ``key``: the same for every attempt to send it.

    Raises :class:`~joblane.settings.MissingSettingError`, and :class:`SettingError` for the base of the link.
    """
    base = require(settings, "INVITATION_BASE_URL", "the page that accepts invitations", "https://app.example.com/join")
    link = acceptance_link(base, invitation.token)
    tenant, role = one_line(invitation.tenant_name), one_line(invitation.role_name)
    until = f"{invitation.expires_at.astimezone(UTC):%d %B %Y, %H:%M} UTC"
    text = (
        f"You have been invited to join {tenant} as {role}.\n\n"
        f"Accept the invitation:\n{link}\n\n"
        f"The invitation is open until {until}.\n\n"
        "If you did not expect it, you can leave this mail unanswered.\n"
    )
    html = (
        "<!doctype html><html><body>"
        f"<p>You have been invited to join <strong>{escape(tenant)}</strong> as <strong>{escape(role)}</strong>.</p>"
        f'<p><a href="{escape(link)}">Accept the invitation</a></p>'
        f"<p>The invitation is open until {escape(until)}.</p>"
        "<p>If you did not expect it, you can leave this mail unanswered.</p>"
        "</body></html>"
    )
    subject = f"Invitation to join {one_line(tenant, 120)}"
    return Mail(invitation.email, f"Reminder: {subject}" if reminds else subject, text, html, key=key)


def acceptance_link(base: str, token: str) -> str:
    """Return ``base`` with the token added to its query. Raises :class:`SettingError`."""
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname or any(char <= " " for char in base):
        raise SettingError("INVITATION_BASE_URL", "an address such as https://app.example.com/join is required")
    query = urlencode({"token": token})
    return parts._replace(query=f"{parts.query}&{query}" if parts.query else query).geturl()
