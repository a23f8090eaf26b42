"""The schema ``joblane``, by Alembic: additive first, so that old code also works with a newer schema.

Revisions are numbers of four digits, in order.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joblane.errors import ForeignSchemaError

if TYPE_CHECKING:
    from alembic.config import Config

    from joblane.record.connection import Connection

FOLDER = Path(__file__).parent


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at ``url`` (``postgresql://…``) to ``revision``. Doing it twice is harmless.

    A schema that newer code has made is left as it is: a deploy that goes back must not fail at it. Raises
    :class:`ForeignSchemaError` for a revision that is none of ours.
    """
    from alembic import command

    from joblane.record.database import Database

    with Database(url) as database:
        current = checked_revision(database.get())
    if not is_newer(current):
        command.upgrade(_config(url=url), revision)


def script(current: str | None, after: Sequence[str]) -> str:
    """The SQL that brings a database at revision ``current`` to the newest one, as one transaction.

    ``current``: None for an empty database. ``after``: further statements for the end of the transaction.
    """
    from alembic import command

    written = io.StringIO()
    start = newest() if is_newer(current) else current
    config = _config(after=tuple(after))
    config.output_buffer = written
    command.upgrade(config, f"{start}:head" if start else "head", sql=True)
    return written.getvalue()


def applied(connection: Connection) -> str | None:
    """The revision that the database is at; None where no migration was ever run."""
    if connection.run("select to_regclass('joblane.alembic_version')") == [[None]]:
        return None
    rows = connection.run("select version_num from joblane.alembic_version")
    return str(rows[0][0]) if rows else None


def checked_revision(connection: Connection) -> str | None:
    """The same. Raises :class:`ForeignSchemaError` for a revision that neither this code nor newer code has made."""
    revision = applied(connection)
    if revision is not None and revision not in pending(None) and not is_newer(revision):
        raise ForeignSchemaError(
            f"joblane.alembic_version is at revision {revision!r}, which this library never made; use another database,"
            " or rename that schema"
        )
    return revision


def pending(revision: str | None) -> dict[str, str]:
    """Revision → its purpose, of those that a database at ``revision`` has not seen. None: an empty one."""
    return {name: purpose for name, purpose in _revisions() if revision is None or name > revision}


def newest() -> str:
    """The revision that this code works with; Alembic is not asked, which takes a while to load."""
    return max(path.name[:4] for path in (FOLDER / "versions").glob("[0-9]*_*.py"))


def is_newer(revision: str | None) -> bool:
    """True for a revision that was made by code that came after this."""
    last = newest()
    return revision is not None and revision.isdigit() and len(revision) == len(last) and revision > last


@cache
def _revisions() -> tuple[tuple[str, str], ...]:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return tuple((script.revision, script.doc) for script in scripts)[::-1]


def _config(**attributes: Any) -> Config:
    """Alembic's settings; ``attributes`` are for ``env.py``."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes.update(attributes)
    return config
