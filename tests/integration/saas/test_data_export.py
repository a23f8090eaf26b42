"""An export is a zip of the tenant's data, and the user gets a mail about it."""

from __future__ import annotations

import hashlib
import json
import uuid
import zipfile
from datetime import timedelta
from io import BytesIO
from typing import Any

import pytest

from functions.data_export.handler import DataExport, data_export
from saas import exports, uploads
from tests.integration.saas.conftest import BUCKET, App, lines

USER = uuid.uuid4()


def payload(tenant: str, export_type: Any = "full") -> DataExport:
    return DataExport(tenant_id=uuid.UUID(tenant), user_id=USER, export_type=export_type)


def files(key: str) -> dict[str, bytes]:
    data = uploads.s3().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    with zipfile.ZipFile(BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def tenant(app: App) -> str:
    """A tenant with two active and two other members, an open and two other invitations, and an unused role."""
    tenant, other = app.tenant(), app.tenant("Other", "other")
    editor, viewer, foreign = app.role(tenant), app.role(tenant, "Viewer"), app.role(other)
    admin = app.role(None, "Admin")
    app.role(None, "Unused")
    app.member(tenant, editor, str(USER))
    app.member(tenant, admin, "ann|1")
    app.member(tenant, editor, "bob", "inactive")
    app.member(tenant, editor, "", "pending")
    app.member(other, foreign, "eve")
    app.invitation(tenant, viewer, "open@example.org")
    app.invitation(tenant, viewer, "late@example.org", ends="-1 day")
    app.invitation(tenant, viewer, "done@example.org", status="accepted")
    app.invitation(other, foreign, "eve@example.org")
    return tenant


def test_a_full_export_holds_all_data_of_the_tenant_and_no_other(app: App, tenant: str) -> None:
    ended = app.do(data_export, payload(tenant))
    assert ended.state == "completed"
    result = ended.result
    assert result["key"].startswith(f"exports/{tenant}/{ended.id}/acme_")
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


def test_a_partial_export_holds_active_members_and_open_invitations(app: App, tenant: str) -> None:
    found = files(app.do(data_export, payload(tenant, "partial")).result["key"])
    assert {member["user_id"] for member in lines(found["members.jsonl"])} == {str(USER), "ann|1"}
    assert [item["email"] for item in lines(found["invitations.jsonl"])] == ["open@example.org"]
    assert json.loads(found["manifest.json"])["export_type"] == "partial"


def test_the_manifest_describes_the_files(app: App, tenant: str) -> None:
    result = app.do(data_export, payload(tenant)).result
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
def test_pages_neither_lose_nor_repeat_rows(rows: int, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "PAGE_ROWS", 2)
    tenant = app.tenant()
    role = app.role(tenant)
    for number in range(rows):
        app.member(tenant, role, f"user-{number}")
        app.invitation(tenant, role)
    found = files(app.do(data_export, payload(tenant)).result["key"])
    assert [item["user_id"] for item in lines(found["members.jsonl"])] == [f"user-{number}" for number in range(rows)]
    assert len({item["id"] for item in lines(found["invitations.jsonl"])}) == rows


def test_the_user_gets_a_mail(app: App, tenant: str) -> None:
    app.sql("insert into saas.user_addresses (user_id, email) values ($1, 'ann@example.org')", str(USER))
    ended = app.do(data_export, payload(tenant))
    assert ended.result["notified"] is True
    (mail,) = app.mails
    assert mail["To"] == "ann@example.org"
    assert mail["Subject"] == "The export of Acme is ready"


@pytest.mark.parametrize("trouble", ["no address", "bad address", "no settings", "provider"])
def test_a_failed_notification_does_not_fail_the_export(
    trouble: str, app: App, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble != "no address":
        email = "nobody" if trouble == "bad address" else "ann@example.org"
        app.sql("insert into saas.user_addresses (user_id, email) values ($1, $2)", str(USER), email)
    if trouble == "no settings":
        monkeypatch.delenv("EMAIL_FROM_ADDRESS")
    if trouble == "provider":
        monkeypatch.setenv("EMAIL_PROVIDER", "ses")
    ended = app.do(data_export, payload(tenant))
    assert ended.state == "completed"
    assert ended.result["notified"] is False
    assert files(ended.result["key"])


def test_a_task_of_a_missing_tenant_is_archived_at_once(app: App) -> None:
    gone = app.tenant("Gone", "gone", status="deleted")
    for tenant in (str(uuid.uuid4()), gone):
        ended = app.do(data_export, payload(tenant))
        assert (ended.state, ended.attempts) == ("archived", 1)
    assert "Contents" not in uploads.s3().list_objects_v2(Bucket=BUCKET)


def test_a_missing_bucket_setting_is_named(app: App, tenant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPORT_BUCKET")
    ended = app.do(data_export, payload(tenant))
    assert ended.state == "retry"
    assert "EXPORT_BUCKET" in str(ended.error_message)


def test_a_failed_run_leaves_no_object(app: App, tenant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("broken off")

    monkeypatch.setattr(exports, "_manifest", broken)
    assert app.do(data_export, payload(tenant)).state == "retry"
    assert "Contents" not in uploads.s3().list_objects_v2(Bucket=BUCKET)


def test_an_export_of_a_killed_process_is_written_again_with_the_same_key(app: App, tenant: str) -> None:
    app.jobs.enqueue(data_export, payload(tenant))
    with app.jobs.crash_before_commit():
        assert app.jobs.drain().only.state == "active"
    ended = app.jobs.drain(within=timedelta(hours=1)).check().only
    assert ended.outcomes == ("lost", "completed")
    written = uploads.s3().list_objects_v2(Bucket=BUCKET)["Contents"]
    assert {item["Key"].rpartition("/")[0] for item in written} == {f"exports/{tenant}/{ended.id}"}
    assert files(ended.result["key"])


def test_a_system_user_has_an_address_too(app: App, tenant: str) -> None:
    app.sql(
        "insert into saas.system_users (name, application_name, email, user_id, service_type, created_by) "
        "values ('sync', 'sync', 'sync@example.org', $1, 'worker', 'founder')",
        str(USER),
    )
    assert app.do(data_export, payload(tenant)).result["notified"] is True
    assert [mail["To"] for mail in app.mails] == ["sync@example.org"]
