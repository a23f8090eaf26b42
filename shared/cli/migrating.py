"""Bringing a database up to date: its schema, and what it knows of the declared types."""

from __future__ import annotations


def migrate(url: str) -> int:
    """Upgrade the schema and write the declarations. Returns how many types there are. Doing it twice is harmless."""
    from shared.db import Database
    from shared.jobs.discovery import discover
    from shared.jobs.registry import register
    from shared.migrations import upgrade

    upgrade(url)
    database, tasks = Database(url), discover()
    try:
        register(database.get(), tasks)
    finally:
        database.drop()
    return len(tasks)
