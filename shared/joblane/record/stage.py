"""The stage that a schema ``joblane`` serves: the first ``joblane migrate`` writes its prefix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pg8000.exceptions import DatabaseError

from joblane.errors import ForeignSchemaError, WrongStageError, sqlstate

if TYPE_CHECKING:
    from joblane.record.connection import Connection

STAGE = "select prefix from joblane.stage"
TAKE = "insert into joblane.stage (prefix) values ({prefix}) on conflict do nothing"
NOT_MIGRATED = ("3F000", "42P01")
"""No such schema, no such table."""
LIBRARY = "jobs:"
"""The library's own task types begin so; every project has them."""

# Extensions and the array and row types of tables are left out: they come and go with something else.
OBJECTS = """
select 'relation ' || c.relname from pg_class c
 where c.relnamespace = to_regnamespace('joblane') and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
union all
select 'function ' || p.proname from pg_proc p where p.pronamespace = to_regnamespace('joblane')
union all
select 'type ' || t.typname from pg_type t
 where t.typnamespace = to_regnamespace('joblane') and t.typrelid = 0 and t.typelem = 0
 order by 1
"""


def check_stage(connection: Connection, prefix: str) -> None:
    """Ask the database for its stage; one round trip. A database that was never migrated has none, and passes.

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
    """Compare what :data:`STAGE` returned. Raises :class:`WrongStageError`."""
    for (found,) in rows or ():
        if found != prefix:
            raise WrongStageError(prefix, found)


def take_stage(connection: Connection, prefix: str) -> None:
    """Write the prefix where none is written yet. Raises :class:`WrongStageError` where it is another."""
    connection.run(TAKE.format(prefix="$1"), prefix)
    check_stage(connection, prefix)


def check_schema(connection: Connection) -> None:
    """Raises :class:`ForeignSchemaError` for a schema ``joblane`` that somebody else made, or that this role would make
    its own tables in.
    """
    [[role, first]] = connection.run("select current_user, 'joblane' = any(current_schemas(false))")
    if first or role == "joblane":
        raise ForeignSchemaError(
            f"the role {role!r} has the schema joblane in its search_path, so that tables of yours would be made there;"
            " PostgreSQL looks in a schema of the role's name first. Log in as a role of another name, or take joblane"
            " out of its search_path"
        )
    objects = [name for (name,) in connection.run(OBJECTS)]
    if objects and "relation alembic_version" not in objects:
        raise ForeignSchemaError(
            f"the database has a schema joblane that this library did not make: it holds {_some(objects)} and no"
            " joblane.alembic_version; rename that schema, or use another database"
        )


def check_project(connection: Connection, types: Iterable[str]) -> None:
    """``types``: names and former names of all declared tasks.

    Raises :class:`ForeignSchemaError` where the schema knows tasks of a project and none of them is declared here.
    """
    ours = {type_ for type_ in types if not type_.startswith(LIBRARY)}
    theirs = {type_ for (type_,) in connection.run("select type from joblane.task_types order by type")}
    theirs = {type_ for type_ in theirs if not type_.startswith(LIBRARY)}
    if ours and theirs and not ours & theirs:
        raise ForeignSchemaError(
            f"the schema joblane of this database belongs to another project: it has the task types"
            f" {_some(sorted(theirs))}, and this project declares {_some(sorted(ours))}; use another database. Where"
            " all types were renamed, name the old ones as aliases="
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
