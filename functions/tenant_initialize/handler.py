"""Initialises a new tenant in every configured service, then makes it active."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal
from uuid import UUID

from pydantic import BaseModel

from joblane import Payload, Queue, SkipRetry, TaskContext, task
from saas import settings

BACK_OFF = [timedelta(seconds=5 * 4**failed) for failed in range(5)]
"""5 s, 20 s, then 1, 5 and 21 minutes: a service may be unavailable for almost half an hour."""
LEFT_FOR_THE_END = timedelta(seconds=5)


class TenantInitialize(Payload):
    tenant_id: UUID


class InitializeResult(BaseModel):
    """``outcome``: ``initialized``, or the status of a tenant that needs no initialization."""

    outcome: Literal["initialized", "active", "suspended", "deleted"]
    services: int = 0


@task(
    "tenant:initialize",
    queue=Queue.CRITICAL,
    max_retry=5,
    retry_delay=BACK_OFF,
    timeout=timedelta(minutes=5),  # ten services with 30 s each; a retry continues with further services
    environment=settings.SERVICES,
    events=("completed", "archived"),  # other systems hear of a new tenant, or that it was not set up
)
def tenant_initialize(payload: TenantInitialize, ctx: TaskContext) -> InitializeResult:
    from saas import services, tenants

    tenant = tenants.load(ctx.session, payload.tenant_id)
    if tenant is None:
        raise SkipRetry("the tenant does not exist")
    if tenant.status != "pending":
        ctx.logger.info("nothing to initialize", status=tenant.status)
        return InitializeResult(outcome=tenant.status)

    configured = services.configured(ctx.settings)
    for service in ctx.each(configured):
        seconds = min(services.CALL_SECONDS, (ctx.remaining() - LEFT_FOR_THE_END).total_seconds())
        status = services.initialize(service, tenant, ctx.settings, key=ctx.idempotency_key, timeout_seconds=seconds)
        ctx.logger.info("service initialized", target=str(service), status=status)

    if not tenants.activate(ctx.session, tenant.id):
        return _overtaken(payload, ctx)
    return InitializeResult(outcome="initialized", services=len(configured))


def _overtaken(payload: TenantInitialize, ctx: TaskContext) -> InitializeResult:
    """Keep a status that was set while the services were called."""
    from saas import tenants

    tenant = tenants.load(ctx.session, payload.tenant_id)
    if tenant is None or tenant.status == "pending":
        raise SkipRetry("the tenant was removed while it was initialized")
    ctx.logger.warning("tenant changed while it was initialized", status=tenant.status)
    return InitializeResult(outcome=tenant.status)
