"""Removes what has expired: invitations, tenants that were deleted long ago, old exports, remembered requests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from shared.jobs import Grants, Payload, Queue, TaskContext, task
from shared.platform import settings

MAX_TENANTS = 500
"""In one run; the next night's takes the others."""
LEFT_FOR_THE_END = timedelta(seconds=30)


class TenantCleanup(Payload):
    pass


class CleanupResult(BaseModel):
    """How many there were: invitations that expired, tenants and exports removed, requests forgotten."""

    invitations: int
    tenants: int
    exports: int
    requests: int


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
    from shared.platform import exports, invitations, objects, requests, uploads

    bucket = settings.require(ctx.settings, "EXPORT_BUCKET", "where exports are written", "acme-exports")
    expired = invitations.expire_past(ctx.session)
    forgotten = requests.forget(ctx.session)
    tenants = _remove_tenants(bucket, ctx)
    # after the tenants: a listing of many objects may take what time there is
    removed = objects.remove(
        uploads.s3(),
        bucket,
        exports.FOLDER,
        older_than=datetime.now(UTC) - exports.KEPT,
        goes_on=lambda: _goes_on(ctx),
    )
    result = CleanupResult(invitations=expired, tenants=tenants, exports=removed, requests=forgotten)
    ctx.logger.info("cleaned up", **result.model_dump())
    return result


def _remove_tenants(bucket: str, ctx: TaskContext) -> int:
    """One by one: what is wrong with one tenant keeps no other."""
    from shared.platform import exports, objects, reports, tenants, uploads

    grace, removed = settings.grace(ctx.settings), 0
    for tenant_id in ctx.each(tenants.long_deleted(ctx.session, grace, MAX_TENANTS)):
        if not _goes_on(ctx):
            ctx.logger.info("tenants left to the next run")
            break
        with ctx.isolated():
            # the objects first: nothing would find them once the tenant is gone
            for folder in (exports.folder_of(tenant_id), reports.folder_of(tenant_id)):
                objects.remove(uploads.s3(), bucket, folder)
            removed += tenants.remove(ctx.session, tenant_id, grace)
    return removed


def _goes_on(ctx: TaskContext) -> bool:
    ctx.check()
    return ctx.remaining() > LEFT_FOR_THE_END
