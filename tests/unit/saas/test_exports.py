"""The key of an export, and its mail."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from saas.exports import Export, compose_notice, key_of
from saas.tenants import Tenant

NOW = datetime(2026, 11, 24, 23, 59, tzinfo=UTC)


def a_tenant(slug: str = "acme", name: str = "Acme") -> Tenant:
    return Tenant(UUID(int=7), name, slug, "active", {"key": "5ecret"}, NOW)


def test_the_key_holds_tenant_task_slug_and_day() -> None:
    assert key_of(a_tenant(), "019a-b", NOW) == f"exports/{UUID(int=7)}/019a-b/acme_20261124.zip"


@pytest.mark.parametrize("task_id", ["../../other", "..", ".", "a/b", "a?b#c", "data:export:0:2026-11-24T00:00Z"])
def test_no_task_id_escapes_its_folder(task_id: str) -> None:
    parts = key_of(a_tenant(), task_id, NOW).split("/")
    assert len(parts) == 4
    assert parts[1] == str(UUID(int=7))
    assert "." not in parts[2]


def test_different_task_ids_have_different_folders() -> None:
    ids = ["a/b", "a%2Fb", "a.b", "a%2Eb"]
    assert len({key_of(a_tenant(), task_id, NOW) for task_id in ids}) == len(ids)


@pytest.mark.parametrize(
    ("slug", "file"), [("../a b", "a-b"), ("", "tenant"), ("ä", "tenant"), ("a" * 255, "a" * 100), ("a\r\nb", "a-b")]
)
def test_no_slug_is_a_path(slug: str, file: str) -> None:
    assert key_of(a_tenant(slug), "t", NOW).rpartition("/")[2] == f"{file}_20261124.zip"


def test_the_longest_key_fits_into_s3() -> None:
    assert len(key_of(a_tenant("a" * 255), "/" * 200, NOW)) <= 1024


def test_the_mail_describes_the_export_and_has_no_link() -> None:
    export = Export(key_of(a_tenant(), "019a", NOW), 1234, {"members": 2, "invitations": 1, "roles": 3})
    mail = compose_notice(a_tenant(name="Acme\r\nBcc: x@y.z"), export, "ann@example.org", kept_until=NOW, key="k")
    assert mail.subject == "The export of Acme Bcc: x@y.z is ready"
    for part in ("acme_20261124.zip, 1234 bytes", "2 members", "1 invitations", "3 roles", "24 November 2026"):
        assert part in mail.text
    assert "exports/" not in mail.text
    assert "http" not in mail.text
