"""The nightly cleanup removes expired data, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError

from functions.tenant_cleanup import handler
from functions.tenant_cleanup.handler import TenantCleanup, tenant_cleanup
from joblane.errors import sqlstate
from saas import objects, tenants, uploads
from tests.integration.saas.conftest import BUCKET, Platform


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
        "update saas.tenants set deleted_at = now() - $2::text::interval where id = $1::text::uuid", tenant, age
    )
    return tenant


def old_request(platform: Platform, age: str = "8 days") -> None:
    platform.world.run(
        "insert into saas.api_requests (id, fingerprint, created_at)"
        " values (gen_random_uuid(), 'x', now() - $1::text::interval)",
        age,
    )


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the handler run a week and a minute later."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(UTC) + timedelta(days=7, minutes=1)

    monkeypatch.setattr(handler, "datetime", Later)


def test_invitations_past_their_end_expire_and_others_stay(platform: Platform) -> None:
    tenant = platform.tenant()
    role = platform.role(tenant)
    platform.invitation(tenant, role, "late@example.org", ends="-1 second")
    platform.invitation(tenant, role, "open@example.org")
    platform.invitation(tenant, role, "done@example.org", status="accepted", ends="-1 day")
    assert clean(platform)["invitations"] == 1
    assert dict(platform.world.run("select email, status from saas.user_invitations")) == {
        "late@example.org": "expired",
        "open@example.org": "pending",
        "done@example.org": "accepted",
    }
    assert clean(platform)["invitations"] == 0


def test_a_tenant_deleted_long_ago_loses_its_rows_and_objects(platform: Platform) -> None:
    # given a tenant past its grace period, a tenant that can be restored, and a tenant that is not deleted
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
    # when the cleanup runs
    assert clean(platform)["tenants"] == 1
    # then the first is removed with all its data
    assert {row[0] for row in platform.world.run("select id::text from saas.tenants")} == {recent, alive}
    for table in ("roles", "tenant_members", "user_invitations"):
        assert {row[0] for row in platform.world.run(f"select tenant_id::text from saas.{table}")} == {recent, alive}
    assert {key.split("/")[1] for key in keys()} == {recent, alive}
    assert len(keys()) == 4


@pytest.mark.parametrize(("days", "removed"), [("1", 2), ("30", 1), ("3650", 0)])
def test_the_grace_period_is_a_setting(
    days: str, removed: int, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENANT_GRACE_DAYS", days)
    deleted(platform, "gone", "31 days")
    deleted(platform, "recent", "29 days")
    assert clean(platform)["tenants"] == removed


def test_an_invalid_grace_period_is_named_and_no_tenant_is_removed(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted(platform, "gone", "31 days")
    for days in ("0", "-1", "1.5", "soon", "9999999999"):
        monkeypatch.setenv("TENANT_GRACE_DAYS", days)
        row = platform.do(tenant_cleanup, TenantCleanup())
        assert row["state"] == "retry"
        assert row["error_message"].startswith("TENANT_GRACE_DAYS: ")
    assert platform.value("select count(*) from saas.tenants") == 1


def test_a_failure_of_one_tenant_does_not_affect_others(platform: Platform) -> None:
    # given a tenant whose role a member of another tenant has
    held, gone, alive = deleted(platform, "held", "40 days"), deleted(platform, "gone", "31 days"), platform.tenant()
    platform.member(alive, platform.role(held))
    put(f"exports/{held}/task/a.zip", f"exports/{gone}/task/a.zip")
    # when the cleanup runs
    id_ = platform.enqueue(tenant_cleanup, TenantCleanup())
    row = platform.run(tenant_cleanup, id_)
    # then the other tenant is removed, and the retry has only the first
    assert (row["state"], row["error_type"]) == ("retry", "PartialFailure")
    assert {item[0] for item in platform.world.run("select id::text from saas.tenants")} == {held, alive}
    assert keys() == {f"exports/{held}/task/a.zip"}
    platform.world.run("delete from saas.tenant_members")
    row = platform.run(tenant_cleanup, id_)
    assert (row["state"], row["result"]["tenants"]) == ("completed", 1)
    assert keys() == set()


@pytest.mark.parametrize("of", ["tenant", "bucket"])
def test_a_failure_of_a_tenant_or_the_bucket_does_not_affect_other_steps(
    of: str, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a tenant whose role a member of another tenant has, and other expired data of each kind
    held, alive = deleted(platform, "held", "40 days"), platform.tenant()
    platform.member(alive, platform.role(held))
    platform.invitation(alive, platform.role(alive), ends="-1 second")
    old_request(platform)
    put(f"exports/{alive}/task/old.zip")
    later(monkeypatch)
    if of == "bucket":
        monkeypatch.setattr(objects, "remove", lambda *_, **__: 1 / 0)
    # when the cleanup runs
    row = platform.run(tenant_cleanup, platform.enqueue(tenant_cleanup, TenantCleanup()))
    # then everything else is removed and committed
    assert row["state"] == "retry"
    assert row["error_type"] == "PartialFailure" or of == "bucket"
    assert platform.value("select status from saas.user_invitations") == "expired"
    assert platform.value("select count(*) from saas.api_requests") == 0
    assert len(keys()) == (of == "bucket")


def test_no_transaction_is_open_while_the_bucket_is_listed(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    old_request(platform)
    seen: list[int] = []

    def count(*_: Any, **__: Any) -> int:
        seen.append(platform.value("select count(*) from pg_stat_activity where state like 'idle in transaction%'"))
        return 0

    monkeypatch.setattr(objects, "remove", count)
    assert clean(platform)["requests"] == 1
    assert seen == [0]


def test_a_tenant_restored_before_its_removal_keeps_its_data(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = deleted(platform, "gone", "31 days")
    put(f"exports/{tenant}/task/a.zip", f"reports/{tenant}/a.json")
    remove = tenants.remove

    def restore(*given: Any) -> bool:
        platform.world.run("update saas.tenants set deleted_at = null, status = 'active' where id = $1", tenant)
        return remove(*given)

    monkeypatch.setattr(tenants, "remove", restore)
    assert clean(platform)["tenants"] == 0
    assert platform.value("select count(*) from saas.tenants") == 1
    assert len(keys()) == 2


def test_a_tenant_cannot_be_restored_while_its_objects_are_removed(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = deleted(platform, "gone", "31 days")
    found: list[str] = []

    def restore(_: Any, __: Any, prefix: str, **___: Any) -> int:
        if tenant in prefix:
            with pytest.raises(DatabaseError) as error:
                platform.world.run("select from saas.tenants where id = $1 for update nowait", tenant)
            found.append(str(sqlstate(error.value)))
        return 0

    monkeypatch.setattr(objects, "remove", restore)
    assert clean(platform)["tenants"] == 1
    assert found == ["55P03", "55P03"]  # lock_not_available


def test_old_exports_are_removed_page_by_page_and_reports_stay(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(*(f"exports/a/{number}/a.zip" for number in range(1001)), "reports/a/a.json")
    assert clean(platform)["exports"] == 0
    later(monkeypatch)
    assert clean(platform)["exports"] == 1001
    assert keys() == {"reports/a/a.json"}


def test_stored_requests_are_removed_after_a_week(platform: Platform) -> None:
    old_request(platform, "6 days")
    old_request(platform)
    assert clean(platform)["requests"] == 1
    assert platform.value("select count(*) from saas.api_requests") == 1
