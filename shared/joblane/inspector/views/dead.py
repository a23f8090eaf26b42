"""Archived tasks by cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from joblane.inspector.filter import BULK_TYPE, Filter
from joblane.inspector.listing import LISTINGS, Column, Kind, Listing


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

    @property
    def error(self) -> str:
        """The error, with marks for a new or a known one, and for messages without a row."""
        text = f"{self.error_type}: {self.message}" if self.message else self.error_type
        if self.acknowledged:
            text = f"[known to {self.acknowledged.who}: {self.acknowledged.note}] {text}"
        elif self.is_new:
            text = f"[new] {text}"
        return text if self.recorded else f"{text} (messages without a row, in {self.queue})"


LISTINGS[DeadGroup] = Listing(
    "Dead letters",
    "There are no archived tasks and no dead letters.",
    (
        Column("Count", "count", Kind.NUMBER),
        Column("Fingerprint", "fingerprint", Kind.ID),
        Column("Type", "type", fold=20),
        Column("Error", "error", Kind.PROSE, fold=20),
        Column("First", "first_at", Kind.MOMENT),
        Column("Last", "last_at", Kind.MOMENT),
        Column("Example", "example", Kind.ID, page_only=True),
    ),
    left_out=("First", "Last"),
)


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """``groups``: 500 at most. ``depths``: the number of messages in each dead-letter queue that holds any.

    ``unread``: the number of messages that were not read, of any type or tenant: at most 100 of each queue are read.
    ``obsolete``: type → the number of dead letters of the chosen types and tenant whose tasks were retried or deleted.
    """

    groups: tuple[DeadGroup, ...]
    depths: Mapping[str, int]
    unread: int
    obsolete: Mapping[str, int] = field(default_factory=dict)

    def within(self, filter_: Filter) -> list[DeadGroup]:
        """Return the groups that a redrive with this filter sends back.

        A redrive without a type or fingerprint leaves out bulk actions and unreadable messages, because they would be
        refused again. To redrive them, give their type or fingerprint.
        """
        fingerprint, types = filter_.fingerprint, filter_.types
        return [
            group
            for group in self.groups
            if fingerprint in (None, group.fingerprint)
            and (group.type in types if types else fingerprint or group.type not in ("", BULK_TYPE))
        ]

    def removable(self, filter_: Filter) -> int:
        """The number of obsolete dead letters that a redrive of all, or by types only, removes."""
        if not filter_.removes_obsolete:
            return 0
        return sum(number for type_, number in self.obsolete.items() if not filter_.types or type_ in filter_.types)
