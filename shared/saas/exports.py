"""Exports of a tenant's data: a zip of JSON Lines and a manifest, written while the rows are read.

========================  =============================================  ==============================================
file                      ``full``                                       ``partial``
========================  =============================================  ==============================================
``members.jsonl``         all members, with any status                   active members
``invitations.jsonl``     all invitations, past ones included            open invitations: pending and not expired
``roles.jsonl``           the tenant's roles, and the system roles of its members and invitations, the same in both
``manifest.json``         tenant, type and time of the export; rows, bytes and SHA-256 of each file
========================  =============================================  ==============================================

So ``full`` is all data, and ``partial`` shows the people who have access or will get it. Neither contains the tokens of
invitations. The format is JSON Lines and not CSV, because it keeps types and no spreadsheet runs a name as a formula.

Rows are read in pages by their keys, so memory does not grow with the tenant. Each page is the committed state at the
time of its reading; the manifest has the times of the first and the last page.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any, Literal
from urllib.parse import quote
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, or_, select, union

from saas.mail import Mail, one_line
from saas.tables import roles, tenant_members, user_invitations
from saas.tenants import Tenant
from saas.uploads import Upload

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from sqlalchemy.orm import Session

ExportType = Literal["full", "partial"]
FOLDER = "exports/"
KEPT = timedelta(days=7)
LINK_LASTS = timedelta(minutes=5)
FORMAT = 1
PAGE_ROWS = 1000
CONTENT_TYPE = "application/zip"
UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
MAX_SLUG = 100


@dataclass(frozen=True, slots=True)
class Export:
    """A written export. ``counts``: rows by name of the file, without its suffix."""

    key: str
    size_bytes: int
    counts: Mapping[str, int]


def key_of(tenant: Tenant, task_id: str, day: datetime) -> str:
    """Return ``exports/{tenant_id}/{task_id}/{slug}_{YYYYMMDD}.zip``, with slug and id safe as parts of a path."""
    folder = quote(task_id, safe="").replace(".", "%2E")
    return f"{folder_of(tenant.id)}{folder}/{file_slug(tenant)}_{day.astimezone(UTC):%Y%m%d}.zip"


def folder_of(tenant_id: UUID) -> str:
    """Return the key prefix of a tenant's exports, which no other tenant's exports have."""
    return f"{FOLDER}{tenant_id}/"


def file_slug(tenant: Tenant) -> str:
    """Return the slug in a form that is safe in a file name."""
    return UNSAFE.sub("-", tenant.slug)[:MAX_SLUG].strip("-") or "tenant"


def link(client: S3Client, bucket: str, key: str) -> str:
    """Return a link to an export. Anyone who has it can download the export for ``LINK_LASTS``."""
    name = key.rpartition("/")[2]
    return client.generate_presigned_url(
        "get_object",
        Params={"Bucket": bucket, "Key": key, "ResponseContentDisposition": f'attachment; filename="{name}"'},
        ExpiresIn=int(LINK_LASTS.total_seconds()),
    )


def write(
    session: Session,
    tenant: Tenant,
    export_type: ExportType,
    *,
    task_id: str,
    client: S3Client,
    bucket: str,
    on_page: Callable[[], None] = lambda: None,
) -> Export:
    """Write the export into ``bucket``. ``on_page`` is called after each page; an exception of it ends the export.

    The object is written whole or not at all. A second attempt on the same day writes the same key.
    """
    started = datetime.now(UTC)
    key = key_of(tenant, task_id, started)
    sources = {
        "members": _members(tenant.id, export_type),
        "invitations": _invitations(tenant.id, export_type),
        "roles": _roles(tenant.id),
    }
    files: dict[str, dict[str, Any]] = {}
    with (
        Upload(client, bucket, key, content_type=CONTENT_TYPE) as upload,
        # the stream cannot seek, so zipfile writes sizes behind the data
        zipfile.ZipFile(upload, "w", zipfile.ZIP_DEFLATED) as archive,  # type: ignore[call-overload]
    ):
        for name, (statement, after) in sources.items():
            with archive.open(_entry(f"{name}.jsonl", started), "w", force_zip64=True) as file:
                files[name] = _write_rows(file, _pages(session, statement, after), on_page)
        manifest = _manifest(tenant, export_type, task_id, started, files)
        archive.writestr(_entry("manifest.json", started), json.dumps(manifest, ensure_ascii=False, indent=2))
    return Export(key, upload.size_bytes, {name: file["rows"] for name, file in files.items()})


def compose_notice(tenant: Tenant, export: Export, to: str, *, kept_until: datetime, key: str) -> Mail:
    """Return the mail that an export is ready. It has no link, so that every download is authorised by the API."""
    name = one_line(tenant.name)
    rows = "".join(f"  {count} {name_of_file}\n" for name_of_file, count in export.counts.items())
    text = (
        f"The export of {name} is ready:\n\n"
        f"  {export.key.rpartition('/')[2]}, {export.size_bytes} bytes\n{rows}\n"
        f"Download it from the platform. It is kept until {kept_until.astimezone(UTC):%d %B %Y}.\n"
    )
    return Mail(to, f"The export of {one_line(name, 120)} is ready", text, key=key)


# --- Rows ----------------------------------------------------------------------------------------------------------

Source = tuple[Select[Any], ColumnElement[Any]]
"""A statement without an order, and a column that is unique in its rows and follows ``tenant_id`` in an index."""


def _members(tenant_id: UUID, export_type: ExportType) -> Source:
    members = tenant_members.c
    names = ("user_id", "id", "role_id", "status", "invited_by", "joined_at", "created_at", "updated_at")
    statement = select(*members[names]).where(members.tenant_id == tenant_id)
    if export_type == "partial":
        statement = statement.where(members.status == "active")
    return statement, members.user_id


def _invitations(tenant_id: UUID, export_type: ExportType) -> Source:
    invitations = user_invitations.c
    names = ("id", "email", "invited_by", "role_id", "status", "accepted_at", "expires_at", "created_at", "updated_at")
    statement = select(*invitations[names]).where(invitations.tenant_id == tenant_id)
    if export_type == "partial":
        statement = statement.where(invitations.status == "pending", invitations.expires_at > func.now())
    return statement, invitations.id


def _roles(tenant_id: UUID) -> Source:
    given = union(
        select(tenant_members.c.role_id).where(tenant_members.c.tenant_id == tenant_id),
        select(user_invitations.c.role_id).where(user_invitations.c.tenant_id == tenant_id),
    )
    names = ("id", "name", "type", "description", "is_system", "created_at", "updated_at")
    of_system = roles.c.tenant_id.is_(None) & roles.c.id.in_(given)
    return select(*roles.c[names]).where(or_(roles.c.tenant_id == tenant_id, of_system)), roles.c.id


# --- Reading and writing -------------------------------------------------------------------------------------------


def _pages(session: Session, statement: Select[Any], after: ColumnElement[Any]) -> Iterator[list[dict[str, Any]]]:
    """Return the rows of a statement in order of ``after``, in pages of ``PAGE_ROWS``."""
    ordered = statement.order_by(after).limit(PAGE_ROWS)
    rows = session.execute(ordered).mappings().all()
    while rows:
        yield [dict(row) for row in rows]
        if len(rows) < PAGE_ROWS:
            return
        rows = session.execute(ordered.where(after > rows[-1][after])).mappings().all()


def _write_rows(file: IO[bytes], pages: Iterator[list[dict[str, Any]]], on_page: Callable[[], None]) -> dict[str, Any]:
    """Write a JSON object per line, and return the file's entry in the manifest."""
    digest, rows, size = hashlib.sha256(), 0, 0
    for page in pages:
        data = "".join(json.dumps(row, ensure_ascii=False, default=_plain) + "\n" for row in page).encode()
        file.write(data)
        digest.update(data)
        rows += len(page)
        size += len(data)
        on_page()
    return {"rows": rows, "size_bytes": size, "sha256": digest.hexdigest()}


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be written to an export")


def _manifest(
    tenant: Tenant, export_type: ExportType, task_id: str, started: datetime, files: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "export_type": export_type,
        "task_id": task_id,
        "tenant": {
            "id": str(tenant.id),
            "name": tenant.name,
            "slug": tenant.slug,
            "status": tenant.status,
            "created_at": _plain(tenant.created_at),
        },
        "started_at": started.isoformat(),
        "finished_at": datetime.now(UTC).isoformat(),
        "files": {f"{name}.jsonl": file for name, file in files.items()},
    }


def _entry(name: str, at: datetime) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, (at.year, at.month, at.day, at.hour, at.minute, at.second))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o600 << 16
    return entry
