"""Writes a tenant's data as a zip to the export bucket, and notifies the user who requested it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, StringConstraints

from joblane import Grants, Payload, Queue, SkipRetry, TaskContext, task
from joblane.settings import MissingSettingError
from saas import settings

if TYPE_CHECKING:
    from saas.exports import Export
    from saas.tenants import Tenant

RETENTION = timedelta(days=7)
TIME_FOR_A_MAIL = timedelta(seconds=20)


class DataExport(Payload):
    """``full``: all data. ``partial``: the people who have access now, or will get it.

    ``user_id``: the identity provider's id, which need not be a UUID.
    """

    tenant_id: UUID
    user_id: UUID | Annotated[str, StringConstraints(min_length=1, max_length=255)]
    export_type: Literal["full", "partial"]


class ExportResult(BaseModel):
    """``key``: key of the object in the export bucket. ``counts``: rows by file."""

    key: str
    size_bytes: int
    counts: dict[str, int]
    notified: bool


@task(
    "data:export",
    queue=Queue.DEFAULT,
    max_retry=3,
    timeout=timedelta(minutes=10),
    retention=RETENTION,
    environment=(*settings.EXPORT, *settings.MAIL),
    grants=Grants(buckets=("exports",), mail=True),
)
def data_export(payload: DataExport, ctx: TaskContext) -> ExportResult:
    from saas import exports, tenants, uploads

    bucket = settings.require(ctx.settings, "EXPORT_BUCKET", "the bucket of the exports", "acme-exports")
    tenant = tenants.load(ctx.session, payload.tenant_id)
    if tenant is None or tenant.status == "deleted":
        raise SkipRetry("the tenant does not exist")
    export = exports.write(
        ctx.session,
        tenant,
        payload.export_type,
        task_id=ctx.task_id,
        client=uploads.s3(),
        bucket=bucket,
        on_page=ctx.check,
    )
    ctx.logger.info("export written", size_bytes=export.size_bytes, counts=dict(export.counts))
    notified = _notify(payload, tenant, export, ctx)
    return ExportResult(key=export.key, size_bytes=export.size_bytes, counts=dict(export.counts), notified=notified)


def _notify(payload: DataExport, tenant: Tenant, export: Export, ctx: TaskContext) -> bool:
    """Send a mail to the user. The export is written already, so a failure is only logged."""
    from saas import exports, mail, users
    from saas.errors import PlatformError

    if ctx.remaining() < TIME_FOR_A_MAIL:
        ctx.logger.warning("user not notified", error="no time left")
        return False
    address = users.address_of(ctx.session, str(payload.user_id))
    if address is None:
        ctx.logger.warning("user not notified", error="no address is known")
        return False
    kept_until = datetime.now(UTC) + RETENTION
    notice = exports.compose_notice(tenant, export, address, kept_until=kept_until, key=ctx.idempotency_key)
    try:
        receipt = mail.send(notice, ctx.settings)
    except (PlatformError, MissingSettingError) as error:
        ctx.logger.warning("user not notified", error=str(error))
        return False
    ctx.logger.info(f"export: {receipt.outcome}", provider=receipt.provider, message_id=receipt.message_id)
    return receipt.message_id is not None
