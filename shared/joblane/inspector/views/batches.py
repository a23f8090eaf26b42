"""Batches of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from joblane.inspector.filter import Filter
from joblane.inspector.listing import LISTINGS, Column, Kind, Listing
from joblane.inspector.views.tasks import AnyState, Relative, TaskRow
from joblane.record.row.states import ENDED, State
from joblane.record.task.insert import BATCH_TAG


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch. ``sealed_at`` None: members can be added. ``on_end``, ``on_success``: its callbacks, or None.

    Only in a list: ``archived``, its members among the latest 20,000 archived tasks; ``archived_at``, the latest end.
    """

    id: str
    created_at: datetime
    sealed_at: datetime | None
    on_end: Relative | None
    on_success: Relative | None
    archived: int = 0
    archived_at: datetime | None = None


LISTINGS[BatchRow] = Listing(
    "Batches",
    "There are no batches.",
    (
        Column("ID", "id", Kind.ID, fold=30),
        Column("Created", "created_at", Kind.MOMENT),
        Column("Sealed", lambda row: row.sealed_at or "no", Kind.MOMENT, warns=lambda row: not row.sealed_at),
        Column("Archived", "archived", Kind.ALARM, since="archived_at"),
        Column("On end", lambda row: row.on_end and row.on_end.shown_state, Kind.STATE),
        Column("On success", lambda row: row.on_success and row.on_success.shown_state, Kind.STATE),
    ),
    left_out=("Created",),
)


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch with its members. ``members``: their number by state.

    ``exact`` False: the batch has more members than the 50,000 that are counted. ``dead``: the latest archived members,
    at most 20. Members whose rows are removed are in neither.
    """

    row: BatchRow
    members: Mapping[AnyState, int]
    exact: bool
    dead: tuple[TaskRow, ...]

    @property
    def number(self) -> int:
        """The number of members that are counted."""
        return sum(self.members.values())

    @property
    def ended(self) -> int:
        """The number of these that have ended, archived ones included."""
        return sum(number for state, number in self.members.items() if state in ENDED)


def archived_members(id_: str) -> Filter:
    """Return the filter for the members of a batch that a redrive runs again."""
    return Filter(tag=f"{BATCH_TAG}{id_}", states=(State.ARCHIVED,))
