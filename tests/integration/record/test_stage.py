"""A schema `joblane` serves one stage of one project only."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from joblane.cli.connect import connect
from joblane.client.client import JobClient
from joblane.errors import ForeignSchemaError, WrongStageError
from joblane.local.postgres import Postgres, program
from joblane.names import dead_letter_name
from joblane.record import migrate as migrating
from joblane.record.driver.database import Database
from joblane.record.migrate import migrate, migration_sql
from joblane.record.migrations import applied, newest
from joblane.tasks.discovery import discover
from tests.builders.revisions import second_revision
from tests.conftest import administer
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, sample_batch, sample_one
from tests.world import World

ANEW = (
    "To start anew, rename it, which keeps its tables, and migrate again: `alter schema joblane rename to joblane_old`"
)
AT_REVISION = "create table joblane.alembic_version (version_num text); insert into joblane.alembic_version values"
REVISION = f" revision. {ANEW}"
BOTH = "prefix 'shop', and this process is of the stage with prefix 'jobs'; set JOBLANE_PREFIX=shop"


@pytest.fixture
def empty(postgres: Postgres) -> Iterator[str]:
    administer(postgres, "create database staged")
    yield postgres.database_url("staged")
    administer(postgres, "drop database staged with (force)")


@contextmanager
def connected(url: str) -> Iterator[Any]:
    with Database(url) as database:
        yield database.get()


def everything(url: str) -> list[list[Any]]:
    """Return the names of all user objects in a database, and the number of versions and types."""
    with connected(url) as connection:
        made = connection.run(
            "select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' order by 1, 2"
        )
        if ["joblane", "task_types"] in made:
            made += connection.run("select type from joblane.task_types order by 1")
        return list(made)


def refused(url: str, error: type[Exception], match: str) -> pytest.ExceptionInfo[Any]:
    """Check that neither a migration nor its SQL is for this database, and that nothing is changed."""
    before = everything(url)
    for refused_call in (migrate, migration_sql):
        with pytest.raises(error, match=match) as caught:
            refused_call(url)
    assert everything(url) == before
    return caught


# --- Migrating -----------------------------------------------------------------------------------------------------


def test_the_first_migration_writes_the_prefix_and_another_is_refused(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBLANE_PREFIX", "shop")
    for _ in range(2):
        migrate(empty)
    monkeypatch.setenv("JOBLANE_PREFIX", "jobs")
    caught = refused(empty, WrongStageError, BOTH)
    assert (caught.value.prefix, caught.value.found) == ("jobs", "shop")
    with connected(empty) as connection:
        assert connection.run("select prefix from joblane.stage") == [["shop"]]
        # and with newer code
        connection.run("update joblane.alembic_version set version_num = '9999'")
    with pytest.raises(WrongStageError):
        migrate(empty)


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        ("create table joblane.jobs (id integer)", f"did not create: it contains table joblane.jobs, and no{REVISION}"),
        (
            "create type joblane.mood as enum ('good')",
            f"did not create: it contains type joblane.mood, and no{REVISION}",
        ),
        (
            "create function joblane.enqueue() returns int language sql as 'select 1'",
            rf"did not create: it contains function joblane.enqueue\(\), and no{REVISION}",
        ),
        (  # its migrations may have numbers as well
            f"{AT_REVISION} ('0001'); create table joblane.jobs (id integer)",
            f"revision '0001' without the table joblane.tasks.*{ANEW}",
        ),
        (
            f"{AT_REVISION} ('ae1027a6acf')",
            "at revision 'ae1027a6acf', which this library does not have",
        ),
    ],
)
def test_a_schema_of_another_origin_is_not_changed(empty: str, theirs: str, says: str) -> None:
    with connected(empty) as connection:
        connection.execute_simple(f"create schema joblane; {theirs}")
        refused(empty, ForeignSchemaError, says)
        # when it is renamed, as the message says
        connection.run("alter schema joblane rename to joblane_old")
    assert migrate(empty).types == len(discover())


@pytest.mark.parametrize("lost", ["drop table joblane.alembic_version", "delete from joblane.alembic_version"])
def test_a_schema_that_has_lost_its_revision_is_refused_until_it_is_written(empty: str, lost: str) -> None:
    migrate(empty)
    with connected(empty) as connection:
        connection.run(lost)
        caught = refused(empty, ForeignSchemaError, "write it, and migrate: ")
        connection.execute_simple(str(caught.value).split("migrate: ")[1].partition(". To start anew")[0])
    assert migrate(empty).differences == ()


def test_a_role_that_would_create_tables_of_its_own_in_the_schema_is_refused(empty: str) -> None:
    with connected(empty) as connection:
        connection.execute_simple("alter database staged set search_path = joblane, public; create schema joblane")
    with pytest.raises(ForeignSchemaError, match="has the schema joblane in its search_path"):
        migrate(empty)
    with connected(empty) as connection:
        connection.execute_simple("alter database staged reset search_path")
        connection.execute_simple("create role joblane superuser login password 'j'")
    try:
        with pytest.raises(ForeignSchemaError, match="the role 'joblane' has the schema joblane in its search_path"):
            migrate(empty.replace(empty.split("//")[1].split("@", maxsplit=1)[0], "joblane:j"))
        with pytest.raises(ValueError, match="user: a lower-case name of PostgreSQL other than joblane"):
            migrate(empty, user="joblane")
    finally:
        with connected(empty) as connection:
            connection.execute_simple("drop role joblane")


def test_an_empty_schema_of_a_role_without_database_rights_is_used(empty: str, postgres: Postgres) -> None:
    with connected(empty) as connection:
        connection.execute_simple(
            "create role keeper login password 'k'; create schema joblane authorization keeper"
            "; create schema saas authorization keeper"
        )
    try:
        assert migrate(empty.replace(empty.split("//")[1].split("@", maxsplit=1)[0], "keeper:k")).types == len(
            discover()
        )
    finally:
        with connected(empty) as connection:
            connection.execute_simple("drop owned by keeper cascade; drop role keeper")


def test_a_second_project_is_refused_and_nothing_is_changed(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a project that had no name at first, and whose tasks were all renamed later
    monkeypatch.delenv("JOBLANE_PROJECT", raising=False)
    migrate(empty)
    monkeypatch.setenv("JOBLANE_PROJECT", "shop")
    monkeypatch.setattr(migrating, "discover", lambda: {sample_one.type: sample_one})
    migrate(empty)
    # when another project migrates
    monkeypatch.setenv("JOBLANE_PROJECT", "bakery")
    monkeypatch.setattr(migrating, "discover", dict)
    refused(empty, ForeignSchemaError, r"belongs to the project 'shop', and this is 'bakery'\. Use another")
    # and a project without a name
    monkeypatch.delenv("JOBLANE_PROJECT")
    refused(empty, ForeignSchemaError, r"project 'shop', and this project has no name\. Set `\[project\]")
    # when the project was renamed
    monkeypatch.setenv("JOBLANE_PROJECT", "bakery")
    with connected(empty) as connection:
        connection.run("update joblane.stage set project = 'bakery'")
    assert migrate(empty).types == 0


# --- As SQL --------------------------------------------------------------------------------------------------------


def psql(url: str, script: str) -> None:
    command = [str(program("psql")), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", url]
    done = subprocess.run(command, input=script, text=True, capture_output=True, check=False, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr


def shape(url: str) -> list[list[Any]]:
    with connected(url) as connection:
        return connection.run(  # type: ignore[no-any-return]
            """select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                      pg_get_expr(d.adbin, d.adrelid)
                 from pg_class c join pg_attribute a on a.attrelid = c.oid
                 left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
                where c.relnamespace = 'joblane'::regnamespace and a.attnum > 0
               union all
               select proname, null, md5(prosrc), null, null from pg_proc
                where pronamespace = 'joblane'::regnamespace
               union all
               select type, null, md5(t::text), null, null from joblane.task_types t
               union all
               select prefix, version_num, project, null, null from joblane.stage, joblane.alembic_version
                order by 1, 2"""
        )


def test_the_printed_sql_creates_the_same_schema_as_the_migration(empty: str, postgres: Postgres) -> None:
    psql(empty, migration_sql(None))
    by_script = shape(empty)
    assert migrate(empty).types == len(discover())
    assert shape(empty) == by_script
    administer(postgres, "drop database staged with (force)")
    administer(postgres, "create database staged")
    migrate(empty)
    assert shape(empty) == by_script


def test_the_printed_sql_has_only_the_missing_revisions(
    empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(empty)
    assert "create table" not in migration_sql(empty).lower()
    psql(empty, migration_sql(empty))
    second_revision(tmp_path, monkeypatch)
    script = migration_sql(empty)
    assert "create table" not in script.lower()
    psql(empty, script)
    with connected(empty) as connection:
        assert applied(connection) == newest() == "0002"
        connection.run("update joblane.alembic_version set version_num = '9999'")
    assert "alter table" not in migration_sql(empty)


def test_the_printed_sql_changes_nothing_in_a_migrated_database(empty: str) -> None:
    migrate(empty)
    before = everything(empty)
    with pytest.raises(AssertionError, match='schema "joblane" already exists'):
        psql(empty, migration_sql(None))
    assert everything(empty) == before


# --- Client, worker and command line -------------------------------------------------------------------------------


@pytest.fixture
def shop(world: World) -> World:
    """A world whose database serves the stage `shop`, while its processes belong to `jobs`."""
    world.run("insert into joblane.stage (prefix) values ('shop')")
    world.database.drop()
    world.database = Database(world.url, prefix="jobs")
    return world


def test_a_client_of_another_stage_inserts_and_sends_nothing(shop: World, session: Session) -> None:
    client = JobClient()
    shop.lane(sample_one)
    for enqueue in (
        lambda: client.enqueue(sample_one, Sample()),
        lambda: client.enqueue(sample_one, Sample(), session=session),
        lambda: client.get("x"),
        lambda: client.cancel("x"),
    ):
        with pytest.raises(WrongStageError, match=BOTH):
            enqueue()
    session.commit()
    assert shop.run("select from joblane.tasks") == []
    assert shop.take(sample_one) == []


def test_the_stage_of_the_database_of_a_session_is_read_once(world: World, session: Session) -> None:
    world.run("insert into joblane.stage (prefix) values ('jobs')")
    world.lane(sample_one)
    world.client.enqueue(sample_one, Sample(), session=session)
    session.commit()
    world.run("alter table joblane.stage rename to gone")
    world.client.enqueue(sample_one, Sample(), session=session)
    session.commit()
    assert len(world.run("select from joblane.tasks")) == 2


def test_a_worker_of_another_stage_keeps_its_messages_and_uses_no_attempt(
    shop: World, caplog: pytest.LogCaptureFixture
) -> None:
    watched = shop.watch()
    messages: list[dict[str, Any]] = [
        {"v": 1, "type": "sample:batch", "id": name, "payload": {}} for name in ("a", "b")
    ]
    for task, some in ((sample_one, [{**messages[0], "type": "sample:one"}]), (sample_batch, messages)):
        with caplog.at_level(logging.ERROR):
            assert len(shop.deliver(task, *some, receives=9)) == len(some)
        assert BOTH in str(caplog.records[-1].__dict__)
        assert shop.received(dead_letter_name(shop.lane(task))) == []
    assert min(watched.visibilities) > 60
    assert shop.run("select from joblane.tasks") == []
    # when the stage is corrected
    shop.run("update joblane.stage set prefix = 'jobs'")
    assert shop.deliver(sample_batch, *messages) == []
    assert [shop.row(name)["attempts"] for name in ("a", "b")] == [1, 1]


def test_the_command_line_refuses_another_stage(shop: World) -> None:
    with pytest.raises(WrongStageError, match=BOTH):
        connect(stage=None, profile=None, region=None)
