"""A Lambda of its own: what a ``handler.py`` declares beside ``handler(event, context)`` where it is no task."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Function:
    """Declared as ``FUNCTION``. It gets the database's address, and least privilege follows from the rest.

    ``enqueue``: types it may send. ``reads``: names that ``shared/joblane/cdk/app.py`` gives to folders of buckets.
    ``environment``:
    names of settings it gets. ``inspects``: it holds an inspector, and may do all that one does.
    """

    description: str
    timeout: timedelta
    memory_mb: int
    enqueue: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    inspects: bool = False
