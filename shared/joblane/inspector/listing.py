"""The description of a list: its title, its sentence without rows, and its columns.

The command line, `joblane watch` and the page draw their tables from it. Each row class of
:mod:`joblane.inspector.views` has its description next to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Any


class Kind(StrEnum):
    """The kind of a column's values, which decides how each surface shows them. None is shown as a dash."""

    TEXT = "text"
    PROSE = "prose"
    """A text of some length."""
    LINE = "line"
    """A text of a single line, which is cut if the other columns leave no room."""
    NAME = "name"
    """The name of the row's thing."""
    ID = "id"
    STATE = "state"
    NUMBER = "number"
    """A number, or words about one."""
    QUIET = "quiet"
    """A number that matters only if it is not 0."""
    ALARM = "alarm"
    """A number that is bad news if it is not 0."""
    AGE = "age"
    """A time in the past, as its distance from now."""
    MOMENT = "moment"
    """A time relative to now, or words instead of one."""
    STAMP = "stamp"
    """A time that is read to the second."""
    SECONDS = "seconds"
    MILLISECONDS = "milliseconds"
    MEGABYTES = "megabytes"
    DOLLARS = "dollars"
    """An estimate in dollars."""
    SPARKS = "sparks"
    """Numbers over time, oldest first."""
    TICKS = "ticks"
    """The last ticks of a schedule, newest first."""
    PROBLEM = "problem"
    """A text that is bad news."""

    @property
    def is_right(self) -> bool:
        """True if the values are aligned at the right."""
        return self in RIGHT


RIGHT = {
    Kind.NUMBER, Kind.QUIET, Kind.ALARM, Kind.AGE, Kind.SECONDS, Kind.MILLISECONDS, Kind.MEGABYTES, Kind.DOLLARS,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """A column. ``value``: an attribute of the row, dotted if need be, or a function of the row.

    ``optional``: left out if no row has a value. ``fold``: it may be broken into lines; the most columns of a terminal
    that are kept free for it. None: it is not broken. A stamp with ``fold`` is relative to now on a terminal of fewer
    than 100 columns. ``page_only``: a terminal has no room for it. ``warns``: true for a row whose value needs a look.
    """

    title: str
    value: str | Callable[[Any], Any]
    kind: Kind = Kind.TEXT
    optional: bool = False
    fold: int | None = None
    page_only: bool = False
    warns: Callable[[Any], object] | None = None

    def of(self, row: Any) -> Any:
        """Return the value of a row."""
        return attrgetter(self.value)(row) if isinstance(self.value, str) else self.value(row)


@dataclass(frozen=True, slots=True)
class Listing:
    """A list. ``empty``: the sentence without rows.

    ``left_out``: the titles of columns in the order in which a narrow terminal leaves them out.
    """

    title: str
    empty: str
    columns: tuple[Column, ...]
    left_out: tuple[str, ...] = ()


LISTINGS: dict[type, Listing] = {}
"""Class of a row → the description of its list."""
SHOWN_IN_THEIR_OWN_WAY = frozenset(
    {
        "audit", "batch", "batches", "batching", "bulk_view", "bulks", "chart", "count", "dead", "doctor", "errors",
        "failures", "find", "graph", "limits", "line", "logs", "marks", "now", "overview", "pauses", "performance",
        "schedule", "schedules", "statistics", "task", "tasks", "tenants", "trouble", "type_logs", "types", "waits",
        "why_slow",
    }
)  # fmt: skip
"""Operations with a command, a list or a page that is written by hand: :mod:`joblane.inspector.queries` has others."""
