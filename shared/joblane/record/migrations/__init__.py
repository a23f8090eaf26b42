"""The migrations of the schema ``joblane``, by Alembic. They add first, so that old code works with a newer schema.

Revisions are four-digit numbers in order.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from joblane.errors import ForeignSchemaError
from joblane.record.migrations import catalogue
from joblane.record.migrations.catalogue import Difference
from joblane.record.migrations.fixes import FOLDER
from joblane.record.sql_functions import INSTALL

if TYPE_CHECKING:
    from alembic.config import Config

    from joblane.record.driver.connection import Connection

LOCK = 0x6A6F626C616E65
"""The key of the advisory lock: 'joblane' in ASCII."""
TAKE_LOCK = f"select pg_advisory_xact_lock({LOCK})"
OBJECTS = ("table", "view", "sequence", "function", "type")
TASKS, VERSIONS = "table joblane.tasks", "table joblane.alembic_version"
WRITE = (
    "create table if not exists joblane.alembic_version (version_num varchar(32) constraint alembic_version_pkc primary"
    " key); insert into joblane.alembic_version values ('{newest}')"
)
"""The next migration compares the tables with this revision."""


def upgrade(url: str, revision: str = "head") -> list[Difference]:
    """Bring the database at ``url`` (``postgresql://…``) to ``revision``, and create this code's functions.

    Returns what was changed by hand in the schema. It restores changed functions and triggers. Repeating it is
    harmless. In a schema of newer code only the functions are created, so that a rollback to older code does not fail.

    Raises :class:`ForeignSchemaError` for a schema of another origin, and :class:`ChangedSchemaError` if other parts
    are missing or changed. Both change nothing.
    """
    from alembic import command

    from joblane.record.driver.database import Database

    with Database(url) as database:
        found: list[Difference] = []

        def verify(connection: Connection) -> None:
            if applied(connection) == newest():
                found.extend(catalogue.accepted(connection))
            for each in found:
                if each.is_restored:
                    connection.execute_simple(each.sql)

        if not is_newer(checked_revision(database.get())):
            command.upgrade(_config(url=url, verify=verify), revision)
        database.get().execute_simple(";\n".join([TAKE_LOCK, *INSTALL]))
    return [replace(each, do="it was restored") if each.is_restored else each for each in found]


def script(current: str | None, after: Sequence[str]) -> str:
    """Return the SQL that brings a database from revision ``current`` to the newest one, with this code's functions.

    It is one transaction.

    ``current``: None for an empty database. ``after``: further statements at the end of the transaction.
    """
    from alembic import command

    written = io.StringIO()
    start = newest() if is_newer(current) else current
    config = _config(after=(*INSTALL, *after))
    config.output_buffer = written
    command.upgrade(config, f"{start}:head" if start else "head", sql=True)
    return written.getvalue()


def applied(connection: Connection) -> str | None:
    """Return the database's revision, or None if no migration has run."""
    return next(iter(_written(connection)), None)


def _written(connection: Connection) -> list[str]:
    """Return the revisions in the database, the newest first. A migration leaves one."""
    if connection.run("select to_regclass('joblane.alembic_version')") == [[None]]:
        return []
    rows = connection.run("select version_num from joblane.alembic_version order by version_num desc")
    return [str(revision) for (revision,) in rows]


def checked_revision(connection: Connection) -> str | None:
    """Like :func:`applied`. Raises :class:`ForeignSchemaError` for a schema that this library did not create."""
    objects = [(kind, name) for kind, name, part in catalogue.read(connection) if kind in OBJECTS and not part]
    found = [f"{kind} {name}" for kind, name in sorted(objects, key=lambda each: OBJECTS.index(each[0]))]
    written = _written(connection)
    revision = written[0] if written else None
    if len(written) > 1:
        raise _foreign(
            f"at more than one revision: {_some(written)}",
            "Delete all but the one of its tables, and migrate: delete from joblane.alembic_version where version_num"
            f" <> '{newest()}'. ",
        )
    if revision is None and found not in ([], [VERSIONS]):
        if TASKS not in found:
            raise _foreign(f"that this library did not create: it contains {_some(found)}, and no revision")
        raise _foreign(
            "without a revision",
            f"If its tables are Joblane's, write it, and migrate: {WRITE.format(newest=newest())}. ",
        )
    if revision is not None and revision not in _known() and not is_newer(revision):
        raise _foreign(f"at revision {revision!r}, which this library does not have")
    if revision is not None and TASKS not in found:
        raise _foreign(
            f"at revision {revision!r} without the table joblane.tasks: it was dropped or renamed, or another program"
            " created the schema"
        )
    return revision


def _foreign(problem: str, do: str = "") -> ForeignSchemaError:
    return ForeignSchemaError(
        f"the database has a schema joblane {problem}",
        f"{do}To start anew, rename it, which keeps its tables, and migrate again: `alter schema joblane rename to"
        " joblane_old`. Or use another database",
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def pending(revision: str | None) -> dict[str, str]:
    """Return the revisions after ``revision``, each with its purpose. None: all revisions."""
    return {name: purpose for name, purpose in _revisions() if revision is None or name > revision}


def newest() -> str:
    """Return the newest revision of this code, without Alembic, which is slow to import."""
    return max(_known())


def is_newer(revision: str | None) -> bool:
    """True for a revision of newer code."""
    last = newest()
    return revision is not None and revision.isdigit() and len(revision) == len(last) and revision > last


def _known() -> set[str]:
    return {path.name[:4] for path in (FOLDER / "versions").glob("[0-9]*_*.py")}


@cache
def _revisions() -> tuple[tuple[str, str], ...]:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return tuple((script.revision, script.doc) for script in scripts)[::-1]


def _config(**attributes: Any) -> Config:
    """Return Alembic's configuration; ``env.py`` reads ``attributes``."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes.update(attributes)
    return config
