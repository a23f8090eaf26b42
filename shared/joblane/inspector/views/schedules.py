"""Schedules of the code, and those made at run time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joblane.inspector.listing import LISTINGS, Column, Kind, Listing, Order
from joblane.inspector.sentences.schedules import ORIGINS, a_day, in_words
from joblane.inspector.views.actions import AuditEntry
from joblane.inspector.views.stage import Count
from joblane.inspector.views.tasks import AnyState


@dataclass(frozen=True, slots=True)
class TickView:
    """A tick of a schedule. ``state`` None: it did not arrive. ``duration_ms``: of its last run, None without one that
    has ended."""

    at: datetime
    task_id: str
    state: AnyState | None
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SchedulePause:
    """The pause of a schedule. ``until`` None: until it is resumed. ``by`` None: a program has paused it."""

    since: datetime
    until: datetime | None
    by: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A line of the listing.

    ``origin``: ``code`` or ``run_time``. ``text``: five fields of cron. ``missed``: the policy for missed ticks,
    ``latest`` or ``skip``. ``ticks_a_day``: of an average day.

    ``next_at``: time of the next tick; None: it is paused without an end. ``last_at``: time of the last tick that the
    sweep gave a task, up to 15 minutes ahead; None: none. ``ticks``: the last ticks, newest first. ``problem``: why the
    last tick got no task, or why there are none; None: there is no problem.

    Of a schedule of the code: ``missing``: the number of ticks of the last 24 hours that did not arrive within 30
    minutes; ``missing_at``: the times of the last 20 of them, newest first; ``on_aws``: its state in EventBridge
    Scheduler, None if not known. ``can_be_deleted`` False: the code declares it.
    """

    name: str
    origin: str
    type: str
    tenant: str | None
    text: str
    timezone: str
    missed: str
    ticks_a_day: float
    pause: SchedulePause | None
    next_at: datetime | None
    last_at: datetime | None
    ticks: tuple[TickView, ...]
    problem: str | None
    missing: int = 0
    missing_at: tuple[datetime, ...] = ()
    on_aws: str | None = None
    can_be_deleted: bool = True

    @property
    def is_of_code(self) -> bool:
        return self.origin == "code"

    @property
    def id_prefix(self) -> str:
        """The beginning of the ids of its tasks."""
        return f"{self.name}:" if self.is_of_code else f"@{self.name}:"

    @property
    def durations_ms(self) -> list[int]:
        """The durations of the last ticks that ran, newest first."""
        return [tick.duration_ms for tick in self.ticks if tick.duration_ms is not None]


def _paused_until(row: ScheduleRow) -> datetime | str | None:
    return None if row.pause is None else row.pause.until or "resumed"


LISTINGS[ScheduleRow] = Listing(
    "Schedules",
    "No schedule matches.",
    (
        Column("Name", "name", Kind.ID, fold=20),
        Column("Origin", lambda row: ORIGINS[row.origin]),
        Column("Type", "type", fold=16),
        Column("Tenant", "tenant", optional=True, fold=10),
        Column("Schedule", lambda row: in_words(row.text, row.timezone), fold=16),
        Column("Ticks a day", lambda row: a_day(row.ticks_a_day), Kind.NUMBER),
        Column("Next", "next_at", Kind.MOMENT),
        Column("Last ticks", "ticks", Kind.TICKS),
        Column("Took", lambda row: next(iter(row.durations_ms), None), Kind.MILLISECONDS, optional=True),
        Column("Longest", lambda row: max(row.durations_ms, default=None), Kind.MILLISECONDS, optional=True),
        Column("On AWS", lambda row: None if row.on_aws == "ENABLED" else row.on_aws, Kind.PROBLEM, optional=True),
        Column("Paused until", _paused_until, Kind.MOMENT, optional=True, warns=_paused_until),
        Column("Problem", "problem", Kind.PROBLEM, optional=True, fold=16),
    ),
    left_out=("Longest", "Took", "On AWS", "Origin", "Ticks a day", "Tenant", "Last ticks", "Type"),
    orders={"Name": Order("name", descending=False), "Ticks a day": Order("ticks")},
)


@dataclass(frozen=True, slots=True)
class SchedulePage:
    """A page of schedules. ``after``: the position from which the next page begins; None on the last page. ``count``:
    all schedules that match.

    ``searched_to``: the page ended before it was full, because 20,000 schedules were searched; the name of the last of
    them. None: the page is full, or the last one.
    """

    schedules: tuple[ScheduleRow, ...]
    count: Count
    after: str | None
    searched_to: str | None = None


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """All details of one schedule.

    ``payload``: of each tick, with redacted fields masked. ``options``: of each tick's task, with masked headers.
    ``overlap``: of its type, None if this code does not declare the type. ``next``: the times of the next ticks; of a
    schedule that is paused without an end, as they would be without the pause. ``audit``: actions of operators on it,
    newest first.
    """

    row: ScheduleRow
    payload: Any
    options: Mapping[str, Any]
    overlap: str | None
    next: tuple[datetime, ...]
    created_at: datetime
    updated_at: datetime
    audit: tuple[AuditEntry, ...]
