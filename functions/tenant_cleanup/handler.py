"""Removes what has expired: invitations, tenants that were deleted long ago, old exports, remembered requests."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from uuid import UUID

from pydantic import BaseModel

from joblane import Grants, Payload, Queue, TaskContext, task
from saas import settings

MAX_TENANTS = 500
"""In one run; the next night's takes the others."""
LEFT_FOR_TENANTS = timedelta(minutes=2)
"""A listing of many exports may take what time there is."""
LEFT_FOR_THE_END = timedelta(seconds=30)


class TenantCleanup(Payload):
    pass


class CleanupResult(BaseModel):
    """How many there were: invitations that expired, requests forgotten, exports and tenants removed.

    Counted is what the run that ended the task has done; an earlier attempt may have done the rest.
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
    grants=Grants(buckets=("old-exports",)),
    front_door=False,
)
def tenant_cleanup(payload: TenantCleanup, ctx: TaskContext) -> CleanupResult:
    from saas import invitations, requests

    bucket = settings.require(ctx.settings, "EXPORT_BUCKET", "where exports are written", "acme-exports")
    grace = settings.grace(ctx.settings)
    result = CleanupResult()
    # Each step and each tenant commits on its own: what is wrong with one keeps no other, and no lock outlasts its own.
    for item in ctx.each(chain(("invitations", "requests", "exports"), _deleted_tenants(ctx, grace))):
        if not _goes_on(ctx, LEFT_FOR_THE_END):
            ctx.logger.info("tenants left to the next run")
            break
        with ctx.isolated():
            match item:
                case "invitations":
                    result.invitations = invitations.expire_past(ctx.session)
                case "requests":
                    result.requests = requests.forget(ctx.session)
                case "exports":
                    result.exports = _remove_old_exports(bucket, ctx)
                case UUID():
                    result.tenants += _remove_tenant(item, grace, bucket, ctx)
    ctx.logger.info("cleaned up", **result.model_dump())
    return result


def _deleted_tenants(ctx: TaskContext, grace: timedelta) -> Iterator[UUID]:
    """Asked for when the steps before are done and committed."""
    from saas import tenants

    yield from tenants.long_deleted(ctx.session, grace, MAX_TENANTS)


def _remove_old_exports(bucket: str, ctx: TaskContext) -> int:
    from saas import exports, objects, uploads

    return objects.remove(
        uploads.s3(),
        bucket,
        exports.FOLDER,
        older_than=datetime.now(UTC) - exports.KEPT,
        goes_on=lambda: _goes_on(ctx, LEFT_FOR_TENANTS),
    )


def _remove_tenant(tenant_id: UUID, grace: timedelta, bucket: str, ctx: TaskContext) -> bool:
    """The row first, which holds off whoever would bring the tenant back; its commit last, for the objects' sake:
    nothing would find them once the tenant is gone."""
    from saas import exports, objects, reports, tenants, uploads

    if not tenants.remove(ctx.session, tenant_id, grace):
        return False
    for folder in (exports.folder_of(tenant_id), reports.folder_of(tenant_id)):
        objects.remove(uploads.s3(), bucket, folder)
    return True


def _goes_on(ctx: TaskContext, left: timedelta) -> bool:
    ctx.check()
    return ctx.remaining() > left
