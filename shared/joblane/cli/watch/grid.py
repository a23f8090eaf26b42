"""A list with a cursor, filled from a table, and the details of a task."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import ClassVar

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import DataTable

from joblane.cli import task_tables
from joblane.cli.tables import BETWEEN
from joblane.cli.terminal import word
from joblane.cli.watch.lists import Listing, RowTarget
from joblane.inspector.views import TaskView

NARROWEST = 8
"""Columns that a cell keeps if it is cut."""


class Grid(DataTable[Text]):
    """Rows with a cursor, which stays on its row when the rows change."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", show=False),
        Binding("k", "cursor_up", show=False),
        Binding("g,home", "scroll_top", show=False),
        Binding("G,end", "scroll_bottom", show=False),
        Binding("left,h,shift+tab", "app.turn(-1)", show=False),
        Binding("right,l,tab", "app.turn(1)", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(cursor_type="row", id="grid")
        self._shown: tuple[object, ...] = ()
        self._targets: tuple[RowTarget, ...] = ()

    @property
    def target(self) -> RowTarget | None:
        """The row at the cursor; None if there are no rows."""
        return self._targets[self.cursor_row] if 0 <= self.cursor_row < len(self._targets) else None

    def fill(self, listing: Listing | None, width: int) -> None:
        """Show a list, in this width."""
        titles, rows = _columns(listing.table, width) if listing is not None and listing.targets else ([], [])
        shown = (titles, [[(cell.plain, cell.spans, cell.style) for cell in row] for row in rows])
        targets = listing.targets if listing is not None else ()
        selected, line = self.target, self.cursor_row
        self._targets = targets
        if shown == self._shown:
            return
        self._shown = shown
        top = self.scroll_y
        with self.prevent(DataTable.RowHighlighted):
            self.clear(columns=True)
            for title, wide in titles:
                self.add_column(word(title), width=wide)
            for row in rows:
                self.add_row(*row)
            keys = [target.key for target in targets]
            line = (
                keys.index(selected.key) if selected is not None and selected.key in keys else min(line, len(rows) - 1)
            )
            self.scroll_to(y=top, animate=False)
            self.move_cursor(row=max(0, line), animate=False)


def _columns(table: Table, width: int) -> tuple[list[tuple[str, int]], list[list[Text]]]:
    """The columns, each a title and a width, and the cells.

    To fit the width, columns that may be folded are cut first.
    """
    titles = [str(column.header) for column in table.columns]
    cells = [[_text(cell, column.justify == "right") for cell in column.cells] for column in table.columns]
    widths = [
        min(width, max(map(cell_len, (title, *(cell.plain for cell in column)))))
        for title, column in zip(titles, cells, strict=True)
    ]
    elastic = [number for number, column in enumerate(table.columns) if not column.no_wrap]
    for _ in range(sum(widths) + BETWEEN * len(widths) - width):
        cut = [number for number in elastic if widths[number] > NARROWEST] or range(len(widths))
        widths[max(cut, key=widths.__getitem__)] -= 1
    return list(zip(titles, widths, strict=True)), [list(row) for row in zip(*cells, strict=True)]


def _text(cell: object, right: bool) -> Text:
    text = cell.copy() if isinstance(cell, Text) else word(cell)
    text.no_wrap, text.overflow, text.justify = True, "ellipsis", "right" if right else "left"
    return text


def details(view: TaskView, width: int, command: str) -> Text:
    """The same text as that of `joblane show`. ``command``: `joblane`, with the options for this stage."""
    screen = io.StringIO()
    console = Console(
        file=screen,
        force_terminal=True,
        color_system="standard",
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        no_color=False,  # Textual removes the colours
        legacy_windows=False,
    )
    task_tables.task(console, view, datetime.now(UTC), command)
    return Text.from_ansi(screen.getvalue())


class Scrolled(VerticalScroll):
    """Details with the keys of the lists."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", show=False),
        Binding("k", "scroll_up", show=False),
        Binding("g", "scroll_home", show=False),
        Binding("G", "scroll_end", show=False),
    ]
