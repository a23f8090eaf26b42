"""Sends the mail of an invitation."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from pydantic import BaseModel

from joblane import Grants, Payload, Queue, SkipRetry, TaskContext, task
from saas import settings


class UserInvitation(Payload):
    invitation_id: UUID


class InvitationResult(BaseModel):
    """``skipped``: the reason why the mail was not sent; None: it was sent."""

    skipped: str | None = None


@task(
    "user:invitation",
    queue=Queue.DEFAULT,
    max_retry=3,
    timeout=timedelta(seconds=30),
    environment=(*settings.MAIL, *settings.INVITATION),
    grants=Grants(mail=True),
)
def user_invitation(payload: UserInvitation, ctx: TaskContext) -> InvitationResult:
    from saas import invitations, mail
    from saas.errors import MailRefusedError

    invitation = invitations.load(ctx.session, payload.invitation_id)
    if invitation is None:
        raise SkipRetry("the invitation does not exist")
    if invitation.closed:
        ctx.logger.info("invitation skipped", reason=invitation.closed)
        return InvitationResult(skipped=invitation.closed)

    message = invitations.compose(invitation, ctx.settings, key=ctx.idempotency_key)
    try:
        receipt = mail.send(message, ctx.settings)
    except MailRefusedError as error:
        raise SkipRetry(str(error)) from error
    ctx.logger.info(f"invitation: {receipt.outcome}", provider=receipt.provider, message_id=receipt.message_id)
    return InvitationResult()
