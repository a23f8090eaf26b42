"""The details of a task in `joblane watch`."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import ClassVar

from rich.console import Console
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from joblane.cli import task_tables
from joblane.inspector.views import TaskView


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
