"""The preflight's reading from a database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from joblane.cdk.preflight.compare import DatabaseState
from joblane.cdk.preflight.findings import Finding, Kind
from joblane.cdk.preflight.read import read_database
from joblane.record import migrations
from joblane.record.database import Database


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.drop()


def put(database: Database, id_: str, type_: str, queue: str, state: str) -> None:
    database.get().run(
        "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds)"
        " values ($1, $2, $3, $4, '', 1, 60)",
        *(id_, type_, queue, state),
    )


def read(url: str) -> DatabaseState:
    found = read_database(url, "jobs")
    assert isinstance(found, DatabaseState), found
    return found


def test_only_live_tasks_are_counted_by_type_and_queue(database: Database, database_url: str) -> None:
    for number, state in enumerate(("scheduled", "pending", "active", "retry", "completed", "archived", "cancelled")):
        put(database, f"t{number}", "data:gone", "low", state)
    put(database, "other", "data:gone", "default", "pending")
    assert read(database_url).live == {("data:gone", "low"): 4, ("data:gone", "default"): 1}


def test_schema_and_limits_are_those_of_the_server(database: Database, database_url: str) -> None:
    database.get().run(
        "insert into joblane.task_types values ('data:export', '{default}', 1, 60, null, 'finish', '{}', '{}')"
    )
    found = read(database_url)
    assert (found.revision, found.pending, found.newer) == ([*migrations.pending(None)][-1], {}, False)
    assert found.types == ["data:export"]
    ((max_connections,),) = database.get().run("show max_connections")
    ((kept,),) = database.get().run("show superuser_reserved_connections")
    assert (found.max_connections, found.kept_connections) == (int(max_connections), int(kept))
    assert "@" not in found.address


def test_an_older_and_a_newer_schema_are_distinguished(database: Database, database_url: str) -> None:
    database.get().run("update joblane.alembic_version set version_num = '0000'")
    assert read(database_url).pending == migrations.pending(None)
    database.get().run("update joblane.alembic_version set version_num = '9999'")
    found = read(database_url)
    assert (found.pending, found.newer) == ({}, True)


def test_a_database_of_another_stage_is_refused(database: Database, database_url: str) -> None:
    database.get().run("insert into joblane.stage (prefix) values ('shop')")
    found = read_database(database_url, "jobs")
    assert isinstance(found, Finding)
    assert (found.kind, found.what) == (Kind.REFUSED, "DATABASE_URL")
    assert "prefix 'shop', and this process is of the stage with prefix 'jobs'" in found.why


def test_a_database_without_tables_has_all_migrations_pending(database: Database, database_url: str) -> None:
    database.get().run("drop table joblane.alembic_version, joblane.tasks, joblane.task_types")
    found = read(database_url)
    assert (found.revision, found.live, found.types) == (None, {}, [])
    assert found.pending == migrations.pending(None)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"port": 9}, "127.0.0.1:9/.* cannot be read: .*refused"),
        ({"name": "gone"}, 'cannot be read: .*database "gone" does not exist'),
        ({"scheme": "mysql"}, "cannot be read: .*postgresql://user:password@host:port/database is required"),
    ],
)
def test_an_unavailable_database_is_refused_with_the_name_of_the_setting(
    database_url: str, change: dict[str, Any], why: str
) -> None:
    import re
    from urllib.parse import urlsplit

    parts = urlsplit(database_url)
    user, _, host = parts.netloc.rpartition("@")
    port = change.get("port", parts.port)
    name = change.get("name", parts.path.lstrip("/"))
    found = read_database(
        f"{change.get('scheme', 'postgresql')}://{user}@{host.partition(':')[0]}:{port}/{name}", "jobs"
    )
    assert isinstance(found, Finding)
    assert (found.kind, found.what) == (Kind.REFUSED, "DATABASE_URL")
    assert re.search(why, found.why)
    assert str(parts.password) not in found.why


def test_without_an_address_the_database_is_unchecked() -> None:
    found = read_database("", "jobs")
    assert isinstance(found, Finding)
    assert (found.kind, found.what) == (Kind.UNCHECKED, "DATABASE_URL")
