"""Tables of the page, from the descriptions of :mod:`joblane.inspector.listing`, and their cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from joblane.inspector.durations import UNITS, lasting, stamp
from joblane.inspector.listing import LISTINGS, Column, Kind, is_new

if TYPE_CHECKING:
    from joblane.page.sorting import Sorting

EMPTY = Markup()
NOTHING = Markup('<span class="none">–</span>')
TABLE = Markup(
    '<div class="scroll"><table class="{}">\n<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody>{}\n</table></div>'
)
HEAD = Markup("<th{}{}>{}</th>")
SORT = Markup('<a href="{}" id="sort-{}">{}</a>')
ROW = Markup("<tr>{}</tr>\n")
CELL = Markup('<td{} data-label="{}">{}</td>')
SELECT = Markup(
    '<th><span class="unseen">Select</span>'
    '<input type="checkbox" class="needs-script" data-all aria-label="Select all on this page" hidden></th>'
)
ACTIONS = Markup('<th><span class="unseen">Actions</span></th>')
TIME = Markup('<time datetime="{}" title="{}">{}</time>')
STATE = Markup('<span class="state {}">{}</span>')
LONG_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
SHORT = Markup('{}<span class="mid">{}</span><span class="end">{}</span>')
CODE = Markup("<code>{}</code>")
CUT = Markup('<span class="cut" title="{}">{}</span>')
GRADES = {"bad": "failed", "warning": "new", "good": "completed"}
"""Grade → the state whose colour it has."""
CLASSES = {Kind.ID: "id", Kind.PROSE: "error-text", Kind.LINE: "error-text", Kind.PROBLEM: "error-text"}

COUNTS = (Kind.NUMBER, Kind.QUIET, Kind.ALARM)
"""Kinds whose zeros are grey, so that they do not weigh as much as the other numbers."""


def short(id_: str) -> Markup:
    """The first eight and the last four characters of a long id. Ids of the same minute have the same beginning.

    The rest is hidden in the text, so that a copy, a search in the page and a reader have the whole id.
    """
    return SHORT.format(id_[:8], id_[8:-4], id_[-4:]) if LONG_ID.fullmatch(id_) else escape(id_)


def coded(text: str) -> Markup:
    """A sentence with its backquotes as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # one of them has no partner
        return escape(text)
    return Markup("").join(CODE.format(part) if at % 2 else escape(part) for at, part in enumerate(parts))


def span(seconds: float) -> str:
    """A duration in its two largest units; below ten seconds with a decimal or in milliseconds."""
    if seconds < 1:
        return f"{round(seconds * 1000)} ms" if seconds > 0 else "0 s"
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    left = round(seconds)
    parts: list[str] = []
    for unit, size in (*UNITS, ("s", 1)):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
    return " ".join(part for part in parts[:2] if part)


