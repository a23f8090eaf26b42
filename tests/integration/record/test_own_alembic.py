"""A project's own Alembic in the same database as Joblane's tables: neither affects the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData

from joblane.local.postgres import Postgres
from joblane.record.driver.database import Database
from joblane.record.migrate import migrate
from tests.conftest import administer
from tests.pages import ROOT, blocks

ENV = """
from alembic import context
from sqlalchemy import Column, Integer, MetaData, Table, create_engine

metadata = MetaData()
Table("tasks", metadata, Column("id", Integer, primary_key=True))
Table("tenants", metadata, Column("id", Integer, primary_key=True))
Table("orders", metadata, Column("id", Integer, primary_key=True), schema={schema!r})
engine = create_engine(context.config.attributes["url"].replace("postgresql:", "postgresql+pg8000:"))
with engine.connect() as connection:
    {search_path}
    {configure}
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""
DEFAULT = "context.configure(connection=connection, target_metadata=metadata)"
TEMPLATE = '''"""${message}"""
from alembic import op
import sqlalchemy as sa
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
def upgrade():
    ${upgrades if upgrades else "pass"}
def downgrade():
    ${downgrades if downgrades else "pass"}
'''


@pytest.fixture
def url(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv("JOBLANE_MIGRATIONS", raising=False)  # without the migrations of this repository's platform
    administer(postgres, "create database adopter")
    yield postgres.database_url("adopter")
    administer(postgres, "drop database adopter with (force)")


def joblane_schema(url: str) -> str:
    """Return the columns, indexes, functions and versions of the schema joblane."""
    with Database(url) as database:
        rows = database.get().run(
            "select c.relname || coalesce('.' || a.attname, '') from pg_class c left join pg_attribute a"
            " on a.attrelid = c.oid where c.relnamespace = 'joblane'::regnamespace"
            " union all select proname from pg_proc where pronamespace = 'joblane'::regnamespace"
            " union all select version_num from joblane.alembic_version order by 1"
        )
        return json.dumps(rows)


def project(folder: Path, url: str, env: str) -> Config:
    (folder / "versions").mkdir()
    (folder / "env.py").write_text(env)
    (folder / "script.py.mako").write_text(TEMPLATE)
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.attributes["url"] = url
    return config


def documented() -> str:
    """Return the lines of the page for an `env.py` that reads all schemas."""
    page = ROOT / "docs" / "how-to" / "existing-database.md"
    [block] = [block for block in blocks("python", page) if "include_name" in block.text]
    return block.text.rstrip().replace("\n", "\n    ")


@pytest.mark.parametrize(
    ("schema", "search_path", "configure"),
    [
        (None, "", DEFAULT),
        (None, "", documented()),
        ("shop", "connection.exec_driver_sql('create schema if not exists shop'); connection.commit()", documented()),
    ],
    ids=["as by default", "all schemas", "all schemas, with one of its own"],
)
@pytest.mark.parametrize("first", ["joblane", "theirs"])
def test_the_migrations_of_a_project_and_of_joblane_do_not_affect_each_other(
    schema: str | None, search_path: str, configure: str, first: str, url: str, tmp_path: Path
) -> None:
    config = project(tmp_path, url, ENV.format(schema=schema, search_path=search_path, configure=configure))
    if first == "joblane":
        migrate(url)
    made: Any = command.revision(config, "first", autogenerate=True)
    assert "joblane" not in Path(made.path).read_text()
    command.upgrade(config, "head")
    migrate(url)
    before = joblane_schema(url)
    # when nothing has changed, autogenerate finds no difference
    made = command.revision(config, "second", autogenerate=True)
    text = Path(made.path).read_text()
    assert "op." not in text
    command.upgrade(config, "head")
    command.check(config)
    # when all revisions are reverted, Joblane's tables stay
    command.downgrade(config, "base")
    assert joblane_schema(url) == before
    migrate(url)
    assert joblane_schema(url) == before


def test_the_migrations_of_joblane_ignore_other_tables(url: str) -> None:
    with Database(url) as database:
        database.get().execute_simple("create table public.tasks (mine integer); create table public.pauses (mine int)")
        migrate(url)
        found = MetaData()
        with database.engine.connect() as connection:
            found.reflect(connection, schema="public", only=["tasks", "pauses"])
        assert [[column.name for column in table.columns] for table in found.sorted_tables] == [["mine"], ["mine"]]
