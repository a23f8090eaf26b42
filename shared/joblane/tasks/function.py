"""The declaration of a Lambda function that is not a task: its ``handler.py`` has its own handler."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Function:
    """A function, declared as ``FUNCTION`` in its module. It gets the database's URL. Its permissions follow from these
    fields.

    ``enqueue``: task types that it may enqueue. ``reads``: names of buckets that it may read, as the CDK app names
    them. ``environment``: names of settings that it gets, read by :class:`joblane.settings.Settings`. ``inspects``: it
    uses the Inspector and gets all its permissions. ``handler``: its entry, for example
    ``functions.api.handler.handler``; discovery sets it.
    """

    description: str
    timeout: timedelta
    memory_mb: int
    enqueue: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    inspects: bool = False
    handler: str = ""
