"""Weekly reports of a tenant's own: the routes, the schedules that they make, and the reports."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from functions.api import reports as routes
from functions.api import storage
from functions.report_generate.handler import ReportGenerate, report_generate
from functions.tenant_cleanup.handler import TenantCleanup, tenant_cleanup
from joblane.record.schedules import StoredSchedule
from joblane.record.sql_functions import VERSION
from saas import report_schedules, reports, uploads
from tests.builders.http_events import claims
from tests.integration.saas.conftest import BUCKET, App, Platform
from tests.integration.saas.test_api import Answer, Api

MONDAY = {"day": "monday", "time": "06:30", "timezone": "Europe/Berlin"}


@dataclass
class Reports(Api):
    """The routes, as an admin of a tenant calls them."""

    tenant: str

    def admin(self, method: str, name: str = "", body: object = None, *, tenant: str | None = None) -> Answer:
        path = f"/reports/schedules/{name}".rstrip("/")
        return self(method, path, body, who=claims("ann", tenant or self.tenant, "admin"))

    def schedule(self, name: str = "mondays", tenant: str | None = None) -> StoredSchedule | None:
        """The library's schedule."""
        full = report_schedules.name_of(uuid.UUID(tenant or self.tenant), name)
        return self.platform.world.client.schedules.get(full)


@pytest.fixture
def api(platform: Platform) -> Iterator[Reports]:
    for cached in (storage.jobs, storage.database):
        cached.cache_clear()
    for task in (report_generate, tenant_cleanup):
        platform.world.lane(task)
    yield Reports(platform, platform.tenant())
    storage.database().drop()


