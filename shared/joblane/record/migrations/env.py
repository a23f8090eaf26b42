"""Alembic's entry: run the migrations on one connection, or print them as SQL.

Only the schema ``joblane`` is looked at, whatever else is in the database. A lock makes two deploys take turns.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from joblane.record.database import Database

LOCK = 0x6A6F626C616E65
"""Any number that nobody else uses: 'joblane' in ASCII."""
LOCK_TIMEOUT_SECONDS = 2
ALONE = f"select pg_advisory_xact_lock({LOCK})"
SCHEMA = "create schema joblane"
# Everybody who comes later stands behind a migration that waits for a table, and a handler may hold it for minutes.
IMPATIENT = f"set local lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"


def run() -> None:
    with Database(context.config.attributes["url"]) as database, database.engine.connect() as connection:
        context.configure(connection=connection, transactional_ddl=True, version_table_schema="joblane")
        with context.begin_transaction():
            connection.execute(text(ALONE))
            # `if not exists` would need the right to create one even where it exists
            if connection.scalar(text("select to_regnamespace('joblane') is null")):
                connection.execute(text(SCHEMA))
            connection.execute(text(IMPATIENT))
            context.run_migrations()


def write() -> None:
    """The SQL of the same. Style ``named`` leaves percent signs as they are."""
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        transactional_ddl=True,
        version_table_schema="joblane",
    )
    migration = context.get_context()
    with context.begin_transaction():
        opening = [ALONE, IMPATIENT] if migration.get_current_revision() else [ALONE, SCHEMA, IMPATIENT]
        for statement in opening:
            migration.impl.static_output(f"{statement};")
        context.run_migrations()
        for statement in context.config.attributes["after"]:
            migration.impl.static_output(f"{statement};")


if context.is_offline_mode():
    write()
else:
    run()
