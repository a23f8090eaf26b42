"""Archived tasks and dead letters by cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from joblane.inspector.views.causes import Cause


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """``groups``: causes with archived tasks or messages, 500 at most. ``depths``: the number of messages in each
    dead-letter queue that holds any.

    ``unread``: the number of messages that were not read, of any type or tenant: at most 100 of each queue are read.
    ``obsolete``: type → the number of dead letters of the chosen types and tenant whose tasks were retried or deleted.
    """

    groups: tuple[Cause, ...]
    depths: Mapping[str, int]
    unread: int
    obsolete: Mapping[str, int] = field(default_factory=dict)
