"""The weekly reports of tenants, in the bucket of the exports."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any

import pytest

from functions.report_generate import handler
from functions.report_generate.handler import ReportGenerate, report_generate
from saas import reports, uploads
from tests.integration.saas.conftest import BUCKET, Platform

SUNDAY = date(2026, 11, 22)
PAYLOAD = ReportGenerate(week_ending=SUNDAY)


def report(key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(uploads.s3().get_object(Bucket=BUCKET, Key=key)["Body"].read())
    return found


def keys() -> list[str]:
    return [item["Key"] for item in uploads.s3().list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def task(platform: Platform, tenant: str | None, type_: str, state: str, finished: str) -> None:
    platform.world.run(
        "insert into joblane.tasks (id, type, queue, tenant, state, payload_digest, max_attempts, retention_seconds, "
        "finished_at, expire_at, reason, dead_letter_unsent) "
        "values (gen_random_uuid()::text, $1, 'default', $2, $3, '', 1, 60, $4::text::timestamptz, now(), 'why', "
        "$3 = 'archived')",
        *(type_, tenant, state, finished),
    )


@pytest.mark.parametrize(
    ("moment", "ends"),
    [
        ("2026-11-22T08:00+00:00", "2026-11-22"),
        ("2026-11-22T00:00+00:00", "2026-11-22"),
        ("2026-11-23T07:00+00:00", "2026-11-22"),  # a retry on the next day
        ("2026-11-28T23:59+00:00", "2026-11-22"),
        ("2026-11-22T00:30+02:00", "2026-11-15"),  # still Saturday in UTC
    ],
)
def test_the_week_is_the_last_complete_week(moment: str, ends: str) -> None:
    week = reports.Week.before(datetime.fromisoformat(moment))
    assert week.end == datetime.fromisoformat(f"{ends}T00:00+00:00")
    assert (week.end - week.start).days == 7


def test_a_report_counts_what_happened_in_the_week(platform: Platform) -> None:
    # given rows inside the week, at its limits and outside
    tenant, quiet = platform.tenant(), platform.tenant("Quiet", "quiet")
    platform.tenant("Gone", "gone", status="deleted")
    role = platform.role(tenant)
    for user, status, joined in (
        ("ann", "active", "2026-11-15T00:00Z"),
        ("bob", "active", "2026-11-14T23:59Z"),
        ("eve", "inactive", "2026-11-21T23:59Z"),
        ("zoe", "active", "2026-11-22T00:00Z"),
    ):
        platform.member(tenant, role, user, status)
        platform.world.run(
            "update saas.tenant_members set joined_at = $2::text::timestamptz where user_id = $1", user, joined
        )
    for email, status, ends in (("a@b.org", "pending", "1 day"), ("c@d.org", "accepted", "1 day")):
        platform.invitation(tenant, role, email, status, ends)
    platform.world.run("update saas.user_invitations set created_at = '2026-11-20', expires_at = '2126-01-01'")
    platform.world.run("update saas.user_invitations set accepted_at = '2026-11-21' where status = 'accepted'")
    platform.invitation(tenant, role, "e@f.org", "expired")
    platform.world.run("update saas.user_invitations set expires_at = '2026-11-19' where status = 'expired'")
    for state, finished in (
        ("completed", "2026-11-15T00:00Z"),
        ("completed", "2026-11-21T12:00Z"),
        ("archived", "2026-11-20T12:00Z"),
        ("completed", "2026-11-22T00:00Z"),
    ):
        task(platform, tenant, "data:export", state, finished)
    task(platform, None, "jobs:sweep", "completed", "2026-11-20T12:00Z")
    # when the reports are written
    row = platform.do(report_generate, PAYLOAD)
    # then
    assert row["result"] == {"week_ending": "2026-11-22", "tenants": 2}
    key = f"reports/{tenant}/acme_20261122.json"
    assert set(keys()) == {key, f"reports/{quiet}/quiet_20261122.json"}
    assert report(key) == {
        "format": 1,
        "tenant": {"id": tenant, "name": "Acme", "slug": "acme", "status": "active"},
        "from": "2026-11-15T00:00:00+00:00",
        "to": "2026-11-22T00:00:00+00:00",
        "members": {"joined": 2, "by_status": {"active": 3, "inactive": 1}},
        "invitations": {"sent": 2, "accepted": 1, "expired": 1, "open": 1},
        "jobs": {"data:export": {"archived": 1, "completed": 2}},
    }
    empty = report(f"reports/{quiet}/quiet_20261122.json")
    assert (empty["members"]["by_status"], empty["invitations"]["sent"], empty["jobs"]) == ({}, 0, {})


def test_without_a_week_the_report_is_of_the_last_week(platform: Platform) -> None:
    tenant = platform.tenant()
    platform.do(report_generate, ReportGenerate())
    end = reports.Week.before(datetime.now(UTC)).end
    assert keys() == [f"reports/{tenant}/acme_{end:%Y%m%d}.json"]


def test_a_late_run_reports_on_the_week_before_its_enqueue(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a task whose second report could not be written, and whose retry runs weeks later
    monkeypatch.setattr(handler, "PAGE_TENANTS", 1)
    for name in ("a", "b", "c"):
        platform.tenant(name, name)
    write = reports.write
    monkeypatch.setattr(reports, "write", lambda *given: write(*given) if not keys() else 1 / 0)
    id_ = platform.enqueue(report_generate, ReportGenerate())
    assert platform.run(report_generate, id_)["state"] == "retry"
    enqueued = platform.value(
        "update joblane.tasks set created_at = created_at - interval '15 days' returning created_at"
    )
    monkeypatch.setattr(reports, "write", write)
    # when
    result = platform.run(report_generate, id_)["result"]
    # then the other reports are of the week before its enqueue
    end = reports.Week.before(enqueued).end
    assert result == {"week_ending": end.date().isoformat(), "tenants": 2}
    assert sum(key.endswith(f"_{end:%Y%m%d}.json") for key in keys()) == 2


def test_a_retry_continues_after_the_last_complete_page(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    # given five tenants on pages of two, and a write that fails once, on the second page
    monkeypatch.setattr(handler, "PAGE_TENANTS", 2)
    tenants = sorted(platform.tenant(f"T{number}", f"t{number}") for number in range(5))
    write, written = reports.write, []

    def fails_once(client: Any, bucket: str, tenant: Any, *more: Any) -> str:
        written.append(str(tenant.id))
        if len(written) == 4:
            raise ConnectionError("S3 is unavailable")
        return write(client, bucket, tenant, *more)

    monkeypatch.setattr(reports, "write", fails_once)
    # when it runs twice
    id_ = platform.enqueue(report_generate, PAYLOAD)
    assert platform.run(report_generate, id_)["state"] == "retry"
    assert platform.run(report_generate, id_)["state"] == "completed"
    # then each tenant has its report, and the first page was not written again
    assert written == [*tenants[:4], *tenants[2:]]
    assert len(keys()) == 5


def test_nothing_to_report_is_no_failure(platform: Platform) -> None:
    assert platform.do(report_generate, PAYLOAD)["result"]["tenants"] == 0
