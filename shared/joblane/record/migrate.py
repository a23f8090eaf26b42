"""Bringing a database up to date: its schema, what it knows of the declared types, and who may use it."""

from __future__ import annotations

import importlib
import re
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from joblane import settings, telemetry
from joblane.discovery import discover
from joblane.errors import DeclarationError, sqlstate
from joblane.record.connection import is_unavailable
from joblane.record.database import Database
from joblane.record.migrations import upgrade
from joblane.record.task_types import register

if TYPE_CHECKING:
    from collections.abc import Callable

    from joblane.record.connection import Connection

USER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
PAUSE_SECONDS = 3.0

LOCKED_PATIENCE = timedelta(minutes=1)
LOCK_NOT_AVAILABLE = "55P03"

# RDS lets the members of rds_iam in by token, and by nothing else. Source: RDS, *Creating a database account using IAM
# authentication*.
MAKE = """
do $$
begin
  if not exists (select from pg_roles where rolname = '{user}') then
    create role {user} login;
  end if;
  if exists (select from pg_roles where rolname = 'rds_iam') and not pg_has_role('{user}', 'rds_iam', 'member') then
    grant rds_iam to {user};
  end if;
end
$$
"""
# No right but to read and write, none to say which migrations have run, and none to change what the audit says.
ADMIT = """
do $$
begin
  grant usage on schema joblane to {user};
  grant select, insert, update, delete on all tables in schema joblane to {user};
  revoke insert, update, delete on joblane.alembic_version from {user};
  revoke update, delete on joblane.audit from {user};
  grant usage, select on all sequences in schema joblane to {user};
  alter default privileges in schema joblane grant select, insert, update, delete on tables to {user};
  alter default privileges in schema joblane grant usage, select on sequences to {user};
end
$$
"""


def migrate(url: str, *, user: str | None = None, by_iam: bool = False, patience: timedelta = timedelta(0)) -> int:
    """Upgrade the schema and write the declarations. Returns how many types there are. Doing it twice is harmless.

    ``user``: let in to read and write; None: whoever uses the database is its owner. ``by_iam``: the user logs in so,
    and is made where it is not there. ``patience``: how long a database that is away is waited for, as one that sleeps
    or is being made; tables that somebody else has are waited for a minute at least.
    """
    tasks, database = discover(), Database(url)
    try:
        _patiently(database.get, is_unavailable, patience, "the database is away; it is waited for")
        # in short tries: nobody has to stand behind a migration that waits for a table
        _patiently(
            lambda: upgrade(url), _is_locked, max(patience, LOCKED_PATIENCE), "a table is in use; it is waited for"
        )
        register(database.get(), tasks)
        upgrade_project(url)
        if user is not None:
            _admit(database.get(), user, by_iam=by_iam)
    finally:
        database.drop()
    return len(tasks)


def upgrade_project(url: str) -> None:
    """Run the project's own migrations, where it names some. Raises :class:`DeclarationError` where there are none."""
    name = settings.migrations()
    if name is None:
        return
    module, _, function = name.partition(":")
    try:
        run = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise DeclarationError(f"migrations: {name!r}: 'module:function' is required: {error}") from error
    run(url)


def _patiently(work: Callable[[], object], passes: Callable[[Exception], bool], patience: timedelta, why: str) -> None:
    """Do ``work``, again and again while what it raises ``passes`` by itself, for as long as ``patience`` lasts."""
    until = time.monotonic() + patience.total_seconds()
    while True:
        try:
            work()
        except Exception as error:
            if not passes(error) or time.monotonic() >= until:
                raise
            telemetry.logger().info(why, extra={"error": type(error).__name__})
            time.sleep(PAUSE_SECONDS)
        else:
            return


def _is_locked(error: Exception) -> bool:
    return sqlstate(error) == LOCK_NOT_AVAILABLE


def _admit(connection: Connection, user: str, *, by_iam: bool) -> None:
    if not USER.fullmatch(user):
        raise ValueError(f"user: a lower-case name of PostgreSQL is required, not {user!r}")
    if connection.run("select current_user")[0][0] == user:
        return
    if by_iam:
        connection.run(MAKE.format(user=user))
    elif not connection.run("select from pg_roles where rolname = $1", user):
        raise ValueError(f"user: there is no role {user!r}; make it with the password that its secret has")
    connection.run(ADMIT.format(user=user))
