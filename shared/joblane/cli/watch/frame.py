"""The single frame of `joblane watch --once`, and of a pipe or a dumb terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType

from joblane.cli.durations import relative
from joblane.cli.queue_tables import pause_lines, queue_table
from joblane.cli.task_tables import folded, last_error, tries
from joblane.cli.terminal import WIDE, counted, line, row, table, word
from joblane.inspector.durations import stamp
from joblane.inspector.filter import Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import Overview, TaskRow
from joblane.record.row.states import State

ACTIVE_SHOWN, FAILED_SHOWN = 8, 8


def frame(inspector: Inspector, width: int, minutes: int) -> tuple[Overview, RenderableType]:
    """The queues, running tasks and latest failures, and the overview that the frame shows."""
    overview = inspector.overview(minutes=minutes)
    active = inspector.tasks(Filter(states=(State.ACTIVE,)), limit=ACTIVE_SHOWN).tasks
    failed = inspector.failures(minutes=minutes, limit=FAILED_SHOWN)
    now = datetime.now(UTC)
    head = f"{stamp(now)}   {counted(overview.archived, 'archived task')}"
    parts: list[RenderableType] = [word(head, "dim"), word("")]
    parts += [queue_table(overview, width, sparks=width >= WIDE), *map(word, pause_lines(overview))]
    if active:
        parts += [word(""), word("Active", "bold"), _tasks(active, now, width, errors=False)]
    if failed:
        parts += [word(""), word("Latest failures", "bold"), _tasks(failed, now, width, errors=True)]
    return overview, Group(*parts)


def _tasks(rows: Sequence[TaskRow], now: datetime, width: int, *, errors: bool) -> RenderableType:
    wide = width >= WIDE
    more = ("TENANT",) if wide and any(task_row.tenant for task_row in rows) else ()
    last = ("ERROR",) if wide and errors else ()
    titles = ("ID", "TYPE", "STATE", "TRY", *more, "WHEN")
    lines = []
    for task_row in rows:
        extra = (task_row.tenant or "",) if more else ()
        when = relative(task_row.finished_at or task_row.created_at, now)
        lines.append((task_row.id, task_row.type, task_row.state, tries(task_row), *extra, when))
    made = table(*titles, *last, fold=(*folded(titles, lines, width), *last))
    for task_row, cells in zip(rows, lines, strict=True):
        row(made, *cells, *((line(last_error(task_row)),) if last else ()))
    return made
