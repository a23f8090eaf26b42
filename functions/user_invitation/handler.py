"""Sends the mail of an invitation, reminds once, and waits until it is accepted or cancelled, or expires."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import BaseModel

from joblane import Grants, Payload, Queue, SkipRetry, TaskContext, task
from saas import settings

if TYPE_CHECKING:
    from saas.invitations import Invitation


class UserInvitation(Payload):
    invitation_id: UUID


class InvitationResult(BaseModel):
    """``ended``: accepted, cancelled, expired, or tenant closed."""

    ended: str


@task(
    "user:invitation",
    queue=Queue.DEFAULT,
    max_retry=3,
    timeout=timedelta(seconds=30),
    environment=(*settings.MAIL, *settings.INVITATION),
    grants=Grants(mail=True),
)
def user_invitation(payload: UserInvitation, ctx: TaskContext) -> InvitationResult:
    from saas import invitations

    invitation = invitations.load(ctx.session, payload.invitation_id)
    if invitation is None:
        raise SkipRetry("the invitation does not exist")
    ended = invitation.closed or _mail_and_wait(invitation, ctx)
    if ended == "expired":
        invitations.expire_past(ctx.session, invitation.id)
    ctx.logger.info("invitation ended", reason=ended)
    return InvitationResult(ended=ended)


def _mail_and_wait(invitation: Invitation, ctx: TaskContext) -> str:
    """Return how the invitation ended. Who closes it signals the new status in the transaction of the change."""
    from saas.invitations import CLOSED, REMINDED_AFTER

    ctx.step("mail", lambda key: _send(invitation, ctx, key))
    status = ctx.wait(CLOSED, timeout=min(REMINDED_AFTER, invitation.ends_in), default=None)
    if status is None:
        ctx.step("reminder", lambda key: _send(invitation, ctx, key, reminds=True))
        status = ctx.wait(CLOSED, name="end", timeout=invitation.ends_in, default="expired")
    return str(status)


def _send(invitation: Invitation, ctx: TaskContext, key: str, *, reminds: bool = False) -> None:
    from saas import invitations, mail
    from saas.errors import MailRefusedError

    message = invitations.compose(invitation, ctx.settings, key=key, reminds=reminds)
    try:
        receipt = mail.send(message, ctx.settings)
    except MailRefusedError as error:
        raise SkipRetry(str(error)) from error
    ctx.logger.info(f"invitation: {receipt.outcome}", provider=receipt.provider, message_id=receipt.message_id)
