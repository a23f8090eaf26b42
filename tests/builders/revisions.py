"""A second revision of the schema, which the library does not have yet."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from joblane.record import migrations
from joblane.record.migrations.fixes import FOLDER

SECOND = '''"""A column for a test."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("STATEMENT")
'''
COLUMN = "alter table joblane.pauses add column of_newer_code text"


def second_revision(folder: Path, monkeypatch: pytest.MonkeyPatch, *, statement: str = COLUMN) -> None:
    """Let the library find its migrations in ``folder``, with one more, for the rest of the test."""
    made = folder / "migrations"
    shutil.copytree(FOLDER, made, ignore=shutil.ignore_patterns("__pycache__", "__init__.py"))
    (made / "versions" / "0002_second.py").write_text(SECOND.replace("STATEMENT", statement))
    migrations._revisions.cache_clear()
    monkeypatch.setattr(migrations, "FOLDER", made)
    monkeypatch.setattr(migrations, "_revisions", migrations._revisions.__wrapped__)
