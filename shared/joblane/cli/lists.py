"""Lists of the inspector as tables on the terminal. A command that prints none does not import what draws them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from joblane.cli import terminal


def show(rows: Sequence[Any], *, without: Collection[str] = ()) -> None:
    """Print rows as a table. ``without``: titles of columns that are left out."""
    from joblane.cli.tables import listed

    to = terminal.console()
    to.print(listed(rows, to.width, without=without))
