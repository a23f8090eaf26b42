"""The schema and the code: missing revisions, newer revisions, and a rollback to old code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from joblane.errors import ChangedSchemaError, ForeignSchemaError
from joblane.record.driver.database import Database
from joblane.record.migrations import applied, is_newer, newest, pending, upgrade
from tests.builders.revisions import second_revision


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as database:
        yield database


def test_a_migrated_database_has_no_pending_revision_and_an_empty_one_has_all(database: Database) -> None:
    connection = database.get()
    revision = applied(connection)
    assert revision == [*pending(None)][-1]
    assert pending(revision) == {}
    assert [*pending("0001")] == [*pending(None)][1:]
    assert all(pending(None).values()), "each says what it is for"
    connection.run("drop table joblane.alembic_version")
    assert applied(connection) is None


def test_old_code_does_not_change_the_schema_of_newer_code(database: Database, database_url: str) -> None:
    # given a database that was migrated by newer code
    database.get().run("alter table joblane.tasks add column of_newer_code text not null default 'x'")
    database.get().run("update joblane.alembic_version set version_num = '9999'")
    # when this code is deployed again
    upgrade(database_url)
    # then
    assert applied(database.get()) == "9999"
    assert is_newer("9999")
    assert database.get().run("select count(of_newer_code) from joblane.tasks") == [[0]]


def test_an_unknown_revision_is_refused(database: Database, database_url: str) -> None:
    database.get().run("update joblane.alembic_version set version_num = 'ae1027a6acf'")
    assert not is_newer("ae1027a6acf")
    with pytest.raises(ForeignSchemaError, match="ae1027a6acf"):
        upgrade(database_url)


@pytest.mark.parametrize("other", ["0000", "ae1027a6acf"])
def test_two_revisions_are_refused_with_the_statement_that_leaves_one(
    other: str, database: Database, database_url: str
) -> None:
    connection = database.get()
    connection.run("insert into joblane.alembic_version values ($1)", other)
    with pytest.raises(ForeignSchemaError, match="a schema joblane at more than one revision: ") as caught:
        upgrade(database_url)
    assert {newest(), other} == {*caught.value.found.partition("revision: ")[2].split(", ")}
    connection.run(caught.value.do.partition("and migrate: ")[2].partition(". To start")[0])
    upgrade(database_url)
    assert connection.run("select version_num from joblane.alembic_version") == [[newest()]]


def test_the_newest_revision_is_known_without_alembic() -> None:
    assert newest() == list(pending(None))[-1]


def test_a_later_revision_is_pending_until_it_has_run(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_revision(tmp_path, monkeypatch)
    assert newest() == "0002"
    assert pending(applied(database.get())) == {"0002": "A column for a test."}
    upgrade(database_url)
    assert applied(database.get()) == "0002"
    assert database.get().run("select count(of_newer_code) from joblane.pauses") == [[0]]


def test_a_migration_of_a_schema_that_was_changed_by_hand_applies_nothing(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_revision(tmp_path, monkeypatch)
    database.get().execute_simple("drop index joblane.tasks_unique; drop trigger tasks_ended on joblane.tasks")
    with pytest.raises(ChangedSchemaError, match="unique index tasks_unique of"):
        upgrade(database_url)
    assert applied(database.get()) == "0001"
    columns = (
        "select attname from pg_attribute where attrelid = 'joblane.pauses'::regclass and attname = 'of_newer_code'"
    )
    assert database.get().run(columns) == []
    assert database.get().run("select from pg_trigger where tgname = 'tasks_ended'") == []


def test_a_schema_of_newer_code_is_not_compared(database: Database, database_url: str) -> None:
    database.get().execute_simple(
        "update joblane.alembic_version set version_num = '9999'; drop index joblane.tasks_unique"
    )
    assert upgrade(database_url) == []


def test_the_database_in_a_folder_with_a_percent_sign_is_migrated(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_revision(tmp_path / "100%s", monkeypatch)
    upgrade(database_url)


def test_a_migration_has_no_time_limit_whatever_the_role_has(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = "create table joblane.limits_seen as select current_setting('statement_timeout') as statement"
    second_revision(tmp_path, monkeypatch, statement=limit)
    database.get().run(f"alter database {database_url.rpartition('/')[2]} set statement_timeout = '1min'")
    upgrade(database_url)
    assert database.get().run("select statement from joblane.limits_seen") == [["0"]]
