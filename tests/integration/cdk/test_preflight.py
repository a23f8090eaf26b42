"""What the pre-deploy check reads from a database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from joblane.cdk.preflight.compare import Finding, Kind, Record
from joblane.cdk.preflight.read import read_record
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


def record(url: str) -> Record:
    found = read_record(url, "jobs")
    assert isinstance(found, Record), found
    return found


def test_live_tasks_are_counted_by_type_and_queue_and_ended_ones_are_not(database: Database, database_url: str) -> None:
    for number, state in enumerate(("scheduled", "pending", "active", "retry", "completed", "archived", "cancelled")):
        put(database, f"t{number}", "data:gone", "low", state)
    put(database, "other", "data:gone", "default", "pending")
    assert record(database_url).live == {("data:gone", "low"): 4, ("data:gone", "default"): 1}


def test_schema_and_limits_are_those_of_the_server(database: Database, database_url: str) -> None:
    database.get().run(
        "insert into joblane.task_types values ('data:export', '{default}', 1, 60, null, 'finish', '{}', '{}')"
    )
    found = record(database_url)
    assert (found.revision, found.pending, found.newer) == ([*migrations.pending(None)][-1], {}, False)
    assert found.types == ["data:export"]
    ((most,),) = database.get().run("show max_connections")
    ((kept,),) = database.get().run("show superuser_reserved_connections")
    assert (found.max_connections, found.kept_connections) == (int(most), int(kept))
    assert "@" not in found.address


def test_a_schema_behind_and_one_ahead_are_told_apart(database: Database, database_url: str) -> None:
    database.get().run("update joblane.alembic_version set version_num = '0000'")
    assert record(database_url).pending == migrations.pending(None)
    database.get().run("update joblane.alembic_version set version_num = '9999'")
    found = record(database_url)
    assert (found.pending, found.newer) == ({}, True)


def test_a_database_of_another_stage_is_refused(database: Database, database_url: str) -> None:
    database.get().run("insert into joblane.stage (prefix) values ('shop')")
    found = read_record(database_url, "jobs")
    assert isinstance(found, Finding)
    assert (found.kind, found.what) == (Kind.REFUSED, "DATABASE_URL")
    assert "prefix 'shop', and this process is of the stage with prefix 'jobs'" in found.why


def test_a_database_without_a_record_has_all_migrations_before_it(database: Database, database_url: str) -> None:
    database.get().run("drop table joblane.alembic_version, joblane.tasks, joblane.task_types")
    found = record(database_url)
    assert (found.revision, found.live, found.types) == (None, {}, [])
    assert found.pending == migrations.pending(None)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"port": 9}, "127.0.0.1:9/.* cannot be asked: .*refused"),
        ({"name": "gone"}, 'cannot be asked: .*database "gone" does not exist'),
        ({"scheme": "mysql"}, "cannot be asked: .*postgresql://user:password@host:port/database is required"),
    ],
)
def test_a_database_that_cannot_be_asked_is_refused_by_the_settings_name(
    database_url: str, change: dict[str, Any], why: str
) -> None:
    import re
    from urllib.parse import urlsplit

    parts = urlsplit(database_url)
    user, _, host = parts.netloc.rpartition("@")
    port = change.get("port", parts.port)
    name = change.get("name", parts.path.lstrip("/"))
    found = read_record(f"{change.get('scheme', 'postgresql')}://{user}@{host.partition(':')[0]}:{port}/{name}", "jobs")
    assert isinstance(found, Finding)
    assert (found.kind, found.what) == (Kind.REFUSED, "DATABASE_URL")
    assert re.search(why, found.why)
    assert str(parts.password) not in found.why


def test_without_an_address_it_says_what_nobody_looked_at() -> None:
    found = read_record("", "jobs")
    assert isinstance(found, Finding)
    assert (found.kind, found.what) == (Kind.UNCHECKED, "DATABASE_URL")
