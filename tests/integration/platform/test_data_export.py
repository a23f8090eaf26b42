"""An export is a zip with what the tenant has, and its user hears of it."""

from __future__ import annotations

import hashlib
import json
import uuid
import zipfile
from io import BytesIO
from typing import Any

import pytest

from functions.data_export.handler import DataExport, data_export
from shared.platform import exports, uploads
from tests.integration.platform.conftest import BUCKET, Platform, lines

USER = uuid.uuid4()


def payload(tenant: str, export_type: Any = "full") -> DataExport:
    return DataExport(tenant_id=uuid.UUID(tenant), user_id=USER, export_type=export_type)


def files(key: str) -> dict[str, bytes]:
    data = uploads.s3().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    with zipfile.ZipFile(BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def tenant(platform: Platform) -> str:
    """Two active members and two others, an open invitation and two others, four roles of which one is not in use."""
    tenant, other = platform.tenant(), platform.tenant("Other", "other")
    editor, viewer, foreign = platform.role(tenant), platform.role(tenant, "Viewer"), platform.role(other)
    admin = platform.role(None, "Admin")
    platform.role(None, "Unused")
    platform.member(tenant, editor, str(USER))
    platform.member(tenant, admin, "ann|1")
    platform.member(tenant, editor, "bob", "inactive")
    platform.member(tenant, editor, "", "pending")
    platform.member(other, foreign, "eve")
    platform.invitation(tenant, viewer, "open@example.org")
    platform.invitation(tenant, viewer, "late@example.org", ends="-1 day")
    platform.invitation(tenant, viewer, "done@example.org", status="accepted")
    platform.invitation(other, foreign, "eve@example.org")
    return tenant


def test_a_full_export_holds_everything_of_the_tenant_and_of_nobody_else(platform: Platform, tenant: str) -> None:
    row = platform.do(data_export, payload(tenant))
    assert row["state"] == "completed"
    result = row["result"]
    assert result["key"].startswith(f"exports/{tenant}/{row['id']}/acme_")
    assert result["counts"] == {"members": 4, "invitations": 3, "roles": 3}
    found = files(result["key"])
    assert list(found) == ["members.jsonl", "invitations.jsonl", "roles.jsonl", "manifest.json"]
    assert {member["user_id"] for member in lines(found["members.jsonl"])} == {str(USER), "ann|1", "bob", ""}
    assert {role["name"] for role in lines(found["roles.jsonl"])} == {"Editor", "Viewer", "Admin"}
    assert {item["email"] for item in lines(found["invitations.jsonl"])} == {
        "open@example.org",
        "late@example.org",
        "done@example.org",
    }
    assert b"t0ken" not in b"".join(found.values())


def test_a_partial_export_holds_who_has_access_now(platform: Platform, tenant: str) -> None:
    found = files(platform.do(data_export, payload(tenant, "partial"))["result"]["key"])
    assert {member["user_id"] for member in lines(found["members.jsonl"])} == {str(USER), "ann|1"}
    assert [item["email"] for item in lines(found["invitations.jsonl"])] == ["open@example.org"]
    assert json.loads(found["manifest.json"])["export_type"] == "partial"


def test_the_manifest_proves_the_files(platform: Platform, tenant: str) -> None:
    result = platform.do(data_export, payload(tenant))["result"]
    found = files(result["key"])
    manifest = json.loads(found.pop("manifest.json"))
    assert manifest["tenant"]["slug"] == "acme"
    assert set(manifest["files"]) == set(found)
    for name, content in found.items():
        entry = manifest["files"][name]
        assert entry == {
            "rows": len(content.splitlines()),
            "size_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    head = uploads.s3().head_object(Bucket=BUCKET, Key=result["key"])
    assert head["ContentLength"] == result["size_bytes"]


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5])
def test_pages_lose_and_repeat_nothing(rows: int, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "PAGE_ROWS", 2)
    tenant = platform.tenant()
    role = platform.role(tenant)
    for number in range(rows):
        platform.member(tenant, role, f"user-{number}")
        platform.invitation(tenant, role)
    found = files(platform.do(data_export, payload(tenant))["result"]["key"])
    assert [item["user_id"] for item in lines(found["members.jsonl"])] == [f"user-{number}" for number in range(rows)]
    assert len({item["id"] for item in lines(found["invitations.jsonl"])}) == rows


def test_the_user_is_written_to(platform: Platform, tenant: str) -> None:
    platform.world.run("insert into user_addresses (user_id, email) values ($1, 'ann@example.org')", str(USER))
    row = platform.do(data_export, payload(tenant))
    assert row["result"]["notified"] is True
    (mail,) = platform.mails
    assert mail["To"] == "ann@example.org"
    assert mail["Subject"] == "The export of Acme is ready"


@pytest.mark.parametrize("trouble", ["no address", "bad address", "no settings", "provider"])
def test_a_notification_that_fails_never_fails_the_export(
    trouble: str, platform: Platform, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble != "no address":
        email = "nobody" if trouble == "bad address" else "ann@example.org"
        platform.world.run("insert into user_addresses (user_id, email) values ($1, $2)", str(USER), email)
    if trouble == "no settings":
        monkeypatch.delenv("EMAIL_FROM_ADDRESS")
    if trouble == "provider":
        monkeypatch.setenv("EMAIL_PROVIDER", "ses")
    row = platform.do(data_export, payload(tenant))
    assert row["state"] == "completed"
    assert row["result"]["notified"] is False
    assert files(row["result"]["key"])


def test_a_tenant_that_does_not_exist_is_given_up_at_once(platform: Platform) -> None:
    gone = platform.tenant("Gone", "gone", status="deleted")
    for tenant in (str(uuid.uuid4()), gone):
        row = platform.do(data_export, payload(tenant))
        assert (row["state"], row["attempts"]) == ("archived", 1)
    assert "Contents" not in uploads.s3().list_objects_v2(Bucket=BUCKET)


def test_a_missing_bucket_setting_is_named(platform: Platform, tenant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPORT_BUCKET")
    row = platform.do(data_export, payload(tenant))
    assert row["state"] == "retry"
    assert "EXPORT_BUCKET" in row["error_message"]


def test_a_run_that_breaks_off_leaves_no_object(
    platform: Platform, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("broken off")

    monkeypatch.setattr(exports, "_manifest", broken)
    assert platform.do(data_export, payload(tenant))["state"] == "retry"
    assert "Contents" not in uploads.s3().list_objects_v2(Bucket=BUCKET)


def test_the_user_of_a_system_user_has_an_address_too(platform: Platform, tenant: str) -> None:
    platform.world.run(
        "insert into system_users (name, application_name, email, user_id, service_type, created_by) "
        "values ('sync', 'sync', 'sync@example.org', $1, 'worker', 'founder')",
        str(USER),
    )
    assert platform.do(data_export, payload(tenant))["result"]["notified"] is True
    assert [mail["To"] for mail in platform.mails] == ["sync@example.org"]
