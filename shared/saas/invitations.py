"""Invitations of users to a tenant, and their mails."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import escape
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from sqlalchemy import CursorResult, func, select, update
from sqlalchemy.dialects.postgresql import insert

from saas.errors import SettingError
from saas.mail import Mail, one_line
from saas.settings import Settings, require
from saas.tables import roles, tenants, user_invitations

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

OPEN_FOR = timedelta(days=7)
TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation with the data of its mail. ``closed``: the reason not to send it; None: it is open."""

    id: UUID
    tenant_name: str
    role_name: str
    expires_at: datetime
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
            (invitations.expires_at <= func.now()).label("past"),
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
    elif row.past:
        closed = "expired"
    elif row.deleted_at is not None or row.tenant_status in ("deleted", "suspended"):
        closed = "tenant closed"
    return Invitation(invitation_id, row.tenant_name, row.role_name, row.expires_at, closed, row.email, row.token)


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


def expire_past(session: Session) -> int:
    """Expire all pending invitations past their time, and return their number."""
    statement = (
        update(user_invitations)
        .where(user_invitations.c.status == "pending", user_invitations.c.expires_at <= func.now())
        .values(status="expired", updated_at=func.now())
    )
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def compose(invitation: Invitation, settings: Settings, *, key: str) -> Mail:
    """Return the invitation's mail. ``key``: the same for every attempt to send it.

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
    return Mail(invitation.email, f"Invitation to join {one_line(tenant, 120)}", text, html, key=key)


def acceptance_link(base: str, token: str) -> str:
    """Return ``base`` with the token added to its query. Raises :class:`SettingError`."""
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname or any(char <= " " for char in base):
        raise SettingError("INVITATION_BASE_URL", "an address such as https://app.example.com/join is required")
    query = urlencode({"token": token})
    return parts._replace(query=f"{parts.query}&{query}" if parts.query else query).geturl()
