"""``joblane migrate``: the schema, the stage, the declared task types, and the privileges of the functions' user."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from pg8000.exceptions import DatabaseError

from joblane import settings, telemetry
from joblane.errors import sqlstate, text_of
from joblane.names import check_prefix
from joblane.record import schedules
from joblane.record.deploys import write_deploy
from joblane.record.driver.connection import INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE, Connection, is_unavailable
from joblane.record.driver.database import Database
from joblane.record.driver.stage import WRITE_STAGE, check_project, check_search_path, check_stage, take_stage
from joblane.record.migrations import LOCK, applied, checked_revision, is_newer, newest, script, upgrade
from joblane.record.migrations.catalogue import Difference, accepted
from joblane.record.pauses import pause_everything
from joblane.record.sql_functions import installed
from joblane.record.task_types import literal, register, register_statement
from joblane.tasks.discovery import discover, migration_of

USER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
PAUSE_SECONDS = 3.0
LOCKED_PATIENCE = timedelta(minutes=1)

# RDS accepts only tokens from members of rds_iam, direct or indirect, and PostgreSQL 16 makes who creates a role its
# member, for good. So the grant could lock out the password of the role that logs in here: then it is undone.
# Source: RDS, *Creating a database account using IAM authentication* and *Database authentication*; PostgreSQL,
# *CREATE ROLE*, on CREATEROLE.
CREATE_USER = """
do $$
declare
  may_lock_out boolean := {by_password} and exists (select from pg_roles where rolname = 'rds_iam')
                          and not pg_has_role(session_user, to_regrole('rds_iam'), 'member');
begin
  if not exists (select from pg_roles where rolname = '{user}') then
    create role {user} login;
  end if;
  if exists (select from pg_roles where rolname = 'rds_iam') and not pg_has_role('{user}', 'rds_iam', 'member') then
    grant rds_iam to {user};
  end if;
  if may_lock_out and pg_has_role(session_user, to_regrole('rds_iam'), 'member') then
    raise insufficient_privilege using message = format(
      '%I would become a member of rds_iam through it, and could not log in by its password again', session_user);
  end if;
end
$$
"""
# The user may read and write every table that the migrating role owns, now or later, and may not change a schema. It
# may only read the migrations' version, the stage and the deploys, except for the times of the planned sweep and of a
# deploy's end, and only insert into the audit. PUBLIC may have lost its right to call functions. Two grants at the same
# time would fail, hence the lock.
GRANT = """
do $$
declare
  owned record;
begin
  perform pg_advisory_xact_lock({lock});
  for owned in
    select n.nspname as schema from pg_namespace n
     where n.nspowner = current_user::regrole and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  loop
    execute format('grant usage on schema %I to {user}', owned.schema);
  end loop;
  for owned in
    select c.oid::regclass as name, c.relkind = 'S' as is_sequence,
           c.oid in ('joblane.stage'::regclass, 'joblane.functions'::regclass, 'joblane.deploys'::regclass)
             or c.relname = 'alembic_version'
             as read_only,
           c.oid = 'joblane.audit'::regclass as insert_only
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relowner = current_user::regrole and c.relkind in ('r', 'p', 'v', 'm', 'S')
       and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  loop
    if owned.is_sequence then
      execute format('grant usage, select on sequence %s to {user}', owned.name);
    else
      execute format('grant select%s on %s to {user}', case when owned.read_only then '' when owned.insert_only
                     then ', insert' else ', insert, update, delete' end, owned.name);
      execute format('revoke %s on %s from {user}', case when owned.read_only then 'insert, update, delete, truncate'
                     when owned.insert_only then 'update, delete, truncate' else 'truncate' end, owned.name);
    end if;
  end loop;
  grant update (planned_sweep_at) on joblane.stage to {user};
  grant update (done_at) on joblane.deploys to {user};
  grant execute on all functions in schema joblane to {user};
  alter default privileges in schema joblane grant execute on functions to {user};
  alter default privileges grant select, insert, update, delete on tables to {user};
  alter default privileges grant usage, select on sequences to {user};
