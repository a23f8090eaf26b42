"""Unique tasks: one live task per key.

A unique index over the rows of live tasks holds the key, so every end of a task releases it, a crash too. When
``unique_for`` is over, the next enqueue takes the key from its holder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from joblane.json_values import digest

MAX_KEY = 200
PAYLOAD_KEY = re.compile(r"[0-9a-f]{32}")
"""The part of a key that is made of queue and payload, if the caller gave none."""
LONGEST_UNIQUE = timedelta(days=3650)


class Until(StrEnum):
    """The time at which a task releases its unique key, unless ``unique_for`` has passed earlier."""

    FINISH = "finish"
    """When the task ends."""
    START = "start"
    """When its first run starts."""


class OnConflict(StrEnum):
    """The result of an enqueue if a live task holds the unique key."""

    RAISE = "raise"
    """Raise :class:`DuplicateTaskError` with the id of the existing task."""
    RETURN = "return"
    """Return the existing task, unchanged."""
    REPLACE = "replace"
    """Give the existing task the new payload, time and options, if it waits. While an attempt is under way: raise
    :class:`DuplicateTaskError`."""


class Keep(StrEnum):
    """The payload and options that a debounced task gets: those of the first or of the last enqueue."""

    LAST = "last"
    FIRST = "first"


@dataclass(slots=True)
class Debounce:
    """The debounce of a task. ``longest``: seconds after its first enqueue it is due. ``asks``: number of enqueues."""

    longest: float
    keep: Keep
    asks: int = 1


@dataclass(slots=True)
class Unique:
    """A key to hold, for at most ``seconds``."""

    key: str
    seconds: float
    until: Until


def key_of(type_: str, queue: str, payload: Mapping[str, Any], given: str | None) -> str:
    """Return the key: type and the caller's key, or type, queue and payload, as in asynq."""
    if given is not None:
        return f"{type_} {given}"
    return f"{type_} {hashlib.sha256(f'{queue} {digest(payload)}'.encode()).hexdigest()[:32]}"
