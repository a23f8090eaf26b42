"""The stage and the project that a schema ``joblane`` serves. The first ``joblane migrate`` writes them."""

from __future__ import annotations

from collections.abc import Iterable

from pg8000.exceptions import DatabaseError

from joblane.errors import ForeignSchemaError, WrongStageError, sqlstate
from joblane.record.driver.connection import NO_SCHEMA, UNDEFINED_TABLE, Connection

STAGE = "select prefix from joblane.stage"
WRITE_STAGE = """insert into joblane.stage as s (prefix, project) values ({prefix}, {project})
on conflict (only_row) do update set project = coalesce(s.project, excluded.project)
 where s.prefix = excluded.prefix"""
NOT_MIGRATED = (NO_SCHEMA, UNDEFINED_TABLE)


def check_stage(connection: Connection, prefix: str) -> None:
    """Check the database's stage, in one round trip. A database that was never migrated has no stage and passes.

    Raises :class:`WrongStageError`.
    """
    try:
        rows = connection.execute_simple(STAGE).rows
    except DatabaseError as error:
        if sqlstate(error) not in NOT_MIGRATED:
            raise
        return
    match_stage(rows, prefix)


def match_stage(rows: Iterable[Iterable[str]] | None, prefix: str) -> None:
    """Check the rows that :data:`STAGE` returned. Raises :class:`WrongStageError`."""
    for (found,) in rows or ():
        if found != prefix:
            raise WrongStageError(prefix, found)


def take_stage(connection: Connection, prefix: str, project: str | None) -> None:
    """Write prefix and project if they are not written yet. Raises :class:`WrongStageError` for another prefix."""
    connection.run(WRITE_STAGE.format(prefix="$1", project="$2"), prefix, project)
    check_stage(connection, prefix)


def check_search_path(connection: Connection) -> None:
    """Check that the schema ``joblane`` is not in the role's search_path. Raises :class:`ForeignSchemaError`."""
    [[role, in_search_path]] = connection.run("select current_user, 'joblane' = any(current_schemas(false))")
    if in_search_path or role == "joblane":
        raise ForeignSchemaError(
            f"the role {role!r} has the schema joblane in its search_path, so your own tables would be created there;"
            " PostgreSQL searches a schema with the role's name first",
            "Log in as a role with another name, or remove joblane from its search_path",
        )


def check_project(connection: Connection, project: str | None) -> None:
    """Check that the schema belongs to this project; None: a project without a name.

    Raises :class:`ForeignSchemaError`.
    """
    for (found,) in connection.run("select project from joblane.stage where project is not null"):
        if project is None:
            raise ForeignSchemaError(
                f"the schema joblane of this database belongs to the project {found!r}, and this project has no name",
                f"Set `[project] name` in its pyproject.toml to {found!r} if it is the same project, or use another"
                " database",
            )
        if project != found:
            raise ForeignSchemaError(
                f"the schema joblane of this database belongs to the project {found!r}, and this is {project!r}",
                "Use another database. If the project was renamed, run:"
                f" update joblane.stage set project = '{project}'",
            )
