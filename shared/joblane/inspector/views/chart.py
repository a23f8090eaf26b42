"""A chart over time whose series, groups and percentile an operator picks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from joblane.inspector.filter import Group, Measure


@dataclass(frozen=True, slots=True)
class Line:
    """A group of runs. ``key``: the type, queue or tenant; empty for all runs, and for runs without a tenant.

    ``values``: of the periods, oldest first; None: no run in it. ``whole``: of the whole time.

    Shares are percentages, times milliseconds, and costs estimated US dollars.
    """

    key: str
    whole: float | None
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """``lines``: the groups with the largest values of the whole time, largest first; for times, the groups with the
    longest mean. ``others``: the other groups as one; None if there are none, and for times. ``before``: all runs of
    the time before; None if it is not requested or not kept.

    ``start``: of the first period. ``until``: the end of the last one, up to which the sweep has counted; None: it has
    counted nothing. ``groups``: the number of all groups.
    """

    of: Measure
    by: Group
    percentile: str
    start: datetime
    until: datetime | None
    step_seconds: int
    before_seconds: int
    groups: int
    lines: tuple[Line, ...]
    others: Line | None
    before: Line | None
