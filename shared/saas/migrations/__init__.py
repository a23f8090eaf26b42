"""The platform's migrations, separate from the library's: its tables and ``alembic_version`` are in schema ``saas``."""

from __future__ import annotations

from pathlib import Path


def upgrade(url: str) -> None:
    """Bring the platform's tables in the database at ``url`` (``postgresql://…``) up to date. It can be repeated."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = url
    command.upgrade(config, "head")
