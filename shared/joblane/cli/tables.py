"""Tables of a terminal, from the descriptions of :mod:`joblane.inspector.listing`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from joblane.cli.terminal import WIDE, clean, milliseconds, relative, short, word
from joblane.inspector.durations import stamp
from joblane.inspector.listing import LISTINGS, Column, Kind
from joblane.inspector.sentences.trouble import need_line, trouble_line
from joblane.inspector.views.stage import Overview, messages

if TYPE_CHECKING:
    from joblane.inspector.views import TickView, Trouble

BETWEEN = 2
"""Blanks after each column."""
BLOCKS = " ▁▂▃▄▅▆▇█"
NO_TITLES: Mapping[str, str] = MappingProxyType({})
SPARKS = 12
"""Width of a sparkline: with it the table of the queues fits into a terminal of 100 columns."""
TICKS = {"completed": ("✓", "green"), "archived": ("✗", "red"), "cancelled": ("–", "dim"), None: ("×", "bold red")}
"""State of a tick → its mark, if it has its own."""


def trouble(found: Trouble, most: int | None = None) -> list[Text]:
    """The line that says whether all is well, and the things that need an operator. ``most``: that are listed, without
    what to do; None: all, with it."""
    styles = {"good": "green", "bad": "bold red"}
    lines = [Text(clean(trouble_line(found)), styles.get(found.grade, "yellow"))]
    for need in found.needs[:most]:
        lines.append(Text("  ").append(word(need.grade)).append(f" {clean(need_line(need))}"))
        lines += [] if most is not None or not need.do else [Text(f"    {clean(need.do)}", "dim")]
    return lines


def listed(
    rows: Sequence[Any],
    width: int,
    *,
    of: type | None = None,
    without: Collection[str] = (),
    drop: Sequence[str] = (),
    titles: Mapping[str, str] = NO_TITLES,
) -> Table:
    """The table of rows, with as many columns as fit into the width.

    ``of``: the class of rows that it describes, None: the class of the first row. ``without``: titles that are left
    out. ``drop``: titles that a narrow terminal leaves out before all others. ``titles``: title → a shorter or
    nearer one.
    """
    if not rows:
        return Table(box=None)
    listing, now = LISTINGS[of or type(rows[0])], datetime.now(UTC)
    columns: dict[str, tuple[Column, list[Text]]] = {}
    needs: dict[str, int] = {}
    for column in listing.columns:
        values = [column.of(row) for row in rows]
        if column.title in without or column.page_only or (column.optional and not any(values)):
            continue
        kind = Kind.MOMENT if column.kind is Kind.STAMP and column.fold and width < WIDE else column.kind
        kinds = [Kind.QUIET if kind is Kind.ALARM and not column.is_red(row, now) else kind for row in rows]
        cells = [
            cell(of, "" if value is None and column.optional else value, now)
            for of, value in zip(kinds, values, strict=True)
        ]
        for row, shown in zip(rows, cells, strict=True):
            shown.stylize("yellow" if column.warns and column.warns(row) else "")
        longest = max(cell_len(titles.get(column.title, column.title)), *(each.cell_len for each in cells))
        columns[column.title] = column, cells
        needs[column.title] = BETWEEN + (longest if column.fold is None else min(longest, column.fold))
    for title in (*drop, *listing.left_out):
        if sum(needs.values()) - BETWEEN > width and title in columns:
            del columns[title], needs[title]
    made = Table(box=None, pad_edge=False, padding=(0, BETWEEN, 0, 0), header_style="bold")
    fits = sum(needs.values()) - BETWEEN <= width
    for column, cells in columns.values():
        longest = max(each.cell_len for each in cells)
        made.add_column(
            titles.get(column.title, column.title).upper(),
            no_wrap=column.fold is None or (fits and longest <= column.fold),
            overflow="ellipsis" if column.fold is None else "fold",
            justify="right" if column.kind.is_right else "left",
        )
    for row in zip(*(cells for _, cells in columns.values()), strict=True):
        made.add_row(*row)
    return made


def queues(overview: Overview, width: int) -> Table:
    """A row for each queue, with the messages at the front doors if there are any."""
    has_messages = any(messages(queue.front_door) for queue in overview.queues)
    return listed(overview.queues, width, without=() if has_messages else ("Front door",))


def cell(kind: Kind, value: Any, now: datetime) -> Text:
    """The cell of a value. None is a dash."""
    if value is None:
        return word("–", "dim")
    shown = value if isinstance(value, str) or kind not in CELLS else CELLS[kind](value, now)
    found = shown if isinstance(shown, Text) else word(shown, STYLES.get(kind, ""))
    if kind is Kind.LINE:
        found.no_wrap, found.overflow = True, "ellipsis"
    return found


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as blocks, summed up to fit the width. The tallest block is the largest sum; zero is a blank."""
    each = max(1, -(-len(values) // width))
    sums = [sum(values[at : at + each]) for at in range(0, len(values), each)]
    most = max(sums, default=0)
    return "".join(BLOCKS[0 if not value else max(1, round(value / most * (len(BLOCKS) - 1)))] for value in sums)


def dollars(value: float) -> str:
    """An estimate in dollars, with at least two significant digits."""
    digits = 2 if value >= 1 or value <= 0 else 1 - math.floor(math.log10(value))
    return f"~${value:,.{digits}f}"


def _quiet(number: int, style: str = "") -> Text:
    return word(f"{number:,}", style) if number else word("·", "dim")


def _ticks(ticks: Sequence[TickView]) -> Text:
    """A mark for each of the last ticks, newest first."""
    text = Text()
    for tick in ticks[:10]:
        text.append(*TICKS.get(tick.state, ("…", "blue")))
    return text


CELLS: Mapping[Kind, Callable[[Any, datetime], str | Text]] = {
    Kind.NUMBER: lambda value, _: f"{value:,}",
    Kind.QUIET: lambda value, _: _quiet(value),
    Kind.ALARM: lambda value, _: _quiet(value, "red"),
    Kind.AGE: lambda value, now: short((now - value).total_seconds()),
    Kind.MOMENT: relative,
    Kind.STAMP: lambda value, _: stamp(value),
    Kind.SECONDS: lambda value, _: short(value),
    Kind.MILLISECONDS: lambda value, _: milliseconds(value),
    Kind.MEGABYTES: lambda value, _: f"{value:,} MB",
    Kind.DOLLARS: lambda value, _: dollars(value),
    Kind.SPARKS: lambda value, _: sparkline(value, SPARKS),
    Kind.TICKS: lambda value, _: _ticks(value),
}
"""Kind of a column → the cell of a value that is no text."""
STYLES = {Kind.NAME: "bold", Kind.PROBLEM: "red"}
