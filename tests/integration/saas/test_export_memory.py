"""The memory of an export does not grow with its tenant."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from http.server import BaseHTTPRequestHandler

import pytest

from joblane.record.driver.database import Database
from saas.uploads import PART_BYTES
from tests.unit.saas.servers import HttpServer, status

SMALL, LARGE = 2_000, 30_000
ALLOWED_MB = 20

# The work of a function for an export, in its own process. The peak is VmHWM: `ru_maxrss` begins with the value of the
# parent process, which is larger here, so it would show no difference.
EXPORT = """
import re, sys, uuid
from pathlib import Path
from sqlalchemy.orm import Session
from joblane.record.driver.database import Database
from saas import exports, tenants, uploads

database = Database(sys.argv[1])
with Session(database.engine) as session:
    tenant = tenants.load(session, uuid.UUID(sys.argv[2]))
    export = exports.write(session, tenant, "full", task_id="t", client=uploads.s3(), bucket="exports")
database.drop()
peak_kib = re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1]
print(export.counts["members"], export.size_bytes, peak_kib)
"""


def s3(handler: BaseHTTPRequestHandler) -> None:
    """Answer an upload as S3 does. moto would keep the upload in the measured memory."""
    begun = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
    done = "<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
    body = "" if handler.command == "PUT" else begun if handler.path.endswith("?uploads") else done
    status(200, body.encode(), ETag='"1"')(handler)


def fill(database: Database, members: int) -> uuid.UUID:
    tenant, role = uuid.uuid4(), uuid.uuid4()
    connection = database.get()
    connection.run(
        "insert into saas.tenants (id, name, slug, created_by) values ($1, 'Acme', $2, 'founder')",
        tenant,
        f"t-{members}",
    )
    connection.run(
        "insert into saas.roles (id, name, type, tenant_id) values ($1, 'Editor', 'tenant', $2)", role, tenant
    )
    connection.run(
        "insert into saas.tenant_members (tenant_id, user_id, role_id, invited_by, joined_at) "
        "select $1, member, $2, inviter, now() from generate_series(1, $3::int) n, lateral"
        " (select string_agg(gen_random_uuid()::text, '') || n member, string_agg(gen_random_uuid()::text, '') inviter"
        "  from generate_series(1, 6)) long",
        *(tenant, role, members),
    )
    return tenant


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is in /proc, which only Linux has")
def test_an_export_of_many_members_needs_little_more_memory_than_one_of_few(database_url: str) -> None:
    with Database(database_url, limits=None) as database:
        tenants = {members: fill(database, members) for members in (SMALL, LARGE)}
    peaks = {}
    with HttpServer([s3], protocol="HTTP/1.1").running() as server:
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL_S3": server.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        for members, tenant in tenants.items():
            command = [sys.executable, "-c", EXPORT, database_url, str(tenant)]
            run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert run.returncode == 0, run.stderr
            count, size, peak_kib = map(int, run.stdout.split())
            peaks[members] = peak_kib * 1024 / 1_000_000
            assert count == members
            print(f"{members} members: zip of {size} bytes, peak {peaks[members]:.1f} MB")
    assert size > PART_BYTES, "the large export must have several parts"
    assert 0 < peaks[LARGE] - peaks[SMALL] <= ALLOWED_MB  # no difference would mean that nothing is measured
