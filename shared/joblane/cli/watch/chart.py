"""A chart of runs per minute, from block characters."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from joblane.cli.queue_tables import BLOCKS
from joblane.cli.terminal import word

AXIS = 7
"""Columns for the numbers at the left."""
WIDEST_BAR = 3


def chart(started: Sequence[int], failed: Sequence[int], width: int, height: int = 4) -> Group:
    """Bars of runs per minute, ``height`` lines high, and a red line of failed runs on the same scale below them.

    ``started``, ``failed``: numbers by minute, oldest first. If there are more minutes than columns, a bar is the
    largest minute of several. Both are on one scale, whose largest number is at the left.
    """
    room = max(1, width - AXIS)
    each = max(1, -(-len(started) // room))
    bars, bad = _peaks(started, each), _peaks(failed, each)
    wide = min(WIDEST_BAR, max(1, room // max(1, len(bars))))
    most = max((*bars, *bad, 1))
    title = f"RUNS PER MINUTE  {sum(started):,} in {len(started)} minutes, "
    head = word(title, "bold").append(f"{sum(failed):,} failed", "red" if any(failed) else "dim")
    lines = [head]
    for level in range(height - 1, -1, -1):
        axis = f"{most:>{AXIS - 2},}┤ " if level == height - 1 else f"{'':>{AXIS - 2}}│ "
        lines.append(
            Text(axis, "dim").append("".join(_part(value, most, height, level) * wide for value in bars), "blue")
        )
    lines.append(Text("failed ", "dim").append("".join(_part(value, most, 1, 0) * wide for value in bad), "red"))
    first, last = f"{len(started)} minutes ago", "now"
    blanks = max(1, len(bars) * wide - len(first) - len(last))
    return Group(*lines, Text(f"{'':>{AXIS}}{first}{' ' * blanks}{last}", "dim"))


def _peaks(values: Sequence[int], each: int) -> list[int]:
    return [max(values[at : at + each]) for at in range(0, len(values), each)]


def _part(value: int, most: int, height: int, level: int) -> str:
    """The block of a bar in one line, of which the lowest is level 0. A bar above 0 is always visible."""
    full = len(BLOCKS) - 1
    eighths = max(1, round(value / most * height * full)) if value else 0
    return BLOCKS[min(full, max(0, eighths - level * full))]