end
$$
"""


@dataclass(frozen=True)
class Migrated:
    """The database after a migration.

    ``types``: the number of declared task types. ``revision``: the schema's revision. ``newer``: newer code created the
    schema, so that it was not changed. ``differences``: what was changed by hand in it, and what fixes it.
    """

    types: int
    revision: str
    newer: bool
    differences: tuple[str, ...] = ()


def migrate(
    url: str,
    *,
    prefix: str | None = None,
    user: str | None = None,
    by_iam: bool = False,
    patience: timedelta = timedelta(0),
    version: str | None = None,
    by: str | None = None,
    pauses: str | None = None,
) -> Migrated:
    """Bring the database up to date. Repeating it is harmless. A schema of newer code is not changed.

    ``prefix``: the stage's prefix; None: the prefix in the settings. ``user``: a role that gets the right to read and
    write; None if the functions log in as the tables' owner. ``by_iam``: the user logs in by IAM and is created if it
    does not exist. ``patience``: how long to wait for an unavailable database, for example a paused database. It waits
    for tables in use, and for another migration, for at least a minute. ``version``: recorded as a deploy, with ``by``,
    the person who deploys; None: nothing is recorded. ``pauses``: the reason for which every queue is paused, before
    anything else reads the database; None: none is.

    Raises :class:`WrongStageError`, :class:`ForeignSchemaError` and :class:`ChangedSchemaError` before any change.
    """
    prefix, tasks = check_prefix(prefix or settings.prefix()), discover()
    with Database(url) as database:
        _patiently(lambda: _check(database.get(), prefix), is_unavailable, patience, "waiting for the database")
        in_turn = partial(_in_turn, patience=patience)
        found: list[Difference] = []
        in_turn(lambda: found.extend(upgrade(url)))
        in_turn(lambda: take_stage(database.get(), prefix, settings.project()))
        if pauses:
            in_turn(lambda: pause_everything(database.get(), pauses, by or "deploy"))
        in_turn(lambda: register(database.get(), tasks))
        in_turn(lambda: schedules.register(database.get(), tasks))
        upgrade_project(url, settings.migrations())
        if version:
            in_turn(lambda: write_deploy(database.get(), version, by))
        if user is not None:
            in_turn(lambda: _grant(database, user, by_iam=by_iam))
        revision = applied(database.get()) or ""
    return Migrated(len(tasks), revision, is_newer(revision), tuple(map(str, found)))


def pause_only(url: str, *, pauses: str, by: str, patience: timedelta) -> bool:
    """Pause every queue of a database that was migrated before, and change nothing else.

    False if the database stays unavailable for ``patience``. Any other error is raised.
    """
    with Database(url) as database:

        def pause() -> None:
            _in_turn(lambda: pause_everything(database.get(), pauses, by), patience=patience)

        try:
            _patiently(pause, is_unavailable, patience, "waiting for the database")
        except Exception as error:
            if not is_unavailable(error):
                raise
            telemetry.logger().error("the database is unavailable: pause its queues by hand", exc_info=error)
            return False
    return True


def is_migrated(connection: Connection) -> bool:
    """True if the schema and the functions match this code."""
    return applied(connection) == newest() and installed(connection)


def migration_sql(url: str | None) -> str:
    """Return the library's part of :func:`migrate` as SQL for psql, in one transaction.

    ``url``: the database; only its missing migrations are returned. None: all migrations, for a database without a
    schema ``joblane``. Raises the errors of :func:`migrate`.
    """
    prefix, tasks, current, restoring = check_prefix(settings.prefix()), discover(), None, []
    if url is not None:
        with Database(url) as database:
            current = _check(database.get(), prefix)
            if current == newest():
                restoring = [each.sql for each in accepted(database.get()) if each.is_restored]
    project = settings.project()
    take = WRITE_STAGE.format(prefix=literal(prefix), project=literal(project) if project else "null")
    return script(current, [*restoring, take, register_statement(tasks), schedules.register_statement(tasks)])


def _check(connection: Connection, prefix: str) -> str | None:
    """Return the database's revision. Raises :class:`WrongStageError` and :class:`ForeignSchemaError`."""
    check_search_path(connection)
    revision = checked_revision(connection)
    check_stage(connection, prefix)
    if revision is not None:
        check_project(connection, settings.project())
    return revision


def upgrade_project(url: str, name: str | None) -> None:
    """Run the project's own migrations, named as ``module:function``; None: the project has none.

    Raises :class:`DeclarationError` if the function does not exist.
    """
    if name is not None:
        migration_of(name)(url)


def _in_turn(work: Callable[[], object], *, patience: timedelta) -> None:
    """In short tries, because other statements queue behind a migration that waits for a table."""
    why = "a table is in use, or another migration runs; waiting"
    _patiently(work, _is_locked, max(patience, LOCKED_PATIENCE), why)


def _patiently(
    work: Callable[[], object], is_temporary: Callable[[Exception], bool], patience: timedelta, why: str
) -> None:
    """Call ``work`` until it succeeds. Retry a temporary error for as long as ``patience`` lasts."""
    until = time.monotonic() + patience.total_seconds()
    while True:
        try:
            work()
        except Exception as error:
            if not is_temporary(error) or time.monotonic() >= until:
                raise
            telemetry.logger().info(why, extra={"error": text_of(error)})
            time.sleep(PAUSE_SECONDS)
        else:
            return


def _is_locked(error: Exception) -> bool:
    return sqlstate(error) == LOCK_NOT_AVAILABLE


def _grant(database: Database, user: str, *, by_iam: bool) -> None:
    if not USER.fullmatch(user) or user == "joblane":
        raise ValueError(f"user: a lower-case name of PostgreSQL other than joblane is required, not {user!r}")
    connection = database.get()
    if connection.run("select current_user")[0][0] == user:
        return
    if by_iam:
        _create_user(connection, user, by_password=not database.by_iam)
    elif not connection.run("select from pg_roles where rolname = $1", user):
        raise ValueError(f"user: the role {user!r} does not exist; create it with the password in its secret")
    connection.run(GRANT.format(user=user, lock=LOCK))


def _create_user(connection: Connection, user: str, *, by_password: bool) -> None:
    """Create the functions' user for the login by IAM, in one transaction. ``by_password``: this login is not by IAM.

    Raises :class:`ValueError` if the migrating role may not, or would lock itself out.
    """
    try:
        connection.run(CREATE_USER.format(user=user, by_password=by_password))
    except DatabaseError as error:
        if sqlstate(error) != INSUFFICIENT_PRIVILEGE:
            raise
        raise ValueError(
            f"user: the migration cannot create the role {user!r} with the login by IAM, and changed no role:"
            f" {text_of(error)}. Let an administrator run: create role {user} login; grant rds_iam to {user}; or let"
            " the migration log in by IAM (database.migration_user)"
        ) from error
