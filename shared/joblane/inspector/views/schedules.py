"""Schedules that are made at run time: rows, in contrast to the schedules that the code declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joblane.inspector.views.actions import AuditEntry
from joblane.inspector.views.stage import Count
from joblane.inspector.views.tasks import Relative


@dataclass(frozen=True, slots=True)
class RunTimeScheduleRow:
    """A line of the listing. ``text``: five fields of cron. ``missed``: the policy for missed ticks, ``latest`` or
    ``skip``.

    ``next_at``: time of the next tick; None: it is paused. ``last_at``, ``last``: the last tick that got a task, up to
    15 minutes ahead, and this task; None: none yet. ``problem``: why the last tick got no task; None: it got one.
    """

    name: str
    type: str
    tenant: str | None
    text: str
    timezone: str
    missed: str
    paused_at: datetime | None
    next_at: datetime | None
    last_at: datetime | None
    last: Relative | None
    problem: str | None

    @property
    def id_prefix(self) -> str:
        """The beginning of the ids of its tasks."""
        return f"@{self.name}:"


@dataclass(frozen=True, slots=True)
class RunTimeSchedulePage:
    """A page of schedules in the order of their names. ``after``: the position from which the next page begins; None on
    the last page. ``count``: all schedules that match.

    ``searched_to``: the page ended before it was full, because 20,000 schedules were searched; the name of the last of
    them. None: the page is full, or the last one.
    """

    schedules: tuple[RunTimeScheduleRow, ...]
    count: Count
    after: str | None
    searched_to: str | None = None


@dataclass(frozen=True, slots=True)
class RunTimeScheduleView:
    """All details of one schedule.

    ``payload``: of each tick, with redacted fields masked. ``options``: of each tick's task, with masked headers.
    ``next``: the times of the next ticks; of a paused schedule, as they would be without the pause. ``audit``: actions
    of operators on it, newest first.
    """

    row: RunTimeScheduleRow
    payload: Any
    options: Mapping[str, Any]
    next: tuple[datetime, ...]
    created_at: datetime
    updated_at: datetime
    audit: tuple[AuditEntry, ...]
