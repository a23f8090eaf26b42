"""The description of a list: its title, its sentence without rows, and its columns.

The command line, `joblane watch` and the page draw their tables from it. Each row class of
:mod:`joblane.inspector.views` has its description next to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from operator import attrgetter
from typing import Any, TypeVar

from joblane.inspector.errors import SelectionError

Row = TypeVar("Row")


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
    """A number that is bad news if it is not 0. It is red while the news is new: see :data:`NEW_FOR`."""
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

NEW_FOR = timedelta(hours=1)
"""Bad news is red for this time, everywhere. Later it is shown like any other number."""
UNSORTED = {Kind.PROSE, Kind.SPARKS, Kind.TICKS}


@dataclass(frozen=True, slots=True)
class Column:
    """A column. ``value``: an attribute of the row, dotted if need be, or a function of the row.

    ``optional``: left out if no row has a value. ``fold``: it may be broken into lines; the most columns of a terminal
    that are kept free for it. None: it is not broken. A stamp with ``fold`` is relative to now on a terminal of fewer
    than 100 columns. ``page_only``: a terminal has no room for it. ``warns``: true for a row whose value needs a look.

    ``since``: of an alarm, the time of the latest bad news of a row; None of a row: not known, and not new. Without it,
    the number counts the last hour.

    ``order``: the value by which rows are sorted, if it is not ``value``; None of a row is last in either direction.
    """

    title: str
    value: str | Callable[[Any], Any]
    kind: Kind = Kind.TEXT
    optional: bool = False
    fold: int | None = None
    page_only: bool = False
    warns: Callable[[Any], object] | None = None
    order: str | Callable[[Any], Any] | None = None
    since: str | Callable[[Any], Any] | None = None

    def is_red(self, row: Any, now: datetime) -> bool:
        """True for bad news that is new."""
        if self.kind is not Kind.ALARM or not self.of(row):
            return False
        return self.since is None or is_new(_read(self.since, row), now)

    @property
    def name(self) -> str:
        """The column in an address: ``Runs 1h`` → ``runs-1h``."""
        return self.title.lower().replace(" ", "-")

    @property
    def is_largest_first(self) -> bool:
        """True if the largest value is the first one, unless the reader wants the reverse."""
        return self.kind.is_right or self.kind is Kind.STAMP

    def of(self, row: Any) -> Any:
        """Return the value of a row."""
        return _read(self.value, row)

    def key_of(self, row: Any) -> Any:
        """Return the value by which a row is sorted; None: it is last."""
        found = _read(self.order or self.value, row)
        return None if found == "" else found


def is_new(at: datetime | None, now: datetime) -> bool:
    """True for bad news that is red. ``at`` None: its time is not known."""
    return at is not None and now - at <= NEW_FOR


def _read(value: str | Callable[[Any], Any], row: Any) -> Any:
    return attrgetter(value)(row) if isinstance(value, str) else value(row)


@dataclass(frozen=True, slots=True)
class Order:
    """An order in which an operation returns its rows. ``sort``: the value of its argument."""

    sort: str
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Listing:
    """A list. ``empty``: the sentence without rows.

    ``left_out``: the titles of columns in the order in which a narrow terminal leaves them out.

    ``whole`` True: the answer has all rows, so that a surface can sort them by any column. ``orders``: of a list that
    comes in pages, or has only its first rows: title → the order that the operation knows. ``parts`` True: a surface
    can sort the rows that it has by any other column, if it says so.
    """

    title: str
    empty: str
    columns: tuple[Column, ...]
    left_out: tuple[str, ...] = ()
    whole: bool = False
    orders: Mapping[str, Order] = field(default_factory=dict)
    parts: bool = False

    @property
    def sortable(self) -> Mapping[str, Column]:
        """The columns by which the rows can be sorted, by the value of ``sort`` in an address."""
        known = {self.orders[column.title].sort: column for column in self.columns if column.title in self.orders}
        others = [column for column in self.columns if column.title not in self.orders and column.kind not in UNSORTED]
        return known | {column.name: column for column in others if self.whole or self.parts}

    def sorting(self, name: str) -> Column:
        """Return the column of a value of ``sort``. Raises :class:`SelectionError`."""
        if name not in self.sortable:
            raise SelectionError("sort", f"{', '.join(self.sortable)} are valid")
        return self.sortable[name]

    def sorted(self, rows: Iterable[Row], name: str, *, descending: bool) -> tuple[Row, ...]:
        """Return all rows in the order of a column. Raises :class:`SelectionError`."""
        column, every = self.sorting(name), list(rows)
        with_value = [row for row in every if column.key_of(row) is not None]
        without = [row for row in every if column.key_of(row) is None]
        return (*sorted(with_value, key=column.key_of, reverse=descending), *without)


LISTINGS: dict[type, Listing] = {}
"""Class of a row → the description of its list."""
SHOWN_IN_THEIR_OWN_WAY = frozenset(
    {
        "audit", "batch", "batches", "batching", "bulk_view", "bulks", "chart", "count", "dead", "doctor", "errors",
        "failures", "find", "graph", "limits", "line", "logs", "marks", "now", "overview", "pauses", "performance",
        "preview", "schedule", "schedules", "statistics", "task", "tasks", "tenant", "tenants", "trouble",
        "type_logs", "types", "waits", "why_slow",
    }
)  # fmt: skip
"""Operations with a command, a list or a page that is written by hand: :mod:`joblane.inspector.queries` has others."""
