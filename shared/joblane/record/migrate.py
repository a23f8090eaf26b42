"""``joblane migrate``: schema, stage, declared task types, and the rights of the functions' user."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from joblane import settings, telemetry
from joblane.discovery import discover
from joblane.errors import DeclarationError, sqlstate
from joblane.queues import check_prefix
from joblane.record.connection import LOCK_NOT_AVAILABLE, Connection, is_unavailable
from joblane.record.database import Database
from joblane.record.migrations import checked_revision, is_newer, script, upgrade
from joblane.record.stage import TAKE, check_project, check_schema, check_stage, take_stage
from joblane.record.task_types import literal, register, register_statement

USER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
PAUSE_SECONDS = 3.0
LOCKED_PATIENCE = timedelta(minutes=1)

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
# The user may read and write every table that the migrating role owns, now or later, and change no schema. Which
# migrations have run and which stage it is stay as they are; the audit only grows.
ADMIT = """
do $$
declare
  owned record;
begin
  for owned in
    select n.nspname as schema from pg_namespace n where n.nspowner = current_user::regrole
  loop
    execute format('grant usage on schema %I to {user}', owned.schema);
  end loop;
  for owned in
    select c.oid::regclass as name, c.relkind = 'S' as counts,
           c.relname = 'alembic_version' or c.oid = 'joblane.stage'::regclass as reads,
           c.oid = 'joblane.audit'::regclass as grows
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relowner = current_user::regrole and c.relkind in ('r', 'p', 'v', 'm', 'S')
       and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  loop
    if owned.counts then
      execute format('grant usage, select on sequence %s to {user}', owned.name);
    else
      execute format('grant select%s on %s to {user}', case when owned.reads then '' when owned.grows then ', insert'
                     else ', insert, update, delete' end, owned.name);
      execute format('revoke %s on %s from {user}', case when owned.reads then 'insert, update, delete, truncate'
                     when owned.grows then 'update, delete, truncate' else 'truncate' end, owned.name);
    end if;
  end loop;
  alter default privileges grant select, insert, update, delete on tables to {user};
  alter default privileges grant usage, select on sequences to {user};
end
$$
"""


@dataclass(frozen=True)
class Migrated:
    """The database after a migration.

    ``types``: number of declared task types. ``revision``: of the schema. ``newer``: newer code made the schema, and
    nothing of it was changed.
    """

    types: int
    revision: str
    newer: bool


def migrate(
    url: str,
    *,
    prefix: str | None = None,
    user: str | None = None,
    by_iam: bool = False,
    patience: timedelta = timedelta(0),
) -> Migrated:
    """Bring the database up to date. Doing it twice is harmless. The schema of newer code stays as it is.

    ``prefix``: of the stage; None: that of the settings. ``user``: a role that may then read and write; None where the
    functions log in as the tables' owner. ``by_iam``: the user logs in by IAM, and is created where it does not exist.
    ``patience``: how long to wait for a database that is unavailable, for example one that sleeps; tables that are in
    use are waited for at least a minute.

    Raises :class:`WrongStageError` and :class:`ForeignSchemaError` before anything is changed.
    """
    prefix, tasks = check_prefix(prefix or settings.prefix()), discover()
    with Database(url) as database:
        _patiently(database.get, is_unavailable, patience, "the database is unavailable; waiting")
        _check(database.get(), prefix)
        # in short tries: nobody has to stand behind a migration that waits for a table
        _patiently(lambda: upgrade(url), _is_locked, max(patience, LOCKED_PATIENCE), "a table is in use; waiting")
        take_stage(database.get(), prefix, settings.project())
        register(database.get(), tasks)
        upgrade_project(url, settings.migrations())
        if user is not None:
            _admit(database.get(), user, by_iam=by_iam)
        revision = checked_revision(database.get()) or ""
    return Migrated(len(tasks), revision, is_newer(revision))


def migration_sql(url: str | None) -> str:
    """The library's part of :func:`migrate` as SQL for psql, one transaction.

    ``url``: a database, for what is missing there; None for the whole, to run in a database without a schema
    ``joblane``. Raises as :func:`migrate`.
    """
    prefix, tasks, current = check_prefix(settings.prefix()), discover(), None
    if url is not None:
        with Database(url) as database:
            current = _check(database.get(), prefix)
    project = settings.project()
    take = TAKE.format(prefix=literal(prefix), project=literal(project) if project else "null")
    return script(current, [take, register_statement(tasks)])


def _check(connection: Connection, prefix: str) -> str | None:
    """Returns the revision that the database is at. Raises what says that its schema is not ours."""
    check_schema(connection)
    revision = checked_revision(connection)
    check_stage(connection, prefix)
    if revision is not None:
        check_project(connection, settings.project())
    return revision


def upgrade_project(url: str, name: str | None) -> None:
    """Run the project's own migrations, ``module:function``; None: it has none.

    Raises :class:`DeclarationError` where there is no such function.
    """
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
    if not USER.fullmatch(user) or user == "joblane":
        raise ValueError(f"user: a lower-case name of PostgreSQL other than joblane is required, not {user!r}")
    if connection.run("select current_user")[0][0] == user:
        return
    if by_iam:
        connection.run(MAKE.format(user=user))
    elif not connection.run("select from pg_roles where rolname = $1", user):
        raise ValueError(f"user: there is no role {user!r}; make it with the password that its secret has")
    connection.run(ADMIT.format(user=user))
