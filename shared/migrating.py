"""Bringing a database up to date: its schema, what it knows of the declared types, and who may use it."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from shared import telemetry
from shared.db import Database, is_away
from shared.jobs.discovery import discover
from shared.jobs.registry import register
from shared.migrations import upgrade

if TYPE_CHECKING:
    from shared.db import Connection

USER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
PAUSE_SECONDS = 3.0

# No right but to read and write, and none to say which migrations have run. RDS lets the members of rds_iam in by
# token. Source: RDS, *Creating a database account using IAM authentication*.
ADMIT = """
do $$
begin
  if not exists (select from pg_roles where rolname = '{user}') then
    create role {user} login;
  end if;
  if exists (select from pg_roles where rolname = 'rds_iam') then
    grant rds_iam to {user};
  end if;
  grant usage on schema public to {user};
  grant select, insert, update, delete on all tables in schema public to {user};
  revoke insert, update, delete on alembic_version from {user};
  grant usage, select on all sequences in schema public to {user};
  alter default privileges in schema public grant select, insert, update, delete on tables to {user};
  alter default privileges in schema public grant usage, select on sequences to {user};
end
$$
"""


def migrate(url: str, *, user: str | None = None, patience: timedelta = timedelta(0)) -> int:
    """Upgrade the schema and write the declarations. Returns how many types there are. Doing it twice is harmless.

    ``user``: made where it is not there, and let in to read and write; None: whoever uses the database is its owner.
    ``patience``: how long a database that is away is waited for, as one that sleeps or is being made.
    """
    tasks, database = discover(), Database(url)
    try:
        _await(database, patience)
        upgrade(url)
        register(database.get(), tasks)
        if user is not None:
            _admit(database.get(), user)
    finally:
        database.drop()
    return len(tasks)


def _await(database: Database, patience: timedelta) -> None:
    until = time.monotonic() + patience.total_seconds()
    while True:
        try:
            database.get()
        except Exception as error:
            if not is_away(error) or time.monotonic() >= until:
                raise
            telemetry.logger().info("the database is away; it is waited for", extra={"error": type(error).__name__})
            time.sleep(PAUSE_SECONDS)
        else:
            return


def _admit(connection: Connection, user: str) -> None:
    if not USER.fullmatch(user):
        raise ValueError(f"user: a lower-case name of PostgreSQL is required, not {user!r}")
    if connection.run("select current_user")[0][0] != user:
        connection.run(ADMIT.format(user=user))
