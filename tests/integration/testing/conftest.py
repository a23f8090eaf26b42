"""The kit, with a table for the effects of its samples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text

from joblane.testing import JobTester
from tests.integration.testing.samples import TABLE

Effects = Callable[[], list[str]]


@pytest.fixture
def effects(jobs: JobTester) -> Effects:
    """Make the table, and tell what is in it."""
    execute(jobs, TABLE)

    def look() -> list[str]:
        with jobs.session() as session:
            return list(session.scalars(text("select what from effects order by id")))

    return look


def execute(jobs: JobTester, *statements: str) -> None:
    """Execute statements in one transaction of the test."""
    with jobs.session() as session:
        for statement in statements:
            session.execute(text(statement))
