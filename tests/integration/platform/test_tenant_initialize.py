"""A new tenant is made known to every service, once each, and becomes active."""

from __future__ import annotations

import uuid

import pytest

from functions.tenant_initialize.handler import TenantInitialize, tenant_initialize
from tests.integration.platform.conftest import Platform
from tests.unit.platform.servers import HttpServer, status


def state(platform: Platform, tenant: str) -> str:
    return str(platform.value("select status from tenants where id = $1", tenant))


def test_every_service_is_called_and_the_tenant_becomes_active(platform: Platform, services: list[HttpServer]) -> None:
    tenant = platform.tenant(status="pending", metadata='{"plan": "pro"}')
    row = platform.do(tenant_initialize, TenantInitialize(tenant_id=uuid.UUID(tenant)))
    assert row["state"] == "completed"
    assert row["result"] == {"outcome": "initialized", "services": 3}
    assert state(platform, tenant) == "active"
    for server in services:
        (request,) = server.requests
        assert request.json["tenant_id"] == tenant
        assert request.json["metadata"] == {"plan": "pro"}
        assert request.headers["Idempotency-Key"] == row["id"]


def test_a_retry_calls_only_the_services_that_had_not_answered(platform: Platform, services: list[HttpServer]) -> None:
    first, second, third = services
    second.answers = [status(503), status(500), status(200)]
    tenant = platform.tenant(status="pending")
    id_ = platform.enqueue(tenant_initialize, TenantInitialize(tenant_id=uuid.UUID(tenant)))
    for attempt in (1, 2):
        row = platform.run(tenant_initialize, id_)
        assert (row["state"], row["attempts"]) == ("retry", attempt)
        assert row["error_type"] == "ServiceError"
        assert state(platform, tenant) == "pending"
    assert platform.run(tenant_initialize, id_)["state"] == "completed"
    assert [len(server.requests) for server in (first, second, third)] == [1, 3, 1]
    assert len({request.headers["Idempotency-Key"] for request in second.requests}) == 1
    assert state(platform, tenant) == "active"


def test_without_services_the_tenant_becomes_active(platform: Platform) -> None:
    tenant = platform.tenant(status="pending")
    row = platform.do(tenant_initialize, TenantInitialize(tenant_id=uuid.UUID(tenant)))
    assert row["result"] == {"outcome": "initialized", "services": 0}
    assert state(platform, tenant) == "active"


@pytest.mark.parametrize("found", ["active", "suspended", "deleted"])
def test_a_tenant_that_is_not_pending_is_left_as_it_is(
    found: str, platform: Platform, services: list[HttpServer]
) -> None:
    tenant = platform.tenant(status=found)
    row = platform.do(tenant_initialize, TenantInitialize(tenant_id=uuid.UUID(tenant)))
    assert row["state"] == "completed"
    assert row["result"] == {"outcome": found, "services": 0}
    assert state(platform, tenant) == found
    assert [server.requests for server in services] == [[], [], []]


def test_a_tenant_that_is_suspended_meanwhile_stays_suspended(platform: Platform, services: list[HttpServer]) -> None:
    tenant = platform.tenant(status="pending")

    def suspend(handler: object) -> None:
        platform.world.run("update tenants set status = 'suspended' where id = $1", tenant)
        status(200)(handler)  # type: ignore[arg-type]

    services[2].answers = [suspend]
    row = platform.do(tenant_initialize, TenantInitialize(tenant_id=uuid.UUID(tenant)))
    assert row["result"]["outcome"] == "suspended"
    assert state(platform, tenant) == "suspended"


def test_a_tenant_that_does_not_exist_is_given_up_at_once(platform: Platform) -> None:
    row = platform.do(tenant_initialize, TenantInitialize(tenant_id=uuid.uuid4()))
    assert (row["state"], row["attempts"]) == ("archived", 1)


def test_this_machine_is_not_called_outside_of_local_runs(
    platform: Platform, services: list[HttpServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOBLANE_STAGE")
    tenant = platform.tenant(status="pending")
    row = platform.do(tenant_initialize, TenantInitialize(tenant_id=uuid.UUID(tenant)))
    assert row["state"] == "retry"
    assert [server.requests for server in services] == [[], [], []]