def keys() -> list[str]:
    return [item["Key"] for item in uploads.s3().list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def test_a_report_is_set_up_shown_changed_and_ended(api: Reports) -> None:
    # when it is set up
    made = api.admin("PUT", "mondays", MONDAY)
    # then the platform's row and the schedule exist
    assert made.status == 200
    next_at = datetime.fromisoformat(made.body.pop("next_at"))
    assert made.body == {"success": True, "name": "mondays", **MONDAY}
    assert next_at - datetime.now(UTC) <= timedelta(days=7, hours=1)
    schedule = api.schedule()
    assert schedule is not None
    assert (schedule.type, schedule.expression, schedule.timezone, schedule.tenant, schedule.next_at) == (
        "report:generate",
        "30 6 * * 1",
        "Europe/Berlin",
        api.tenant,
        next_at,
    )
    assert schedule.payload["tenant_id"] == api.tenant
    assert api.admin("GET", "mondays").body["day"] == "monday"
    # when it is changed, in UTC
    assert api.admin("PUT", "mondays", {"day": "friday", "time": "00:00"}).status == 200
    [listed] = api.admin("GET").body["schedules"]
    assert (listed["day"], listed["time"], listed["timezone"]) == ("friday", "00:00", "UTC")
    changed = api.schedule()
    assert changed is not None
    assert (changed.expression, changed.timezone) == ("0 0 * * 5", "UTC")
    # when it is ended
    assert api.admin("DELETE", "mondays").status == 200
    assert (api.schedule(), api.rows("report_schedules")) == (None, 0)
    assert [api.admin(method, "mondays").status for method in ("GET", "DELETE")] == [404, 404]


def test_a_schedule_is_of_its_tenant_only(api: Reports) -> None:
    other = api.platform.tenant("Other", "other")
    assert api.admin("PUT", "mondays", MONDAY).status == 200
    assert api.admin("GET", tenant=other).body["schedules"] == []
    assert [api.admin(method, "mondays", tenant=other).status for method in ("GET", "DELETE")] == [404, 404]
    # and the same name of another tenant is another schedule
    assert api.admin("PUT", "mondays", MONDAY | {"day": "sunday"}, tenant=other).status == 200
    assert api.admin("DELETE", "mondays", tenant=other).status == 200
    assert api.schedule() is not None


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (MONDAY | {"timezone": "Mars/Olympus"}, 422, "timezone"),
        (MONDAY | {"timezone": "../etc"}, 422, "timezone"),
        (MONDAY | {"day": "noday"}, 400, "day"),
        (MONDAY | {"time": "24:00"}, 400, "time"),
        (MONDAY | {"tenant_id": "x"}, 400, "tenant_id"),
        ({"time": "06:30"}, 400, "day"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_written(
    api: Reports, body: Mapping[str, Any], status: int, field: str
) -> None:
    answer = api.admin("PUT", "mondays", body)
    assert (answer.status, list(answer.fields)) == (status, [field])
    assert (api.rows("report_schedules"), api.schedule()) == (0, None)


def test_a_name_that_is_not_one_is_refused(api: Reports) -> None:
    assert api.admin("PUT", "Mondays", MONDAY).fields.keys() == {"name"}
    assert api.admin("PUT", "x" * 41, MONDAY).status == 400


def test_a_tenant_has_a_bounded_number_of_schedules(api: Reports) -> None:
    for number in range(report_schedules.MOST):
        assert api.admin("PUT", f"r{number}", MONDAY).status == 200
    answer = api.admin("PUT", "more", MONDAY)
    assert (answer.status, list(answer.fields)) == (422, ["name"])
    assert api.admin("PUT", "r0", MONDAY | {"day": "friday"}).status == 200  # a change is no further one
    assert len(api.admin("GET").body["schedules"]) == report_schedules.MOST


def test_a_deleted_tenant_has_no_reports(api: Reports) -> None:
    gone = api.platform.tenant("Gone", "gone", status="deleted")
    assert api.admin("PUT", "mondays", MONDAY, tenant=gone).status == 404


def test_the_row_and_the_schedule_commit_together(api: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a request that fails after both were written
    assert api.admin("PUT", "kept", MONDAY).status == 200
    original = storage.transaction

    @contextmanager
    def failing() -> Iterator[Any]:
        with original() as session:
            yield session
            raise RuntimeError("the process ends here")

    monkeypatch.setattr(routes, "transaction", failing)
    # when
    answers = [api.admin("PUT", "mondays", MONDAY), api.admin("DELETE", "kept")]
    # then neither is there, and neither is gone
    assert [answer.status for answer in answers] == [500, 500]
    assert (api.schedule("mondays"), api.schedule("kept") is not None, api.rows("report_schedules")) == (None, True, 1)


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_change_while_an_operator_changes_the_schedule_is_to_be_tried_again(api: Reports, method: str) -> None:
    # given an operator's change that has not ended, and a patience of 50 ms in place of 5 seconds
    assert api.admin("PUT", "mondays", MONDAY).status == 200
    world = api.platform.world
    world.run(f"alter function joblane.lock_schedule_{VERSION}(json) set lock_timeout = '50ms'")
    name = report_schedules.name_of(uuid.UUID(api.tenant), "mondays")
    body = MONDAY | {"day": "friday"} if method == "PUT" else None
    with Session(world.database.engine) as session:
        world.client.schedules.pause(name, session=session)
        # when
        answer = api.admin(method, "mondays", body)
    # then nothing was changed, and the next try succeeds
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert api.admin("GET", "mondays").body["day"] == "monday"
    assert api.admin(method, "mondays", body).status == 200


def test_the_schedules_of_a_tenant_end_with_its_removal(api: Reports) -> None:
    # given a tenant that was deleted long ago, and another one
    other = api.platform.tenant("Other", "other")
    for tenant in (api.tenant, other):
        assert api.admin("PUT", "mondays", MONDAY, tenant=tenant).status == 200
    api.platform.world.run("update saas.tenants set deleted_at = now() - interval '31 days' where id = $1", api.tenant)
    # when
    row = api.platform.do(tenant_cleanup, TenantCleanup())
    # then
    assert row["result"]["tenants"] == 1
    assert (api.schedule(), api.schedule(tenant=other) is not None) == (None, True)


def test_a_tick_writes_the_report_of_its_tenant_only(app: App) -> None:
    # given two tenants, of which one has a schedule
    tenant = uuid.UUID(app.tenant())
    app.tenant("Other", "other")
    report = report_schedules.ReportSchedule("mondays", "monday", "06:30", "Europe/Berlin")
    app.jobs.schedules.put(
        report_schedules.name_of(tenant, report.name),
        report_generate,
        ReportGenerate(tenant_id=tenant),
        report.schedule,
        tenant=str(tenant),
    )
    # when a week passes
    app.jobs.drain(within=timedelta(days=8)).check()
    # then
    assert {key.split("/")[1] for key in keys()} == {str(tenant)}


def test_the_week_is_that_of_the_tick_and_not_of_its_task() -> None:
    id_ = "@report-6f1c-mondays:2026-11-22T00:05Z:12"  # enqueued on the day before
    assert reports.Week.before(reports.asked_at(None, id_)).end == datetime(2026, 11, 22, tzinfo=UTC)  # type: ignore[arg-type]
