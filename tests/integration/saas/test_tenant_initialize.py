"""A new tenant is initialised in every service once, and becomes active."""

from __future__ import annotations

import uuid
from datetime import timedelta

import boto3
import pytest

from functions.tenant_initialize.handler import BACK_OFF, TenantInitialize, tenant_initialize
from joblane import secret_values
from joblane.settings import SECRETS
from tests.integration.saas.conftest import App
from tests.logs import lines
from tests.unit.saas.servers import HttpServer, status


def state(app: App, tenant: str) -> str:
    return str(app.value("select status from saas.tenants where id = $1", tenant))


def test_every_service_is_called_and_the_tenant_becomes_active(app: App, services: list[HttpServer]) -> None:
    tenant = app.tenant(status="pending", metadata='{"plan": "pro"}')
    ended = app.do(tenant_initialize, TenantInitialize(tenant_id=uuid.UUID(tenant)))
    assert ended.state == "completed"
    assert ended.result == {"outcome": "initialized", "services": 3}
    assert state(app, tenant) == "active"
    for server in services:
        (request,) = server.requests
        assert request.json["tenant_id"] == tenant
        assert request.json["metadata"] == {"plan": "pro"}
        assert request.headers["Idempotency-Key"] == ended.id


def test_a_retry_calls_only_services_that_have_not_answered(app: App, services: list[HttpServer]) -> None:
    first, second, third = services
    second.answers = [status(503), status(500), status(200)]
    tenant = app.tenant(status="pending")
    app.jobs.enqueue(tenant_initialize, TenantInitialize(tenant_id=uuid.UUID(tenant)))
    for attempt, delay in ((1, BACK_OFF[0]), (2, BACK_OFF[1])):
        ended = app.jobs.drain().only
        assert (ended.state, ended.attempts) == ("retry", attempt)
        assert ended.error_type == "ServiceError"
        assert state(app, tenant) == "pending"
        app.jobs.travel(delay)
    assert app.jobs.drain().only.state == "completed"
    assert [len(server.requests) for server in (first, second, third)] == [1, 3, 1]
    assert len({request.headers["Idempotency-Key"] for request in second.requests}) == 1
    assert state(app, tenant) == "active"


def test_after_a_killed_process_services_that_answered_are_not_called_again(
    app: App, services: list[HttpServer]
) -> None:
    tenant = app.tenant(status="pending")
    app.jobs.enqueue(tenant_initialize, TenantInitialize(tenant_id=uuid.UUID(tenant)))
    with app.jobs.crash_after_commit(commit=2):  # the commit for the second service
        app.jobs.drain()
    assert state(app, tenant) == "pending"
    ended = app.jobs.drain(within=timedelta(hours=1)).check().only
    assert ended.result == {"outcome": "initialized", "services": 3}
    assert [len(server.requests) for server in services] == [1, 1, 1]
    assert state(app, tenant) == "active"


def test_without_services_the_tenant_becomes_active(app: App) -> None:
    tenant = app.tenant(status="pending")
    ended = app.do(tenant_initialize, TenantInitialize(tenant_id=uuid.UUID(tenant)))
    assert ended.result == {"outcome": "initialized", "services": 0}
    assert state(app, tenant) == "active"


@pytest.mark.parametrize("found", ["active", "suspended", "deleted"])
def test_a_tenant_that_is_not_pending_stays_unchanged(found: str, app: App, services: list[HttpServer]) -> None:
    tenant = app.tenant(status=found)
    ended = app.do(tenant_initialize, TenantInitialize(tenant_id=uuid.UUID(tenant)))
    assert ended.state == "completed"
    assert ended.result == {"outcome": found, "services": 0}
    assert state(app, tenant) == found
    assert [server.requests for server in services] == [[], [], []]


def test_a_tenant_that_is_suspended_during_the_run_stays_suspended(app: App, services: list[HttpServer]) -> None:
    tenant = app.tenant(status="pending")

    def suspend(handler: object) -> None:
        app.sql("update saas.tenants set status = 'suspended' where id = $1", tenant)
        status(200)(handler)  # type: ignore[arg-type]

    services[2].answers = [suspend]
    ended = app.do(tenant_initialize, TenantInitialize(tenant_id=uuid.UUID(tenant)))
    assert ended.result["outcome"] == "suspended"
    assert state(app, tenant) == "suspended"


def test_a_task_of_a_missing_tenant_is_archived_at_once(app: App) -> None:
    ended = app.do(tenant_initialize, TenantInitialize(tenant_id=uuid.uuid4()))
    assert (ended.state, ended.attempts) == ("archived", 1)


def test_this_machine_is_called_only_on_a_local_stage(
    app: App, services: list[HttpServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOBLANE_STAGE")
    tenant = app.tenant(status="pending")
    ended = app.do(tenant_initialize, TenantInitialize(tenant_id=uuid.UUID(tenant)))
    assert ended.state == "retry"
    assert [server.requests for server in services] == [[], [], []]


def test_a_secret_that_cannot_be_read_is_named_and_read_again(
    app: App, services: list[HttpServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a stage whose setting refers to a secret that does not exist yet
    monkeypatch.setattr(secret_values, "_kept", {})
    monkeypatch.setenv(SECRETS, '{"TENANT_INIT_SECRET": {"secret": "acme/services", "field": "secret"}}')
    tenant = app.tenant(status="pending")
    app.jobs.enqueue(tenant_initialize, TenantInitialize(tenant_id=uuid.UUID(tenant)))
    # when
    ended = app.jobs.drain().only
    # then the attempt fails with the setting's name, and no service is called
    assert (ended.state, ended.error_type) == ("retry", "SecretError")
    assert "TENANT_INIT_SECRET: secret 'acme/services': " in str(ended.error_message)
    assert [server.requests for server in services] == [[], [], []]
    # when it exists
    boto3.client("secretsmanager").create_secret(Name="acme/services", SecretString='{"secret": "hunter2"}')
    app.jobs.travel(BACK_OFF[0])
    with lines() as log:
        ended = app.jobs.drain().only
    # then the next attempt sends it, and writes it nowhere
    assert ended.state == "completed"
    assert {server.requests[0].headers["X-Joblane-Secret"] for server in services} == {"hunter2"}
    rows = app.sql("select to_jsonb(t), to_jsonb(a) from joblane.tasks t, joblane.runs a")
    assert "hunter2" not in repr((rows, log.texts, ended))
