"""Archived tasks and dead letters by cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from joblane.inspector.filter import BULK_TYPE, Filter
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

    def within(self, filter_: Filter) -> list[Cause]:
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
