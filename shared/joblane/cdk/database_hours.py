"""The hours of a month in which the schedules of a stage keep a database awake that pauses without connections.

Each run keeps it awake until the pause after the sweep that the run wakes. Runs at about the same time share one wake.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import takewhile
from typing import Any

from joblane.enqueue.wake import GRID_SECONDS, LEAD_SECONDS
from joblane.names import SWEEP
from joblane.settings import SHORT_MINUTES
from joblane.tasks.schedule import Schedule
from joblane.tasks.task import Task

MONTH = timedelta(days=30)
START = datetime(2026, 11, 1, tzinfo=UTC)
"""A Sunday: the month then has five weekly ticks, the largest number."""
UNTIL_IDLE = timedelta(minutes=5)
"""Time from a tick until the database is without a connection: it starts, the task runs, the sweep follows within five
minutes, and the server ends idle sessions."""
Tasks = Mapping[str, Task[Any, Any]]


@dataclass(frozen=True, slots=True)
class Awake:
    """The wakes of a month: their number, and their ``time`` together.

    ``types``: the type of each periodic task → the time for which it alone would keep the database awake, longest
    first.
    """

    wakes: int
    time: timedelta
    types: Mapping[str, timedelta]

    @property
    def hours(self) -> float:
        return self.time / timedelta(hours=1)

    @property
    def is_always(self) -> bool:
        """True if the database never pauses."""
        return self.time >= MONTH


def sentences(found: Awake, dollars: float) -> tuple[str, str]:
    """Return what keeps a database awake and what that costs, and what to do about it. ``dollars``: of a month."""
    by_type = ", ".join(f"{type_} ({time / timedelta(hours=1):,.1f})" for type_, time in found.types.items())
    if found.is_always:
        frequent = [type_ for type_, time in found.types.items() if time >= MONTH] or [*found.types]
        do = '"sweep": "6 hours"' if SWEEP in frequent else "fewer ticks of these types in `schedules`"
        why = f"it may pause, and never does, for ${dollars:,.2f} a month: its schedules are as frequent as its pause"
        return f"{why}; hours a month of each type alone: {by_type}", f"set {do}, or a min_capacity above 0"
    why = (
        f"it may pause; schedules wake it {found.wakes} times a month and keep it awake for {found.hours:,.0f} of "
        f"{MONTH / timedelta(hours=1):,.0f} hours, for ${dollars:,.2f}; hours of each type alone: {by_type}"
    )
    if len(found.types) == 1:
        return why, "no change is needed; jobs and requests wake it in addition"
    return why, "types that run at the same time share a wake: give them common times in `schedules`"


def awake(tasks: Tasks, pause: timedelta) -> Awake:
    """Return when the schedules of ``tasks`` keep a database awake that pauses after ``pause`` without a connection."""
    stays = UNTIL_IDLE + pause
    wakes, time = _merged((moment for task in tasks.values() for moment in moments(task)), stays)
    alone = {type_: _merged(moments(task), stays)[1] for type_, task in tasks.items() if task.schedules}
    return Awake(wakes, time, dict(sorted(alone.items(), key=lambda item: (-item[1], item[0]))))


def moments(task: Task[Any, Any]) -> Iterator[datetime]:
    """Yield the ticks of all schedules of ``task`` in the month from :data:`START`."""
    for schedule in task.schedules:
        yield from times(schedule)


@cache
def times(schedule: Schedule) -> tuple[datetime, ...]:
    """Return the ticks of ``schedule`` in the month from :data:`START`: 43,200 if it fires each minute."""
    end = START + MONTH
    return tuple(takewhile(lambda moment: moment < end, schedule.after(START - timedelta(seconds=1))))


def sweeps(tasks: Tasks) -> set[datetime]:
    """Return the times of all sweeps of the month: by the schedule, and those that other ticks wake."""
    if SWEEP not in tasks:
        return set()
    own = set(moments(tasks[SWEEP]))
    if not own or MONTH / len(own) <= timedelta(minutes=SHORT_MINUTES):
        return own
    return own | {_swept(moment) for type_, task in tasks.items() if type_ != SWEEP for moment in moments(task)}


def _swept(moment: datetime) -> datetime:
    """Return the time of the sweep that a run at ``moment`` wakes."""
    ends = math.ceil((moment.timestamp() + LEAD_SECONDS) / GRID_SECONDS) * GRID_SECONDS
    return datetime.fromtimestamp(ends, UTC)


def _merged(ticks: Iterable[datetime], stays: timedelta) -> tuple[int, timedelta]:
    """Return the number of wakes, and the time that they take together."""
    wakes, time, until, end = 0, timedelta(0), START, START + MONTH
    for moment in sorted(ticks):
        wakes += moment > until or not wakes
        ends = min(moment + stays, end)
        time += max(ends - max(moment, until), timedelta(0))
        until = max(until, ends)
    return wakes, time
