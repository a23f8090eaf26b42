"""Unique tasks: one live task per key.

The key is held by a unique index over the rows of live tasks, so whatever ends a task frees it, a crash too. A key that
outlived ``unique_for`` is taken away from its holder by whoever wants it next.
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
"""What stands for queue and payload in a key that no caller gave."""
LONGEST_UNIQUE = timedelta(days=3650)


class Until(StrEnum):
    """When a task gives its key back, at the latest: at its end, or when its first run starts."""

    FINISH = "finish"
    START = "start"


class OnConflict(StrEnum):
    """What an enqueue does where the key is held.

    ``raise``: :class:`DuplicateTaskError` with the holder's id. ``return``: the holder. ``replace``: give the waiting
    holder the new payload, time and options.
    """

    RAISE = "raise"
    RETURN = "return"
    REPLACE = "replace"


@dataclass(slots=True)
class Unique:
    """A key to hold. ``seconds``: for how long at most."""

    key: str
    seconds: float
    until: Until


def key_of(type_: str, queue: str, payload: Mapping[str, Any], given: str | None) -> str:
    """The caller's key, which stands for one of its type; else type, queue and payload, as in asynq."""
    if given is not None:
        return f"{type_} {given}"
    return f"{type_} {hashlib.sha256(f'{queue} {digest(payload)}'.encode()).hexdigest()[:32]}"
