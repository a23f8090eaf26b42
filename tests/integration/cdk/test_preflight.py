"""The preflight's reading from a database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from joblane.cdk.preflight.compare import DatabaseState
from joblane.cdk.preflight.findings import Finding, FindingKind
from joblane.cdk.preflight.read import read_database
from joblane.cdk.preflight.roles import Wanted
from joblane.record import migrations
from joblane.record.driver.database import Database
from joblane.record.task_types import register
from tests.builders.revisions import second_revision
from tests.samples import sample_one, sample_ordered, sample_single


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


def test_live_tasks_are_counted_by_the_names_of_their_limits(database: Database, database_url: str) -> None:
    for id_ in "abc":
        put(database, id_, "data:export", "low", "pending")
    database.get().run("update joblane.tasks set first_due_at = now(), seq = 1 where id < 'c'")
    database.get().run("update joblane.tasks set key_limit = 'data:dump/a/b', shared_limit = 'openai' where id = 'a'")
    database.get().run("update joblane.tasks set total_limit = 'data:export' where id = 'b'")
    assert read(database_url).limited == {
        ("data:export", ("data:dump/", None, "openai")): 1,
        ("data:export", (None, "data:export", None)): 1,
    }


def test_the_keys_are_those_that_the_deployed_code_declares(database: Database, database_url: str) -> None:
    register(database.get(), {task.type: task for task in (sample_ordered, sample_single, sample_one)})
    assert read(database_url).keys == {sample_ordered.type: ("tenant", "number"), sample_single.type: ()}


def test_schema_and_limits_are_those_of_the_server(database: Database, database_url: str) -> None:
    database.get().run(
        "insert into joblane.task_types (type, queues, max_retry, retention_seconds, unique_until, schema,"
        " payload_check) values ('data:export', '{default}', 1, 60, 'finish', '{}', '{}')"
    )
    found = read(database_url)
    assert (found.revision, found.pending, found.newer) == ([*migrations.pending(None)][-1], {}, False)
    assert found.types == ["data:export"]
    ((max_connections,),) = database.get().run("show max_connections")
    ((kept,),) = database.get().run("show superuser_reserved_connections")
    assert (found.max_connections, found.kept_connections) == (int(max_connections), int(kept))
    assert "@" not in found.address


def test_an_older_and_a_newer_schema_are_distinguished(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_revision(tmp_path, monkeypatch)
    assert read(database_url).pending == {"0002": "A column for a test."}
    database.get().run("update joblane.alembic_version set version_num = '9999'")
    found = read(database_url)
    assert (found.pending, found.newer) == ({}, True)


def test_a_database_of_another_stage_is_refused(database: Database, database_url: str) -> None:
    database.get().run("insert into joblane.stage (prefix) values ('shop')")
    found = read_database(database_url, "jobs")
    assert isinstance(found, Finding)
    assert (found.kind, found.what) == (FindingKind.REFUSED, "DATABASE_URL")
    assert "prefix 'shop', and this process is of the stage with prefix 'jobs'" in found.why


def test_a_part_that_the_migration_would_miss_is_refused(database: Database, database_url: str) -> None:
    assert read(database_url).changes == []
    for edit in (
        "drop index joblane.tasks_unique",
        "drop index joblane.tasks_tags",
        "drop trigger tasks_ended on joblane.tasks",
        "create index mine on joblane.tasks (owner)",
    ):
        database.get().run(edit)
    trigger, unique, index = read(database_url).changes
    assert (unique.kind, unique.what) == (FindingKind.REFUSED, "unique index tasks_unique of joblane.tasks")
    assert "run `CREATE UNIQUE INDEX CONCURRENTLY tasks_unique ON joblane.tasks" in unique.do
    assert (trigger.kind, trigger.do) == (
        FindingKind.NOTE,
        "run `joblane migrate`, which restores it; on AWS, a deploy runs it",
    )
    assert (index.kind, index.what) == (FindingKind.NOTE, "index tasks_tags of joblane.tasks")


def test_a_schema_of_another_origin_is_refused(database: Database, database_url: str) -> None:
    database.get().run("update joblane.alembic_version set version_num = 'ae1027a6acf'")
    found = read_database(database_url, "jobs")
    assert isinstance(found, Finding)
    assert (found.kind, found.what) == (FindingKind.REFUSED, "DATABASE_URL")
    assert "has a schema joblane at revision 'ae1027a6acf', which this library does not have" in found.why
    assert found.do.startswith("To start anew, rename it")


def test_a_database_without_tables_has_all_migrations_pending(database: Database, database_url: str) -> None:
    database.get().run("drop schema joblane cascade")
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
    from urllib.parse import urlsplit

    parts = urlsplit(database_url)
    user, _, host = parts.netloc.rpartition("@")
    port = change.get("port", parts.port)
    name = change.get("name", parts.path.lstrip("/"))
    found = read_database(
        f"{change.get('scheme', 'postgresql')}://{user}@{host.partition(':')[0]}:{port}/{name}", "jobs"
    )
    assert isinstance(found, Finding)
    assert (found.kind, found.what) == (FindingKind.REFUSED, "DATABASE_URL")
    assert re.search(why, found.why)
    assert str(parts.password) not in found.why


def test_without_an_address_the_database_is_unchecked() -> None:
    found = read_database("", "jobs")
    assert isinstance(found, Finding)
    assert (found.kind, found.what) == (FindingKind.UNCHECKED, "DATABASE_URL")


# --- Roles ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def roles(database: Database) -> Iterator[Callable[..., None]]:
    """Run statements of an administrator. The roles of these tests are removed at the end."""
    connection = database.get()
    names = ("preflight_app", "preflight_owner", "rds_iam", "rds_superuser")

    def run(*statements: str) -> None:
        for statement in statements:
            connection.run(statement)

    yield run
    for name in names:
        if connection.run("select from pg_roles where rolname = $1", name):
            run(f"drop owned by {name}", f"drop role {name}")


def found_roles(url: str, *, by_iam: bool = True, role: str | None = "preflight_owner") -> list[Finding]:
    state = read_database(url, "jobs", Wanted("preflight_app", by_iam, role))
    assert isinstance(state, DatabaseState), state
    return list(state.roles)


def test_a_superuser_can_give_the_functions_their_role(database_url: str, roles: Callable[..., None]) -> None:
    roles("create role rds_iam")
    assert found_roles(database_url, role=None) == []


def test_a_role_that_may_not_create_roles_is_refused(database_url: str, roles: Callable[..., None]) -> None:
    roles("create role preflight_owner", "create role rds_iam")
    (found,) = found_roles(database_url)
    assert found.kind is FindingKind.REFUSED
    assert found.why.startswith("preflight_owner may not create it, and the deploy would fail in the migration")
    assert found.do.endswith("create role preflight_app login; grant rds_iam to preflight_app;")


def test_a_role_with_createrole_may_still_not_grant_rds_iam(database_url: str, roles: Callable[..., None]) -> None:
    roles("create role preflight_owner createrole", "create role rds_iam")
    (found,) = found_roles(database_url)
    assert "preflight_owner may not grant it rds_iam" in found.why
    # when it has the admin option, or is the master user of RDS, or an administrator has made the role
    roles("grant rds_iam to preflight_owner with admin option")
    assert found_roles(database_url) == []
    roles("revoke rds_iam from preflight_owner", "create role rds_superuser", "grant rds_superuser to preflight_owner")
    assert found_roles(database_url) == []
    roles("revoke rds_superuser from preflight_owner", "create role preflight_app", "grant rds_iam to preflight_app")
    assert found_roles(database_url) == []


def test_without_the_role_s_name_the_finding_is_a_note(database_url: str, roles: Callable[..., None]) -> None:
    roles(
        "create role preflight_owner login password 'x'",
        "create role rds_iam",
        "grant usage on schema joblane to preflight_owner",
        "grant select on all tables in schema joblane to preflight_owner",
    )
    address = re.sub(r"//[^@/]*@", "//preflight_owner:x@", database_url)
    (found,) = found_roles(address, role=None)
    assert (found.kind, "the role of DATABASE_URL" in found.why) == (FindingKind.NOTE, True)
    assert "check that one" in found.do


def test_a_user_with_a_password_must_exist(database_url: str, roles: Callable[..., None]) -> None:
    roles("create role preflight_owner")
    (found,) = found_roles(database_url, by_iam=False)
    assert (found.kind, found.why) == (FindingKind.REFUSED, "the deploy grants it rights, and it does not exist")
    roles("create role preflight_app")
    assert found_roles(database_url, by_iam=False) == []


def test_a_role_of_the_migration_that_does_not_exist_is_refused(database_url: str, database: Database) -> None:
    (found,) = found_roles(database_url, role="preflight_nobody")
    assert found.why == "the migration logs in as preflight_nobody, which does not exist"


def test_a_role_that_may_not_create_the_schema_is_refused(
    database: Database, database_url: str, roles: Callable[..., None]
) -> None:
    roles("create role preflight_owner", "create role preflight_app", "drop schema joblane cascade")
    (found,) = found_roles(database_url, by_iam=False)
    assert "preflight_owner may not create the schema joblane" in found.why
