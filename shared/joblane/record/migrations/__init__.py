"""The schema, by Alembic: additive first, so that old code runs beside a newer schema.

Revisions are numbers of four digits, in order.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.config import Config

    from joblane.record.connection import Connection


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at ``url`` (``postgresql://…``) to ``revision``. Doing it twice is harmless.

    A schema that newer code has made is left as it is: a deploy that goes back must not fail at it.
    """
    from alembic import command

    from joblane.record.database import Database

    database = Database(url)
    try:
        newer = is_newer(applied(database.get()))
    finally:
        database.drop()
    if newer:
        return
    config = _config()
    config.attributes["url"] = url
    command.upgrade(config, revision)


def applied(connection: Connection) -> str | None:
    """The revision that the database is at; None where no migration was ever run."""
    if connection.run("select to_regclass('joblane.alembic_version')") == [[None]]:
        return None
    rows = connection.run("select version_num from joblane.alembic_version")
    return str(rows[0][0]) if rows else None


def pending(revision: str | None) -> dict[str, str]:
    """Revision → what it is for, of those that a database at ``revision`` has not seen. None: an empty one."""
    return {name: purpose for name, purpose in _revisions() if revision is None or name > revision}


def newest() -> str:
    """The revision that this code works with; Alembic is not asked, which takes a while to load."""
    return max(path.name[:4] for path in (Path(__file__).parent / "versions").glob("[0-9]*_*.py"))


def is_newer(revision: str | None) -> bool:
    """Whether ``revision`` was made by code that came after this."""
    last, _ = _revisions()[-1]
    return revision is not None and revision.isdigit() and len(revision) == len(last) and revision > last


@cache
def _revisions() -> tuple[tuple[str, str], ...]:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return tuple((script.revision, script.doc) for script in scripts)[::-1]


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config
