"""The lists of `joblane watch`: what each fetches, its rows, and the tasks and names that a row stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from joblane.cli import run_tables
from joblane.cli.run_tables import chart
from joblane.cli.tables import BETWEEN, listed, queues, trouble
from joblane.cli.terminal import WIDE, word
from joblane.cli.watch.words import CAUSE_FIELDS, ROW_FIELDS, includes, matches, of_lane
from joblane.inspector import queries
from joblane.inspector.durations import stamp
from joblane.inspector.filter import Filter, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.queries import Query
from joblane.inspector.sentences.counts import counted
from joblane.inspector.sentences.failures import left_out_lines
from joblane.inspector.sentences.pauses import missed_line, pause_line, schedule_pause_line, waiting_line
from joblane.inspector.sentences.stage import unknown_lines
from joblane.inspector.sentences.trouble import need_line, trouble_line
from joblane.inspector.views import (
    Cause,
    Causes,
    Lane,
    Now,
    Overview,
    Performance,
    QueueView,
    SchedulePage,
    ScheduleRow,
    Statistic,
    TaskPage,
    TaskRow,
)
from joblane.record.row.states import State

MOST_ROWS = 200
"""Tasks or schedules in a list."""
RATHER_SECONDS = 15.0
"""Time between two queries that call SQS or EventBridge Scheduler once for each queue or schedule."""
LAST_HOUR = timedelta(hours=1)
LANE_FIELDS = ("types", "queues")
PARTS = ("Completed", "Retried", "Archived", "Lost", "Cost", "Per 1000")
"""Columns of a statistic that list 6 leaves out. The column *Failed* has the sum of three of them."""
MOST_NEEDS = 3
"""Things that need an operator in the overview."""
ACTIVE_SHOWN, FAILED_SHOWN = 8, 8
"""Tasks in a single frame."""


@dataclass(frozen=True)
class RowTarget:
    """The things that a row stands for. ``key``: what identifies the row."""

    key: str
    task: TaskRow | None = None
    cause: Cause | None = None
    type: str | None = None
    queue: str | None = None
    tenant: str | None = None
    schedule: ScheduleRow | None = None

    @property
    def scopes(self) -> list[tuple[PauseScope, str]]:
        """Scopes that `p` can pause, the nearest first."""
        named = {
            PauseScope.TYPE: self.type,
            PauseScope.QUEUE: self.queue,
            PauseScope.TENANT: self.tenant,
        }
        return [(scope, name) for scope, name in named.items() if name]

    @property
    def words(self) -> str:
        """The filter line for the tasks of the row."""
        if self.cause is not None:
            of = f"fingerprint={self.cause.fingerprint}" if self.cause.fingerprint else "state=archived"
            return f"type={self.cause.type} {of}"
        given = {"type": self.type, "queue": self.queue}
        return " ".join(f"{name}={value}" for name, value in given.items() if value)


@dataclass(frozen=True)
class Listing:
    """A list as it is drawn. ``above``: shown above the rows. ``notes``: sentences below them."""

    table: Table
    targets: tuple[RowTarget, ...]
    above: RenderableType | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """A query. ``task``: the id of the task whose details are shown, None for the list. ``name``: the selected row."""

    view: View
    chosen: Filter = field(default_factory=Filter)
    minutes: int = 30
    task: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class View:
    """A list. ``fields``: the fields of a filter that it uses, None: all.

    ``every``: the smallest number of seconds between queries. ``selecting``: the selected row changes what is fetched.
    ``command``: prints all notes.
    """

    title: str
    fetch: Callable[[Inspector, Asked], Any]
    draw: Callable[[Any, Asked, int], Listing]
    nothing: str
    fields: tuple[str, ...] | None = None
    every: float = 0.0
    selecting: bool = False
    command: str = ""


def task_target(row: TaskRow) -> RowTarget:
    return RowTarget(row.id, task=row, type=row.type, queue=row.queue, tenant=row.tenant)


# --- Overview --------------------------------------------------------------------------------------------------------


def _overview(inspector: Inspector, asked: Asked) -> Now:
    now = inspector.now(minutes=asked.minutes)
    found = now.overview
    chosen = asked.chosen
    queues = [queue for queue in found.queues if not chosen.queues or queue.queue in chosen.queues]
    lanes = [[lane for lane in queue.lanes if of_lane(chosen, lane.type)] for queue in queues]
    shown = tuple(replace(q, lanes=tuple(each)) for q, each in zip(queues, lanes, strict=True))
    return replace(now, overview=replace(found, queues=shown))


def _draw_overview(now: Now, asked: Asked, width: int) -> Listing:
    found = now.overview
    minutes = list(zip(*(queue.minutes for queue in found.queues), strict=False))
    started = [sum(each.started for each in minute) for minute in minutes]
    failed = [sum(each.failed for each in minute) for minute in minutes]
    targets, rows = [], list[QueueView | Lane]()
    for queue in found.queues:
        rows += [queue, *(replace(lane, queue="") for lane in queue.lanes)]  # type: ignore[arg-type]  # said once
        targets.append(RowTarget(f"queue {queue.queue}", queue=queue.queue))
        targets += [RowTarget(f"lane {lane.row_id}", type=lane.type, queue=lane.queue) for lane in queue.lanes]
    dead = counted(found.archived, "archived task")
    return Listing(
        listed(rows, width - BETWEEN, of=Lane, without=("In flight",)),
        tuple(targets),
        chart(started, failed, width),
        (
            trouble_line(now.trouble),
            *map(need_line, now.trouble.needs[:MOST_NEEDS]),
            *map(waiting_line, now.other_pauses),
            *unknown_lines(found),
            *([f"{dead}. See why: list 5, Errors."] if found.archived.number else []),
        ),
    )


# --- Tasks -----------------------------------------------------------------------------------------------------------


def _tasks(inspector: Inspector, asked: Asked) -> TaskPage:
    return inspector.tasks(asked.chosen, limit=MOST_ROWS)


def _running(inspector: Inspector, asked: Asked) -> TaskPage:
    if asked.chosen.states and State.ACTIVE not in asked.chosen.states:
        return TaskPage((), None)
    return inspector.tasks(replace(asked.chosen, states=(State.ACTIVE,)), limit=MOST_ROWS)


def _draw_tasks(page: TaskPage, asked: Asked, width: int) -> Listing:
    notes = []
    if page.searched_to is not None:
        notes = [f"The search ended at tasks created at {stamp(page.searched_to)}. / narrows it."]
    elif page.after is not None:
        notes = [f"The newest {MOST_ROWS} are listed. / narrows the list."]
    made = _listed_tasks(page.tasks, width, drop=("ID", "Queue", "Due or ended"))
    return Listing(made, tuple(map(task_target, page.tasks)), None, tuple(notes))


def _listed_tasks(
    rows: Sequence[TaskRow], width: int, *, without: tuple[str, ...] = (), drop: tuple[str, ...]
) -> Table:
    """The table of tasks. On a narrow terminal an error is worth more than an id, which Enter shows, and the queue."""
    left_out = (*without, "ID", "Queue") if width < WIDE else without
    return listed(rows, width - BETWEEN, without=left_out, drop=drop, titles={"Due or ended": "When"})


def _failures(inspector: Inspector, asked: Asked) -> tuple[TaskRow, ...]:
    return inspector.failures(minutes=asked.minutes, limit=MOST_ROWS)


def _draw_failures(found: tuple[TaskRow, ...], asked: Asked, width: int) -> Listing:
    rows = [row for row in found if matches(asked.chosen, row)]
    notes = (f"Only the latest {MOST_ROWS} failures are compared with the filter.",)
    is_cut = len(found) == MOST_ROWS and asked.chosen != Filter()
    made = _listed_tasks(rows, width, without=("Age",), drop=("ID", "Queue"))
    return Listing(made, tuple(map(task_target, rows)), None, notes if is_cut else ())


# --- Causes, types, schedules ----------------------------------------------------------------------------------------


def _errors(inspector: Inspector, asked: Asked) -> Causes:
    chosen = asked.chosen
    found = inspector.errors(types=chosen.types, tenant=chosen.tenant, sort="now", limit=MOST_ROWS)
    return replace(found, causes=tuple(cause for cause in found.causes if includes(chosen, cause)))


def _draw_errors(found: Causes, asked: Asked, width: int) -> Listing:
    targets = [RowTarget(f"{one.fingerprint} {one.type}", cause=one, type=one.type) for one in found.causes]
    made = listed(found.causes, width - BETWEEN, without=("Fingerprint",))
    notes = left_out_lines(found) if asked.chosen == Filter() else []
    return Listing(made, tuple(targets), None, tuple(notes))


@dataclass(frozen=True)
class Types:
    """The types with their runs of the last hour, and the runs of the selected type."""

    rows: tuple[Statistic, ...]
    selected: Performance | None
    notes: tuple[str, ...]


def _types(inspector: Inspector, asked: Asked) -> Types:
    found = {each.key: each for each in inspector.statistics(within=LAST_HOUR, by="type")}
    for declared in inspector.types():
        found.setdefault(declared.type, Statistic(declared.type, 0, 0, 0, 0, 0, None, None, None, 0.0))
    rows = [each for each in found.values() if of_lane(asked.chosen, each.key)]
    rows.sort(key=lambda each: (-each.unsuccessful, not each.started, each.key))
    selected = asked.name if asked.name in found else rows[0].key if rows else None
    of_one = inspector.performance(PauseScope.TYPE, selected, within=LAST_HOUR) if selected else None
    pauses = [pause_line(pause) for pause in inspector.pauses() if pause.scope is PauseScope.TYPE]
    return Types(tuple(rows), of_one, tuple(pauses))


def _draw_types(found: Types, asked: Asked, width: int) -> Listing:
    above = None
    if found.selected is not None:
        counts = [period.counts for period in found.selected.periods]
        runs = chart([one.number for one in counts], [one.unsuccessful for one in counts], width, height=2)
        above = Group(runs, run_tables.performance(found.selected, width, throughput=False))
    targets = [RowTarget(f"type {row.key}", type=row.key) for row in found.rows]
    made = listed(found.rows, width - BETWEEN, without=PARTS, titles={"Name": "Type", "Runs": "Runs 1h"})
    return Listing(made, tuple(targets), above, found.notes)


def _schedules(inspector: Inspector, asked: Asked) -> SchedulePage:
    types = asked.chosen.types
    page = inspector.schedules(type=types[0] if len(types) == 1 else None, limit=MOST_ROWS)
    return replace(page, schedules=tuple(each for each in page.schedules if of_lane(asked.chosen, each.type)))


def _draw_schedules(page: SchedulePage, asked: Asked, width: int) -> Listing:
    found = page.schedules
    targets = [RowTarget(one.name, type=one.type, tenant=one.tenant, schedule=one) for one in found]
    notes = [missed_line(one) for one in found if one.missing]
    notes += [f"{one.name} is paused {schedule_pause_line(one.pause)}" for one in found if one.pause is not None]
    notes += [f"The first {MOST_ROWS} by name are listed. / narrows the list."] if page.after else []
    return Listing(listed(found, width - BETWEEN), tuple(targets), None, tuple(notes))


def _generated(found: Query) -> View:
    """The list of an operation that has no list of its own."""

    def draw(answer: Any, asked: Asked, width: int) -> Listing:
        rows, key = found.rows(answer), found.listing.columns[0]
        targets = [RowTarget(f"{found.name} {number} {key.of(row)}") for number, row in enumerate(rows)]
        return Listing(listed(rows, width - BETWEEN), tuple(targets))

    def fetch(inspector: Inspector, asked: Asked) -> Any:
        return getattr(inspector, found.name)()

    return View(found.listing.title, fetch, draw, found.listing.empty, ())


VIEWS = (
    View("Overview", _overview, _draw_overview, "There are no queues.", LANE_FIELDS, command="queues"),
    View("Tasks", _tasks, _draw_tasks, "No task matches."),
    View("Running", _running, _draw_tasks, "Nothing runs."),
    View("Failures", _failures, _draw_failures, "No run has failed in the last {minutes} minutes.", ROW_FIELDS),
    View(
        "Errors",
        _errors,
        _draw_errors,
        "No run has failed within a day, and there are no archived tasks.",
        CAUSE_FIELDS,
        command="errors",
    ),
    View("Types", _types, _draw_types, "There are no task types.", ("types",), selecting=True, command="pause"),
    View(
        "Schedules",
        _schedules,
        _draw_schedules,
        "There are no schedules.",
        ("types",),
        RATHER_SECONDS,
        command="schedules",
    ),
    *(_generated(found) for found in queries.new() if found.is_complete),
)


def tabs(shown: View) -> Text:
    """The line with the names of all lists."""
    line = Text()
    for number, view in enumerate(VIEWS, 1):
        line.append(f"{number} {view.title}", "reverse bold" if view is shown else "").append("  ")
    return line


def notes(given: Sequence[str], width: int, height: int, command: str) -> Text:
    """The notes of a list. If they need more lines than ``height``, the first, each cut, and the command for all."""
    found = [word(note) for note in given]
    if sum(-(-note.cell_len // width) for note in found) > height:
        for note in found:
            note.truncate(width, overflow="ellipsis")
        found = [*found[: height - 1], word(f"All {len(given)} in full: {command}")]
    return Text("\n").join(found)


# --- The frame of `joblane watch --once`, and of a pipe or a dumb terminal -------------------------------------------


def frame(inspector: Inspector, width: int, minutes: int) -> tuple[Overview, RenderableType]:
    """The queues, running tasks and latest failures, and the overview that the frame shows."""
    now_ = inspector.now(minutes=minutes)
    overview = now_.overview
    active = inspector.tasks(Filter(states=(State.ACTIVE,)), limit=ACTIVE_SHOWN).tasks
    failed = inspector.failures(minutes=minutes, limit=FAILED_SHOWN)
    now = datetime.now(UTC)
    head = f"{stamp(now)}   {counted(overview.archived, 'archived task')}"
    parts: list[RenderableType] = [word(head, "dim"), *trouble(now_.trouble, MOST_NEEDS), word("")]
    parts += [queues(overview, width), *(word(waiting_line(each)) for each in now_.other_pauses)]
    if active:
        parts += [word(""), word("Active", "bold"), listed(active, width, without=("Queue", "Last error"))]
    if failed:
        parts += [word(""), word("Latest failures", "bold"), listed(failed, width, without=("Queue",))]
    return overview, Group(*parts)
