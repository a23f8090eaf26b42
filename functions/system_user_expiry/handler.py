"""Deactivates expired system users, and warns their owners once when a grace period has begun."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from pydantic import BaseModel

from joblane import Grants, Payload, Queue, TaskContext, every, task
from joblane.settings import MissingSettingError
from saas import settings

if TYPE_CHECKING:
    from saas.system_users import DueWarning

MAX_WARNINGS = 100
"""Limit of a run; the next hour's run sends the others."""
TIME_FOR_A_MAIL = timedelta(seconds=15)


class SystemUserExpiry(Payload):
    pass


class ExpiryResult(BaseModel):
    deactivated: int
    warned: int
    failed: int


@task(
    "system_user:expiry",
    queue=Queue.LOW,
    timeout=timedelta(minutes=1),
    schedule=every(hours=1),
    environment=settings.MAIL,
    grants=Grants(mail=True),
)
def system_user_expiry(payload: SystemUserExpiry, ctx: TaskContext) -> ExpiryResult:
    from saas import system_users

    deactivated = system_users.deactivate_expired(ctx.session)
    ctx.logger.info("system users deactivated", count=deactivated)

    warned = failed = 0
    due = system_users.due_warnings(ctx.session, MAX_WARNINGS)
    for warning in ctx.each(due, key=lambda item: item.key):
        if ctx.remaining() < TIME_FOR_A_MAIL:
            ctx.logger.info("no time left: the next run sends the remaining warnings", count=len(due) - warned - failed)
            break
        if _warn(warning, ctx):
            warned += 1
        else:
            failed += 1
    return ExpiryResult(deactivated=deactivated, warned=warned, failed=failed)


def _warn(warning: DueWarning, ctx: TaskContext) -> bool:
    """Warn an owner. Return false if the mail failed.

    A failure is logged, and the warning stays due for the next run. It affects neither other warnings nor the
    deactivated system users.
    """
    from saas import mail, system_users
    from saas.errors import PlatformError

    try:
        receipt = mail.send(system_users.compose_warning(ctx.session, warning), ctx.settings)
    except (PlatformError, MissingSettingError) as error:
        ctx.logger.error("owner not warned", system_user_id=str(warning.id), error=str(error))
        return False
    system_users.mark_warned(ctx.session, warning)
    ctx.logger.info(f"warning: {receipt.outcome}", system_user_id=str(warning.id), message_id=receipt.message_id)
    return True
