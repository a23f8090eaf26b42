"""The migrations of the schema ``joblane``, by Alembic. They add first, so that old code works with a newer schema.

Revisions are four-digit numbers in order.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joblane.errors import ForeignSchemaError
from joblane.record.functions import INSTALL

if TYPE_CHECKING:
    from alembic.config import Config

    from joblane.record.connection import Connection

FOLDER = Path(__file__).parent
LOCK = 0x6A6F626C616E65
"""The key of the advisory lock: 'joblane' in ASCII."""
TAKE_LOCK = f"select pg_advisory_xact_lock({LOCK})"


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at ``url`` (``postgresql://…``) to ``revision``, and create this code's functions.

    Repeating it is harmless. In a schema of newer code only the functions are created, so that a rollback to older code
    does not fail. Raises :class:`ForeignSchemaError` for a revision that this library never made.
    """
    from alembic import command

    from joblane.record.database import Database

    with Database(url) as database:
        current = checked_revision(database.get())
        if not is_newer(current):
            command.upgrade(_config(url=url), revision)
        database.get().execute_simple(";\n".join([TAKE_LOCK, *INSTALL]))


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
    if connection.run("select to_regclass('joblane.alembic_version')") == [[None]]:
        return None
    rows = connection.run("select version_num from joblane.alembic_version")
    return str(rows[0][0]) if rows else None


def checked_revision(connection: Connection) -> str | None:
    """Like :func:`applied`. Raises :class:`ForeignSchemaError` for a revision that this library never made."""
    revision = applied(connection)
    if revision is not None and revision not in pending(None) and not is_newer(revision):
        raise ForeignSchemaError(
            f"joblane.alembic_version is at revision {revision!r}, which this library never made; use another database,"
            " or rename that schema"
        )
    return revision


def pending(revision: str | None) -> dict[str, str]:
    """Return the revisions after ``revision``, each with its purpose. None: all revisions."""
    return {name: purpose for name, purpose in _revisions() if revision is None or name > revision}


def newest() -> str:
    """Return the newest revision of this code, without Alembic, which is slow to import."""
    return max(path.name[:4] for path in (FOLDER / "versions").glob("[0-9]*_*.py"))


def is_newer(revision: str | None) -> bool:
    """True for a revision of newer code."""
    last = newest()
    return revision is not None and revision.isdigit() and len(revision) == len(last) and revision > last


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
