"""Bounds of what a caller and a tenant may create in a day, so that nobody floods the platform, or mailboxes of others.

A service of the account, which IAM has verified, has no bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from functions.api.access import Caller
from functions.api.refusals import Refusal
from saas import invitations, locks, tenants

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

TENANTS_A_DAY = 20
"""Tenants that a caller may create in 24 hours."""
INVITATIONS_A_DAY = 200
"""Invitations that a caller may send in 24 hours, and that may be sent for a tenant."""
RETRY_AFTER_SECONDS = 3600


def check_tenants(session: Session, caller: Caller) -> None:
    """Raises 429 if the caller has created too many tenants."""
    if caller.is_service:
        return
    locks.hold(session, f"tenants of {caller.user_id}")
    if tenants.created_today(session, caller.user_id, TENANTS_A_DAY) >= TENANTS_A_DAY:
        raise _refusal(f"you have created {TENANTS_A_DAY} tenants in 24 hours")


def check_invitations(session: Session, caller: Caller, tenant_id: UUID) -> None:
    """Raises 429 if the caller has sent too many invitations, or too many were sent for the tenant."""
    locks.hold(session, f"invitations of {tenant_id}", f"invitations by {caller.user_id}")
    if invitations.sent_today(session, INVITATIONS_A_DAY, tenant_id=tenant_id) >= INVITATIONS_A_DAY:
        raise _refusal(f"{INVITATIONS_A_DAY} invitations were sent for this tenant in 24 hours")
    if invitations.sent_today(session, INVITATIONS_A_DAY, invited_by=caller.user_id) >= INVITATIONS_A_DAY:
        raise _refusal(f"you have sent {INVITATIONS_A_DAY} invitations in 24 hours")


def _refusal(why: str) -> Refusal:
    return Refusal(429, f"{why}: try again later", headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
