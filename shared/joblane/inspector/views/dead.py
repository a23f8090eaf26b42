"""Archived tasks by cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An operator's note on a cause of failures. It ends once another task fails with the cause."""

    at: datetime
    who: str
    note: str


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """Tasks, or dead letters, with the same error. ``fingerprint``: the argument of a redrive.

    ``recorded``: True for archived tasks; False for dead letters that never had a row, or that SQS itself moved.
    ``is_new``: the first of the tasks was archived less than a day ago. ``acknowledged``: None if no operator has
    acknowledged the cause, or if it has come again since. ``queue``: the dead-letter queue.
    """

    fingerprint: str
    type: str
    error_type: str
    message: str
    recorded: bool
    count: int
    first_at: datetime
    last_at: datetime
    example: str
    queue: str
    log_link: str | None
    is_new: bool = False
    acknowledged: Acknowledged | None = None


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """``groups``: 500 at most. ``depths``: the number of messages in each dead-letter queue that holds any.

    ``unread``: the number of messages that were not read: at most 100 of each queue are read. ``obsolete``: type → the
    number of dead letters whose tasks were retried or deleted.
    """

    groups: tuple[DeadGroup, ...]
    depths: Mapping[str, int]
    unread: int
    obsolete: Mapping[str, int] = field(default_factory=dict)
