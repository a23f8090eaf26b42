"""The choices that operations offer: states, orders, bounds and filters.

Commands and the page need them too, and a shared page runs without a database driver: this module imports none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.views import DeadGroup, DeadLetters
from joblane.record.row.states import ENDED, LIVE, WAITING, State
from joblane.record.task.insert import BATCH_TAG

ALLOWED: Mapping[str, frozenset[State]] = {
    BulkAction.RUN: WAITING,
    BulkAction.RETRY: frozenset({State.ARCHIVED, State.CANCELLED}),
    BulkAction.ARCHIVE: WAITING,
    BulkAction.DELETE: WAITING | ENDED,
    BulkAction.CANCEL: LIVE,
    "replay": ENDED,
    "edit": WAITING | {State.ARCHIVED},
}
"""The states that allow an action."""
MAX_RATE = 500
MAX_CANARY = 100
MOST_ERRORS = 5
"""The errors that are shown with the runs of a type."""
SORTS = ("count", "last")
"""The orders of the groups: the largest first, or those that came last first."""
BULK_TYPE = "jobs:bulk"
"""The task type that carries out bulk actions."""


def archived_members(id_: str) -> Filter:
    """Return the filter for the members of a batch that a redrive runs again."""
    return Filter(tag=f"{BATCH_TAG}{id_}", states=(State.ARCHIVED,))


def within(found: Sequence[DeadGroup], filter_: Filter) -> list[DeadGroup]:
    """Return the groups that a redrive with this filter sends back.

    A redrive without a type or fingerprint leaves out bulk actions and unreadable messages, because they would be
    refused again. To redrive them, give their type or fingerprint.
    """
    fingerprint, types = filter_.fingerprint, filter_.types
    return [
        group
        for group in found
        if fingerprint in (None, group.fingerprint)
        and (group.type in types if types else fingerprint or group.type not in ("", BULK_TYPE))
    ]


def removable(found: DeadLetters, filter_: Filter) -> int:
    """The number of obsolete dead letters that a redrive of all, or by types only, removes."""
    if not removes_obsolete(filter_):
        return 0
    return sum(number for type_, number in found.obsolete.items() if not filter_.types or type_ in filter_.types)


def removes_obsolete(filter_: Filter) -> bool:
    """True if a redrive with this filter removes obsolete dead letters."""
    return replace(filter_, types=(), states=()) == Filter()
