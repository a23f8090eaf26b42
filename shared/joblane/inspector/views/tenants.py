"""A tenant now, by its types."""

from __future__ import annotations

from dataclasses import dataclass

from joblane.inspector.listing import LISTINGS, Column, Kind, Listing
from joblane.inspector.views.runs import OfRuns
from joblane.inspector.views.stage import Pause


@dataclass(frozen=True, slots=True)
class TenantType(OfRuns):
    """A type of a tenant now: its live tasks, counted as in :class:`TenantRow`, and its runs of the last hour.

    ``retry``: tasks that wait for another attempt; they are also ``due`` or ``later``. ``wait_ms``: the mean time from
    due to start, None without a run.
    """

    type: str
    due: int
    held: int
    active: int
    retry: int
    later: int
    oldest_wait_seconds: float | None
    started: int
    failed: int
    wait_ms: int | None


LISTINGS[TenantType] = Listing(
    "Types of a tenant",
    "The tenant has no live tasks, and no runs of the last hour.",
    (
        Column("Type", lambda row: row.type or "none", fold=20),
        Column("Due", "due", Kind.NUMBER),
        Column("Oldest", "oldest_wait_seconds", Kind.SECONDS),
        Column("Active", "active", Kind.NUMBER),
        Column("Held", "held", Kind.NUMBER),
        Column("Retry", "retry", Kind.NUMBER),
        Column("Later", "later", Kind.NUMBER),
        Column("Runs 1h", "started", Kind.NUMBER),
        Column("Failed 1h", "failed", Kind.ALARM),
        Column("Failed %", "failed_percent", Kind.NUMBER),
        Column("Mean wait", "wait_ms", Kind.MILLISECONDS),
    ),
    left_out=("Failed %", "Later", "Held"),
    whole=True,
)


@dataclass(frozen=True, slots=True)
class TenantView:
    """A tenant now. ``name``: empty for tasks without a tenant. ``types``: at most 500, most trouble first."""

    name: str
    types: tuple[TenantType, ...]
    pause: Pause | None

    @property
    def oldest_wait_seconds(self) -> float | None:
        """The wait of the task that has been due longest; None if no task is due."""
        waits = [one.oldest_wait_seconds for one in self.types if one.oldest_wait_seconds is not None]
        return max(waits, default=None)
