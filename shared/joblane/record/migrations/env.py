"""Alembic's entry: run the migrations on one connection, or print them as SQL.

Alembic reads and changes only the schema ``joblane``. An advisory lock makes two deploys take turns. The second
one waits in short tries, as for a table.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from joblane.record.driver.database import Database
from joblane.record.migrations import TAKE_LOCK

LOCK_TIMEOUT_SECONDS = 2
CREATE_SCHEMA = "create schema joblane"
# Later statements queue behind a migration that waits for a table, and a handler may hold the table for minutes. A new
# index takes as long as it needs, whatever the time limit of the role.
SET_LIMITS = f"set local lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'; set local statement_timeout = 0"


def run() -> None:
    url = context.config.attributes["url"]
    with Database(url) as database, database.engine.connect() as connection:
        context.configure(connection=connection, transactional_ddl=True, version_table_schema="joblane")
        with context.begin_transaction():
            connection.execute(text(SET_LIMITS))
            with database.get().bounded():
                connection.execute(text(TAKE_LOCK))
            # `create schema if not exists` needs the right to create a schema even if it exists
            if connection.scalar(text("select to_regnamespace('joblane') is null")):
                connection.execute(text(CREATE_SCHEMA))
            context.run_migrations()
            context.config.attributes["verify"](database.get())


def write() -> None:
    """Print the migrations as SQL. The parameter style ``named`` does not escape percent signs."""
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        transactional_ddl=True,
        version_table_schema="joblane",
    )
    migration = context.get_context()
    with context.begin_transaction():
        is_first = not migration.get_current_revision()
        opening = [SET_LIMITS, TAKE_LOCK, *([CREATE_SCHEMA] if is_first else [])]
        for statement in opening:
            migration.impl.static_output(f"{statement};")
        context.run_migrations()
        for statement in context.config.attributes["after"]:
            migration.impl.static_output(f"{statement};")


if context.is_offline_mode():
    write()
else:
    run()
