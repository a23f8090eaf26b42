"""The schema, by Alembic: additive first, so that old code runs beside a newer schema."""

from __future__ import annotations

from pathlib import Path


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at ``url`` (``postgresql://…``) to ``revision``. Doing it twice is harmless.

    One that newer code has migrated is left as it is.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = url
    command.upgrade(config, revision)
