"""Routes to accept and to cancel an invitation. Each ends the wait of its task in the transaction of its change."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from aws_lambda_powertools.event_handler.api_gateway import Router
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from functions.api.access import Who
from functions.api.once import Key, once
from functions.api.refusals import Refusal, forbidden, not_found
from functions.api.storage import jobs, transaction
from joblane.errors import UnknownTaskError
from saas import invitations, tenants

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

router = Router()


class Acceptance(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    token: Annotated[str, StringConstraints(min_length=1, max_length=255)] = Field(
        description="The token of the link in the mail.", repr=False
    )


class InvitationAccepted(BaseModel):
    success: bool = True
    message: str
    tenant_id: UUID


class InvitationCancelled(BaseModel):
    success: bool = True
    message: str


@router.post("/invitations/accept", summary="Accept an invitation and become a member", tags=["tenants"])
def accept(body: Acceptance, caller: Who, key: Key = None) -> InvitationAccepted:
    def accept_once(session: Session, _: UUID) -> InvitationAccepted:
        invitation = invitations.find(session, token=body.token)
        tenant = None if invitation is None else tenants.load(session, invitation.tenant_id)
        if tenant is None or tenant.status == "deleted":
            raise not_found()
        if tenant.status == "suspended":
            raise Refusal(409, "the tenant is suspended")
        if not invitations.accept(session, invitation, caller.user_id):
            raise _closed(session, invitation.id)
        _continue_task(session, invitation.id, "accepted")
        return InvitationAccepted(message="you are a member of the tenant", tenant_id=invitation.tenant_id)

    if caller.is_service:
        raise forbidden("only users become members of a tenant")
    return once(accept_once, InvitationAccepted, caller=caller, route="POST /invitations/accept", key=key, body=body)


@router.delete("/tenants/<tenant_id>/invitations/<invitation_id>", summary="Cancel an invitation", tags=["tenants"])
def cancel(tenant_id: UUID, invitation_id: UUID, caller: Who) -> InvitationCancelled:
    with transaction() as session:
        invitation = invitations.find(session, id=invitation_id)
        if invitation is None or invitation.tenant_id != tenant_id:
            raise not_found()
        if not invitations.cancel(session, invitation_id):
            raise _closed(session, invitation_id)
        _continue_task(session, invitation_id, "cancelled")
        return InvitationCancelled(message="the invitation is cancelled")


def _continue_task(session: Session, invitation_id: UUID, status: str) -> None:
    """End the wait of the invitation's task, which has its id. Other producers enqueue it with another id."""
    with suppress(UnknownTaskError):
        jobs().signal(str(invitation_id), invitations.CLOSED, status, session=session)


def _closed(session: Session, invitation_id: UUID) -> Refusal:
    """Return the refusal for an invitation that is not open, with the status that another request may have set."""
    row = invitations.find(session, id=invitation_id)
    if row is None:
        return not_found()
    status = "expired" if row.status == "pending" else row.status
    return Refusal(410 if status == "expired" else 409, f"the invitation is {status}")
