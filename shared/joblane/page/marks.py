"""Marks of deploys, pauses, limits and bulk actions, on charts and as a list."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from joblane.inspector.durations import stamp
from joblane.inspector.views import Mark
from joblane.page import chart
from joblane.page.rendering import query

MOST_LISTED = 50


def drawn(marks: Sequence[Mark], chosen: dict[str, str]) -> list[chart.Mark]:
    """The marks for a chart. ``chosen``: the filter of its tasks, to which a deploy leads."""
    return [chart.Mark(mark.at, mark.kind, address(mark, chosen), text(mark)) for mark in marks]


def shares(marks: Sequence[Mark], until: datetime, minutes: int) -> list[tuple[float, str]]:
    """The marks for a small chart of the minutes up to that of ``until``."""
    start = until.replace(second=0, microsecond=0) - timedelta(minutes=minutes - 1)
    found = [((mark.at - start) / timedelta(minutes=minutes), text(mark)) for mark in marks]
    return [(share, line) for share, line in found if 0 <= share <= 1]


def address(mark: Mark, chosen: dict[str, str]) -> str:
    """The page of a bulk action, the entries of the audit, or the tasks that have ended since a deploy."""
    if mark.bulk is not None:
        return f"/bulk/show?{query(id=mark.bulk)}"
    if mark.target is not None:
        return f"/audit?{query(target=mark.target)}"
    return f"/tasks?{query(chosen, ended_newer=mark.at.isoformat())}"


def text(mark: Mark) -> str:
    by, reason = f" by {mark.who}" if mark.who else "", f": {mark.reason}" if mark.reason else ""
    return f"{mark.text}{by} at {stamp(mark.at)}{reason}"
