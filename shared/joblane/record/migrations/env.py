"""Alembic's entry: run the migrations on one connection, under a lock so that two deploys cannot do it at once."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from joblane.record.database import Database

LOCK = 0x6A6F626C616E65
"""Any number that nobody else uses: 'joblane' in ASCII."""
LOCK_TIMEOUT_SECONDS = 2


def run() -> None:
    database = Database(context.config.attributes["url"])
    try:
        with database.engine.connect() as connection:
            context.configure(connection=connection, transactional_ddl=True, version_table_schema="joblane")
            with context.begin_transaction():
                connection.execute(text(f"select pg_advisory_xact_lock({LOCK})"))
                # Whoever waits for a table stands before everybody who comes later; a handler may have it for minutes.
                connection.execute(text("create schema if not exists joblane"))
                connection.execute(text(f"set local lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"))
                context.run_migrations()
    finally:
        database.drop()


run()
