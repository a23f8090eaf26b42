"""The live view: a frame of queues, running tasks and newest failures, drawn again every few seconds."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live

from joblane.cli.durations import milliseconds, relative
from joblane.cli.exits import Exit, exit_of
from joblane.cli.queue_tables import pause_lines, queue_table, sparkline, unknown_lines
from joblane.cli.task_tables import folded, tries, trouble
from joblane.cli.terminal import WIDE, line, row, table, word
from joblane.inspector.durations import stamp
from joblane.inspector.filter import Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import Overview, TaskRow
from joblane.record.states import State

ACTIVE_SHOWN, FAILED_SHOWN = 8, 8
MOST_SPARKS, BESIDE_SPARKS = 30, 38
"""Columns of a sparkline, and of what stands beside the two of a line."""
ENDS_IT = ("q", "Q", "\x03", "\x1b")
KeyWaiter = Callable[[float], bool]


@dataclass(frozen=True)
class Look:
    """What one look found."""

    at: datetime
    overview: Overview
    active: tuple[TaskRow, ...]
    failed: tuple[TaskRow, ...]


def look(inspector: Inspector, minutes: int) -> Look:
    """Three questions."""
    overview = inspector.overview(minutes=minutes)
    active = inspector.tasks(Filter(states=(State.ACTIVE,)), limit=ACTIVE_SHOWN)
    failed = inspector.tasks(Filter(states=(State.RETRY, State.ARCHIVED)), limit=FAILED_SHOWN)
    return Look(datetime.now(UTC), overview, active.tasks, failed.tasks)


def frame(seen: Look, width: int, trouble_with: str | None) -> RenderableType:
    """``trouble_with``: why the last look failed; what is shown is then of the one before."""
    parts: list[RenderableType] = [_head(seen, trouble_with), word("")]
    parts += [queue_table(seen.overview, width, sparks=0), *map(word, pause_lines(seen.overview)), word("")]
    parts += [_throughput(seen.overview, min(MOST_SPARKS, (width - BESIDE_SPARKS) // 2))]
    if seen.active:
        parts += [word(""), word("Running", "bold"), _tasks(seen.active, seen.at, width, errors=False)]
    if seen.failed:
        parts += [word(""), word("Newest that failed", "bold"), _tasks(seen.failed, seen.at, width, errors=True)]
    return Group(*parts)


def _head(seen: Look, trouble_with: str | None) -> RenderableType:
    if trouble_with:
        return word(f"As of {seen.at:%H:%M:%S}Z: {trouble_with}", "red")
    return word(f"{stamp(seen.at)}   {seen.overview.archived:,} given up are kept", "dim")


def _throughput(overview: Overview, sparks: int) -> RenderableType:
    """How many began and failed, a line for each queue that did anything."""
    made = table("PER MINUTE", "BEGAN", "", "FAILED", "", "WAIT", right=("WAIT",))
    for one in overview.queues:
        minutes = one.minutes
        waits = [minute.wait_ms for minute in minutes if minute.wait_ms is not None]
        began, failed = sum(m.started for m in minutes), sum(m.failed for m in minutes)
        cells = (sparkline([m.started for m in minutes], sparks), f"{began:,}")
        bad = (word(sparkline([m.failed for m in minutes], sparks), "red"), f"{failed:,}")
        row(made, one.queue, *cells, *bad, milliseconds(waits[-1]) if waits else None)
    return made


def _tasks(rows: tuple[TaskRow, ...], now: datetime, width: int, *, errors: bool) -> RenderableType:
    wide = width >= WIDE
    more = ("TENANT",) if wide and any(one.tenant for one in rows) else ()
    last = ("ERROR",) if wide and errors else ()
    titles = ("ID", "TYPE", "STATE", "TRY", *more, "WHEN")
    lines = []
    for one in rows:
        extra = (one.tenant or "",) if more else ()
        lines.append(
            (one.id, one.type, one.state, tries(one), *extra, relative(one.finished_at or one.created_at, now))
        )
    made = table(*titles, *last, fold=(*folded(titles, lines, width), *last))
    for one, cells in zip(rows, lines, strict=True):
        row(made, *cells, *((line(trouble(one)),) if last else ()))
    return made


# --- The terminal ----------------------------------------------------------------------------------------------------


def run(inspector: Inspector, console: Console, every: float, minutes: int) -> None:
    """Draw until a key ends it. What stops answering is told in the frame, and asked again."""
    seen = look(inspector, minutes)
    problem: str | None = None
    with _keys() as key, Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            below = [*map(word, unknown_lines(seen.overview)), word("q ends", "dim")]
            live.update(Group(frame(seen, console.width, problem), word(""), *below), refresh=True)
            if key(every):
                return
            try:
                seen, problem = look(inspector, minutes), None
            except Exception as error:  # a view that looks on is of use when something is broken
                if exit_of(error) is not Exit.AWAY:
                    raise
                problem = str(error)


@contextmanager
def _keys() -> Iterator[KeyWaiter]:
    """Keys as they are pressed, not shown; the terminal is as before at the end."""
    if not sys.stdin.isatty():
        yield _sleep
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSANOW)  # what was typed before is kept
    try:
        yield lambda seconds: _pressed(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _pressed(descriptor: int, seconds: float) -> bool:
    """Whether a key that ends it is pressed within so many seconds."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            pressed = os.read(descriptor, 1).decode(errors="replace")
            if pressed in ENDS_IT or not pressed:
                return True
    return False


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False
