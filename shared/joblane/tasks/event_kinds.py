"""The kinds of events: the states in which a task ends."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, get_args

from joblane.errors import DeclarationError

Kind = Literal["completed", "archived", "cancelled"]
KINDS: tuple[str, ...] = get_args(Kind)
EVENTS = "events"
"""The field of a successor's columns with the kinds that its type declares."""
LISTENERS: list[Any] = []
"""The listeners of this process, see :mod:`joblane.tasks.listeners`. Most processes have none, and never import it."""
AROUND: list[Any] = []
"""The hooks around each run, see :mod:`joblane.tasks.hooks`."""
ENQUEUEING: list[Any] = []
"""The hooks that see each job before its check."""
OBSERVERS: list[Any] = []
"""The observers of the runs of this process: of :mod:`joblane.otel` and :mod:`joblane.sentry`."""
OWN_TRANSACTION = "calls_hooks"
"""The attribute of a task's function that calls the hooks around it itself, inside of a transaction of its own."""


def event_id(task_id: str, redrives: int, kind: str) -> str:
    """Return the id of an event."""
    return f"{task_id}:{redrives}:{kind}"


def check_kinds(what: str, kinds: object) -> tuple[str, ...]:
    """Return the kinds without repetitions. Raises :class:`DeclarationError`, which begins with ``what``."""
    if isinstance(kinds, str) or not isinstance(kinds, Collection):
        example = kinds if isinstance(kinds, str) else "archived"
        raise DeclarationError(f"{what}: events: a list is required, for example ({example!r},)")
    for kind in kinds:
        if kind not in KINDS:
            raise DeclarationError(f"{what}: events: {kind!r} is not one of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in kinds)
