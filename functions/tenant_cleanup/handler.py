"""Removes expired data: invitations, tenants that were deleted long ago, old exports, and stored requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from uuid import UUID

from pydantic import BaseModel

from joblane import Grants, JobClient, Payload, Queue, TaskContext, task
from joblane.errors import UnknownTaskError
from saas import settings

MAX_TENANTS = 500
"""Limit of a run; the next night's run removes the others."""
LEFT_FOR_TENANTS = timedelta(minutes=2)
"""Time that removing exports leaves for tenants; a list of many exports could take all of the time."""
LEFT_FOR_THE_END = timedelta(seconds=30)


class TenantCleanup(Payload):
    pass


class CleanupResult(BaseModel):
    """Numbers of expired invitations, and of removed requests, exports and tenants.

    These are the numbers of the last run; earlier attempts may have done more.
    """

    invitations: int = 0
    requests: int = 0
    exports: int = 0
    tenants: int = 0


@task(
    "tenant:cleanup",
    queue=Queue.LOW,
    max_retry=3,
    timeout=timedelta(minutes=5),
    schedule="0 2 * * *",
    environment=(*settings.EXPORT, *settings.CLEANUP),
    grants=Grants(buckets=("old-exports",), enqueue=("user:invitation",)),
    front_door=False,
)
def tenant_cleanup(payload: TenantCleanup, ctx: TaskContext) -> CleanupResult:
    from saas import requests

    bucket = settings.require(ctx.settings, "EXPORT_BUCKET", "the bucket of the exports", "acme-exports")
    grace = settings.grace(ctx.settings)
    result = CleanupResult()
    # Each step and each tenant has its own commit, so that a failure affects no other and locks are held for one only.
    for item in ctx.each(chain(("invitations", "requests", "exports"), _deleted_tenants(ctx, grace))):
        if not _may_continue(ctx, LEFT_FOR_THE_END):
            ctx.logger.info("no time left: the next run handles the remaining tenants")
            break
        with ctx.isolated():
            match item:
                case "invitations":
                    result.invitations = _expire_invitations(ctx)
                case "requests":
                    result.requests = requests.forget(ctx.session)
                case "exports":
                    result.exports = _remove_old_exports(bucket, ctx)
                case UUID():
                    result.tenants += _remove_tenant(item, grace, bucket, ctx)
    ctx.logger.info("cleaned up", **result.model_dump())
    return result


def _expire_invitations(ctx: TaskContext) -> int:
    """Expire the invitations whose tasks have not done it, for example because they are paused, and end their waits."""
    from saas import invitations

    expired = invitations.expire_past(ctx.session)
    for invitation_id in expired:
        with suppress(UnknownTaskError):  # it has another id, or has ended long ago
            ctx.signal(str(invitation_id), invitations.CLOSED, "expired")
    return len(expired)


def _deleted_tenants(ctx: TaskContext, grace: timedelta) -> Iterator[UUID]:
    """Return the tenants to remove. The query runs after the steps before it are committed."""
    from saas import tenants

    yield from tenants.long_deleted(ctx.session, grace, MAX_TENANTS)


def _remove_old_exports(bucket: str, ctx: TaskContext) -> int:
    from saas import exports, objects, uploads

    return objects.remove(
        uploads.s3(),
        bucket,
        exports.FOLDER,
        older_than=datetime.now(UTC) - exports.KEPT,
        may_continue=lambda: _may_continue(ctx, LEFT_FOR_TENANTS),
    )


def _remove_tenant(tenant_id: UUID, grace: timedelta, bucket: str, ctx: TaskContext) -> bool:
    """Delete the row first, so that its lock prevents restoring the tenant, and commit after the objects are removed:
    without the row no later run would find the objects. The schedules of its reports end in the same transaction."""
    from saas import exports, objects, report_schedules, reports, tenants, uploads

    schedules = [
        report_schedules.name_of(tenant_id, report.name)
        for report in report_schedules.of_tenant(ctx.session, tenant_id)
    ]
    if not tenants.remove(ctx.session, tenant_id, grace):
        return False
    for name in schedules:
        JobClient().schedules.delete(name, session=ctx.session)
    for folder in (exports.folder_of(tenant_id), reports.folder_of(tenant_id)):
        objects.remove(uploads.s3(), bucket, folder)
    return True


def _may_continue(ctx: TaskContext, left: timedelta) -> bool:
    ctx.check()
    return ctx.remaining() > left
