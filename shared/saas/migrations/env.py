"""Alembic's entry point. It runs the platform's migrations on a connection of the library, which can log in."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from joblane.record.driver.database import Database
from saas.tables import SCHEMA, metadata

LOCK = 0x73616173
"""Key of the advisory lock by which only one deploy migrates: 'saas' in ASCII."""


def run() -> None:
    url = context.config.attributes["url"]
    with Database(url, limits=None) as database, database.engine.connect() as connection:
        context.configure(connection=connection, target_metadata=metadata, version_table_schema=SCHEMA)
        with context.begin_transaction():
            connection.execute(text(f"select pg_advisory_xact_lock({LOCK})"))
            if connection.scalar(text(f"select to_regnamespace('{SCHEMA}') is null")):
                connection.execute(text(f"create schema {SCHEMA}"))
            context.run_migrations()


run()