def ago(at: datetime, now: datetime) -> str:
    """The distance from now, in a single unit."""
    seconds = (now - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    near = lasting(abs(now - at))
    return f"{near} ago" if seconds > 0 else f"in {near}"


def usd(value: float | None) -> str:
    """An estimated sum, with up to six decimals if it is small."""
    if value is None:
        return "–"
    return f"${value:,.2f}" if value >= 1 else f"${value:.6f}".rstrip("0").ljust(5, "0") if value else "$0"


def number(value: float | None) -> str:
    """A number with separators, or a dash."""
    return "–" if value is None else f"{value:,}"


@pass_context
def time_tag(context: Context, at: datetime | None) -> Markup:
    """A time relative to the page's ``now``, with the absolute time in a tooltip."""
    return NOTHING if at is None else _time(at, context["now"])


def _time(at: datetime, now: datetime) -> Markup:
    return TIME.format(at.isoformat(), stamp(at), ago(at, now))


def state(value: str, *, old: bool = False) -> Markup:
    """The mark of a state or grade. ``old``: bad news that is not new any more."""
    return STATE.format(GRADES.get(value, value) + (" old" if old else ""), value)


@pass_context
def red(context: Context, at: datetime | None) -> str:
    """The class of bad news: ``bad`` while it is new, else empty."""
    return "bad" if is_new(at, context["now"]) else ""


@pass_context
def table(
    context: Context,
    rows: Sequence[Any],
    cells: Mapping[str, Callable[[Any, int], Markup]] | None = None,
    *,
    without: Collection[str] = (),
    select: Callable[[Any, int], Markup] | None = None,
    actions: Callable[[Any, int], Markup] | None = None,
    foot: Markup = EMPTY,
    css: str = "cards",
    sorting: Sorting | None = None,
) -> Markup:
    """The table of rows; a dash without rows.

    ``cells``: title → the macro of its cells, which takes a row and its number from 1.

    A column with a macro is always shown. ``without``: titles that are left out. ``select``, ``actions``: macros of a
    first and a last cell. ``sorting``: the order of the rows; None: the head has no links to others.
    """
    if not rows:
        return NOTHING
    listing, now, own = LISTINGS[type(rows[0])], context["now"], cells or {}
    columns = [
        column
        for column in listing.columns
        if column.title not in without and (column.title in own or not column.optional or any(map(column.of, rows)))
    ]
    lines = []
    for at, row in enumerate(rows, 1):
        line = [select(row, at)] if select else []
        for column in columns:
            title, value = column.title, column.of(row)
            shown = own[title](row, at) if title in own else cell(column.kind, value, now)
            is_zero = column.kind in COUNTS and value == 0
            own_css = _class(column.kind, is_red=column.is_red(row, now), is_zero=is_zero, is_main=column is columns[0])
            line.append(CELL.format(own_css, title, shown))
        line += [actions(row, at)] if actions else []
        lines.append(ROW.format(Markup("").join(line)))
    head = [_head(column, sorting) for column in columns]
    heads = [*([SELECT] if select else []), *head, *([ACTIONS] if actions else [])]
    css = f"{css} sortable" if sorting else css
    return TABLE.format(css, Markup("").join(heads), Markup("").join(lines), foot)


def _head(column: Column, sorting: Sorting | None) -> Markup:
    link = sorting.link(column) if sorting else None
    css = _attribute("n" if column.kind.is_right else "")
    if link is None:
        return HEAD.format(css, "", column.title)
    address, now = link
    own = EMPTY if now == "none" else Markup(' aria-sort="{}"').format(now)
    return HEAD.format(css, own, SORT.format(address, column.name, column.title))


def cell(kind: Kind, value: Any, now: datetime) -> str:
    """The HTML of a value. None and an empty text are a dash."""
    if value is None or value == "":
        return NOTHING
    if kind in (Kind.STATE, Kind.LINE):
        return state(value) if kind is Kind.STATE else CUT.format(value, value)
    if kind is Kind.PROSE and isinstance(value, str):
        return coded(value)
    return escape(value if isinstance(value, str) or kind not in CELLS else CELLS[kind](value, now))


def _class(kind: Kind, *, is_red: bool, is_zero: bool, is_main: bool) -> Markup:
    of_number = "n bad" if is_red else "n zero" if is_zero else "n" if kind.is_right else ""
    return _attribute(of_number or ("main" if is_main else CLASSES.get(kind, "")))


def _attribute(css: str) -> Markup:
    return Markup(' class="{}"').format(css) if css else Markup("")


CELLS: Mapping[Kind, Callable[[Any, datetime], str]] = {
    Kind.NUMBER: lambda value, _: number(value),
    Kind.QUIET: lambda value, _: number(value),
    Kind.ALARM: lambda value, _: number(value),
    Kind.AGE: _time,
    Kind.MOMENT: _time,
    Kind.STAMP: _time,
    Kind.SECONDS: lambda value, _: span(value),
    Kind.MILLISECONDS: lambda value, _: span(value / 1000),
    Kind.MEGABYTES: lambda value, _: f"{value:,} MB",
    Kind.DOLLARS: lambda value, _: usd(value),
}
"""Kind of a column → the text of a value that is no text."""
