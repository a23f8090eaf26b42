"""A Lambda with a handler of its own: what a ``handler.py`` declares where it is no task."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Function:
    """Declared as ``FUNCTION``. It gets the database's address, and least privilege follows from the rest.

    ``enqueue``: types it may send. ``reads``: names of the buckets it reads, as the CDK app gives them.
    ``environment``: names of settings it gets. ``inspects``: it holds an inspector, and may do all that one does.
    ``handler``: its entry, for example ``functions.api.handler.handler``; discovery sets it.
    """

    description: str
    timeout: timedelta
    memory_mb: int
    enqueue: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    inspects: bool = False
    handler: str = ""
