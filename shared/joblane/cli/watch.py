"""The live view: queues, running tasks and latest failures, drawn again every few seconds."""

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
from joblane.cli.task_tables import folded, last_error, tries
from joblane.cli.terminal import WIDE, counted, line, row, table, word
from joblane.inspector.durations import stamp
from joblane.inspector.filter import Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import Overview, TaskRow
from joblane.record.states import State

ACTIVE_SHOWN, FAILED_SHOWN = 8, 8
MOST_SPARKS, OTHER_COLUMNS = 30, 38
"""Width of a sparkline, and of the columns next to the two sparklines of a line."""
END_KEYS = ("q", "Q", "\x03", "\x1b")
LONGEST_SEQUENCE = 64
"""Bytes that one key or one move of the mouse's wheel sends at most."""
SEQUENCE_SECONDS = 0.05
"""A terminal sends the bytes of a key at once. After this time Escape was pressed alone."""
KeyWaiter = Callable[[float], bool]


@dataclass(frozen=True)
class Snapshot:
    """The contents of one frame."""

    at: datetime
    overview: Overview
    active: tuple[TaskRow, ...]
    failed: tuple[TaskRow, ...]


def take_snapshot(inspector: Inspector, minutes: int) -> Snapshot:
    """Query the inspector for one frame."""
    overview = inspector.overview(minutes=minutes)
    active = inspector.tasks(Filter(states=(State.ACTIVE,)), limit=ACTIVE_SHOWN)
    failed = inspector.failures(minutes=minutes, limit=FAILED_SHOWN)
    return Snapshot(datetime.now(UTC), overview, active.tasks, failed)


def frame(snapshot: Snapshot, width: int, problem: str | None) -> RenderableType:
    """A frame. ``problem``: why the latest query failed; ``snapshot`` is then the one before."""
    overview, at = snapshot.overview, snapshot.at
    parts: list[RenderableType] = [_head(snapshot, problem), word("")]
    parts += [queue_table(overview, width, sparks=False), *map(word, pause_lines(overview)), word("")]
    parts += [_throughput(overview, min(MOST_SPARKS, (width - OTHER_COLUMNS) // 2))]
    if snapshot.active:
        parts += [word(""), word("Active", "bold"), _tasks(snapshot.active, at, width, errors=False)]
    if snapshot.failed:
        parts += [word(""), word("Latest failures", "bold"), _tasks(snapshot.failed, at, width, errors=True)]
    return Group(*parts)


def _head(snapshot: Snapshot, problem: str | None) -> RenderableType:
    if problem:
        return word(f"As of {snapshot.at:%H:%M:%S}Z: {problem}", "red")
    return word(f"{stamp(snapshot.at)}   {counted(snapshot.overview.archived, 'archived task')}", "dim")


def _throughput(overview: Overview, sparks: int) -> RenderableType:
    """Runs that started and failed per minute, a line for each queue."""
    made = table("PER MINUTE", "STARTED", "", "FAILED", "", "WAIT", right=("WAIT",))
    for queue in overview.queues:
        started, failed = ([getattr(m, name) for m in queue.minutes] for name in ("started", "failed"))
        waits = [minute.wait_ms for minute in queue.minutes if minute.wait_ms is not None]
        cells = (sparkline(started, sparks), f"{sum(started):,}")
        bad = (word(sparkline(failed, sparks), "red"), f"{sum(failed):,}")
        row(made, queue.queue, *cells, *bad, milliseconds(waits[-1]) if waits else None)
    return made


def _tasks(rows: tuple[TaskRow, ...], now: datetime, width: int, *, errors: bool) -> RenderableType:
    wide = width >= WIDE
    more = ("TENANT",) if wide and any(task_row.tenant for task_row in rows) else ()
    last = ("ERROR",) if wide and errors else ()
    titles = ("ID", "TYPE", "STATE", "TRY", *more, "WHEN")
    lines = []
    for task_row in rows:
        extra = (task_row.tenant or "",) if more else ()
        lines.append(
            (
                task_row.id,
                task_row.type,
                task_row.state,
                tries(task_row),
                *extra,
                relative(task_row.finished_at or task_row.created_at, now),
            )
        )
    made = table(*titles, *last, fold=(*folded(titles, lines, width), *last))
    for task_row, cells in zip(rows, lines, strict=True):
        row(made, *cells, *((line(last_error(task_row)),) if last else ()))
    return made


# --- The terminal ----------------------------------------------------------------------------------------------------


def run(inspector: Inspector, console: Console, every: float, minutes: int) -> None:
    """Draw frames until a key ends it. If a query fails, the frame shows the problem, and the query is repeated."""
    snapshot = take_snapshot(inspector, minutes)
    problem: str | None = None
    with _keys() as key, Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            below = [*map(word, unknown_lines(snapshot.overview)), word("q: quit", "dim")]
            live.update(Group(frame(snapshot, console.width, problem), word(""), *below), refresh=True)
            if key(every):
                return
            try:
                snapshot, problem = take_snapshot(inspector, minutes), None
            except Exception as error:  # the view must keep working during an outage
                if exit_of(error) is not Exit.UNAVAILABLE:
                    raise
                problem = str(error)


@contextmanager
def _keys() -> Iterator[KeyWaiter]:
    """Read single keys without showing them; restore the terminal at the end."""
    if not sys.stdin.isatty():
        yield _sleep
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSANOW)  # keep earlier input
    try:
        yield lambda seconds: _pressed(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _pressed(descriptor: int, seconds: float) -> bool:
    """True if a key that ends the view is pressed within ``seconds``."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            pressed = os.read(descriptor, 1)
            if pressed == b"\x1b" and select.select([descriptor], [], [], SEQUENCE_SECONDS)[0]:
                os.read(descriptor, LONGEST_SEQUENCE)  # the rest of an arrow or function key
                continue
            if not pressed or pressed.decode(errors="replace") in END_KEYS:
                return True
    return False


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False
