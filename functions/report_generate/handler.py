"""Writes a weekly report for every tenant, or for one: its members, its invitations and the outcomes of its jobs."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import BaseModel

from joblane import Grants, Payload, Queue, TaskContext, task
from saas import settings

if TYPE_CHECKING:
    from saas.tenants import Tenant

PAGE_TENANTS = 100


class ReportGenerate(Payload):
    """``week_ending``: the day after the week's last day; None: the last Sunday before the tick or the enqueue.

    ``tenant_id``: the only tenant whose report is written; None: all tenants.
    """

    week_ending: date | None = None
    tenant_id: UUID | None = None


class ReportResult(BaseModel):
    """``tenants``: reports of the last run; earlier attempts may have written more."""

    week_ending: date
    tenants: int


@task(
    "report:generate",
    queue=Queue.DEFAULT,
    max_retry=3,
    timeout=timedelta(minutes=10),
    schedule="0 8 * * 0",
    environment=settings.EXPORT,
    grants=Grants(buckets=("reports",)),
    front_door=False,
)
def report_generate(payload: ReportGenerate, ctx: TaskContext) -> ReportResult:
    from saas import reports, tenants, uploads

    bucket = settings.require(ctx.settings, "EXPORT_BUCKET", "the bucket of the reports", "acme-exports")
    week = (
        reports.Week.ending(payload.week_ending)
        if payload.week_ending
        else reports.Week.before(reports.asked_at(ctx.session, ctx.task_id))
    )
    outcomes, written = reports.outcomes(ctx.session, week, payload.tenant_id), 0

    def pages(after: str | None) -> list[list[Tenant]]:
        """Return only the next page: its cursor is that of the page after it."""
        if payload.tenant_id is not None:
            tenant = tenants.load(ctx.session, payload.tenant_id) if after is None else None
            return [[tenant]] if tenant is not None and tenant.status != "deleted" else []
        page = tenants.page_after(ctx.session, None if after is None else UUID(after), PAGE_TENANTS)
        return [page] if page else []

    # a retry continues after the last page that was written completely
    for page in ctx.resume(pages, cursor=lambda page: str(page[-1].id), chunk=1):
        found = reports.compile_page(ctx.session, page, week, outcomes)
        for tenant in page:
            reports.write(uploads.s3(), bucket, tenant, week, found[tenant.id])
            ctx.check()
        written += len(page)
    ctx.logger.info("reports written", count=written, week_ending=week.end.date().isoformat())
    return ReportResult(week_ending=week.end.date(), tenants=written)
