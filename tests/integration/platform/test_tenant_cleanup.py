"""At night goes what has expired, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from functions.tenant_cleanup.handler import TenantCleanup, tenant_cleanup
from shared.platform import uploads
from tests.integration.platform.conftest import BUCKET, Platform


def clean(platform: Platform) -> dict[str, Any]:
    row = platform.do(tenant_cleanup, TenantCleanup())
    assert row["state"] == "completed", row["error_message"]
    return row["result"]  # type: ignore[no-any-return]


def put(*keys: str) -> None:
    for key in keys:
        uploads.s3().put_object(Bucket=BUCKET, Key=key, Body=b"")


def keys() -> set[str]:
    return {item["Key"] for item in uploads.s3().list_objects_v2(Bucket=BUCKET).get("Contents", [])}


def deleted(platform: Platform, slug: str, age: str) -> str:
    tenant = platform.tenant(slug, slug, status="deleted")
    platform.world.run(
        "update tenants set deleted_at = now() - $2::text::interval where id = $1::text::uuid", tenant, age
    )
    return tenant


def test_invitations_past_their_end_expire_and_others_stay(platform: Platform) -> None:
    tenant = platform.tenant()
    role = platform.role(tenant)
    platform.invitation(tenant, role, "late@example.org", ends="-1 second")
    platform.invitation(tenant, role, "open@example.org")
    platform.invitation(tenant, role, "done@example.org", status="accepted", ends="-1 day")
    assert clean(platform)["invitations"] == 1
    assert dict(platform.world.run("select email, status from user_invitations")) == {
        "late@example.org": "expired",
        "open@example.org": "pending",
        "done@example.org": "accepted",
    }
    assert clean(platform)["invitations"] == 0


def test_a_tenant_deleted_long_ago_loses_its_rows_and_objects(platform: Platform) -> None:
    # given one whose grace is over, one that can be brought back, and one that lives
    gone, recent, alive = (
        deleted(platform, "gone", "31 days"),
        deleted(platform, "recent", "29 days"),
        platform.tenant(),
    )
    for tenant in (gone, recent, alive):
        role = platform.role(tenant)
        platform.member(tenant, role)
        platform.invitation(tenant, role)
        put(f"exports/{tenant}/task/a.zip", f"reports/{tenant}/a.json")
    # when it is cleaned up
    assert clean(platform)["tenants"] == 1
    # then the first has gone with all that was its
    assert {row[0] for row in platform.world.run("select id::text from tenants")} == {recent, alive}
    for table in ("roles", "tenant_members", "user_invitations"):
        assert {row[0] for row in platform.world.run(f"select tenant_id::text from {table}")} == {recent, alive}
    assert {key.split("/")[1] for key in keys()} == {recent, alive}
    assert len(keys()) == 4


@pytest.mark.parametrize(("days", "removed"), [("1", 2), ("30", 1), ("3650", 0)])
def test_the_grace_is_a_setting(days: str, removed: int, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANT_GRACE_DAYS", days)
    deleted(platform, "gone", "31 days")
    deleted(platform, "recent", "29 days")
    assert clean(platform)["tenants"] == removed


def test_a_grace_that_is_no_number_of_days_is_named_and_nobody_is_removed(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted(platform, "gone", "31 days")
    for days in ("0", "-1", "1.5", "soon", "9999999999"):
        monkeypatch.setenv("TENANT_GRACE_DAYS", days)
        row = platform.do(tenant_cleanup, TenantCleanup())
        assert row["state"] == "retry"
        assert row["error_message"].startswith("TENANT_GRACE_DAYS: ")
    assert platform.value("select count(*) from tenants") == 1


def test_what_is_wrong_with_one_tenant_keeps_no_other(platform: Platform) -> None:
    # given one whose role somebody else's member has
    held, gone, alive = deleted(platform, "held", "40 days"), deleted(platform, "gone", "31 days"), platform.tenant()
    platform.member(alive, platform.role(held))
    # when it is cleaned up
    id_ = platform.enqueue(tenant_cleanup, TenantCleanup())
    row = platform.run(tenant_cleanup, id_)
    # then the other has gone, and the retry has the one alone
    assert (row["state"], row["error_type"]) == ("retry", "PartialFailure")
    assert {item[0] for item in platform.world.run("select id::text from tenants")} == {held, alive}
    platform.world.run("delete from tenant_members")
    row = platform.run(tenant_cleanup, id_)
    assert (row["state"], row["result"]["tenants"]) == ("completed", 1)
    assert gone != held


def test_a_tenant_that_is_brought_back_meanwhile_stays(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    from shared.platform import objects

    tenant = deleted(platform, "gone", "31 days")

    def bring_back(*_: Any, **__: Any) -> int:
        platform.world.run("update tenants set deleted_at = null, status = 'active' where id = $1", tenant)
        return 0

    monkeypatch.setattr(objects, "remove", bring_back)
    assert clean(platform)["tenants"] == 0
    assert platform.value("select count(*) from tenants") == 1


def test_old_exports_go_page_by_page_and_reports_stay(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    from functions.tenant_cleanup import handler

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(UTC) + timedelta(days=7, minutes=1)

    put(*(f"exports/a/{number}/a.zip" for number in range(1001)), "reports/a/a.json")
    assert clean(platform)["exports"] == 0
    monkeypatch.setattr(handler, "datetime", Later)
    assert clean(platform)["exports"] == 1001
    assert keys() == {"reports/a/a.json"}


def test_requests_are_forgotten_after_a_week(platform: Platform) -> None:
    for age in ("6 days", "8 days"):
        platform.world.run(
            "insert into api_requests (id, fingerprint, created_at)"
            " values (gen_random_uuid(), 'x', now() - $1::text::interval)",
            age,
        )
    assert clean(platform)["requests"] == 1
    assert platform.value("select count(*) from api_requests") == 1
