"""The lists of `joblane watch`: what each fetches, its rows, and the tasks and names that a row stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from joblane.cli import run_tables, terminal
from joblane.cli.commands.dead import group_table
from joblane.cli.queue_tables import overview_table, pause_lines, queue_table, unknown_lines
from joblane.cli.run_tables import chart
from joblane.cli.schedule_tables import missed_line, pause_line, schedule_table
from joblane.cli.task_tables import last_error, tries, when, with_ids
from joblane.cli.terminal import (
    BETWEEN,
    LEAST_NAME,
    WIDE,
    counted,
    fitted,
    milliseconds,
    plural,
    relative,
    short,
    table,
    word,
)
from joblane.cli.watch.words import CAUSE_FIELDS, ROW_FIELDS, includes, matches, of_lane
from joblane.inspector.durations import stamp
from joblane.inspector.filter import Filter, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import (
    DeadGroup,
    DeadLetters,
    Overview,
    Performance,
    SchedulePage,
    ScheduleRow,
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
ACTIVE_SHOWN, FAILED_SHOWN = 8, 8
"""Tasks in a single frame."""
EDGES = 2
"""Columns at the edges of the screen that a list leaves free."""


@dataclass(frozen=True)
class RowTarget:
    """The things that a row stands for. ``key``: what identifies the row."""

    key: str
    task: TaskRow | None = None
    cause: DeadGroup | None = None
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
            return f"state=archived fingerprint={self.cause.fingerprint}"
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
    """

    title: str
    fetch: Callable[[Inspector, Asked], Any]
    draw: Callable[[Any, Asked, int], Listing]
    nothing: str
    fields: tuple[str, ...] | None = None
    every: float = 0.0
    selecting: bool = False


def task_target(row: TaskRow) -> RowTarget:
    return RowTarget(row.id, task=row, type=row.type, queue=row.queue, tenant=row.tenant)


# --- Overview --------------------------------------------------------------------------------------------------------


def _overview(inspector: Inspector, asked: Asked) -> Overview:
    found = inspector.overview(minutes=asked.minutes)
    chosen = asked.chosen
    queues = [queue for queue in found.queues if not chosen.queues or queue.queue in chosen.queues]
    lanes = [[lane for lane in queue.lanes if of_lane(chosen, lane.type)] for queue in queues]
    return replace(found, queues=tuple(replace(q, lanes=tuple(each)) for q, each in zip(queues, lanes, strict=True)))


def _draw_overview(found: Overview, asked: Asked, width: int) -> Listing:
    minutes = list(zip(*(queue.minutes for queue in found.queues), strict=False))
    started = [sum(each.started for each in minute) for minute in minutes]
    failed = [sum(each.failed for each in minute) for minute in minutes]
    targets = []
    for queue in found.queues:
        targets.append(RowTarget(f"queue {queue.queue}", queue=queue.queue))
        targets += [RowTarget(f"lane {lane.name}", type=lane.type, queue=lane.queue) for lane in queue.lanes]
    dead = counted(found.archived, "archived task")
    return Listing(
        overview_table(found, width - BETWEEN),
        tuple(targets),
        chart(started, failed, width),
        (
            *pause_lines(found),
            *unknown_lines(found),
            *([f"{dead}. See why: list 5, Dead."] if found.archived.number else []),
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
    now = datetime.now(UTC)
    ages = [short((now - row.created_at).total_seconds()) for row in page.tasks]
    made = _task_table(page.tasks, [("AGE", ages), ("WHEN", [when(row, now) for row in page.tasks])], width)
    return Listing(made, tuple(map(task_target, page.tasks)), None, tuple(notes))


def _failures(inspector: Inspector, asked: Asked) -> tuple[TaskRow, ...]:
    return inspector.failures(minutes=asked.minutes, limit=MOST_ROWS)


def _draw_failures(found: tuple[TaskRow, ...], asked: Asked, width: int) -> Listing:
    rows = [row for row in found if matches(asked.chosen, row)]
    now = datetime.now(UTC)
    ended = [relative(row.finished_at or row.created_at, now) for row in rows]
    notes = (f"Only the latest {MOST_ROWS} failures are compared with the filter.",)
    is_cut = len(found) == MOST_ROWS and asked.chosen != Filter()
    made = _task_table(rows, [("ENDED", ended)], width)
    return Listing(made, tuple(map(task_target, rows)), None, notes if is_cut else ())


def _task_table(rows: Sequence[TaskRow], times: Sequence[tuple[str, Sequence[str]]], width: int) -> Table:
    """A row for each task. ``times``: the first columns, each with the cells of all rows."""
    lines = []
    for number, row in enumerate(rows):
        cells: dict[str, object] = {title: of_row[number] for title, of_row in times}
        cells |= {"TYPE": row.type, "STATE": row.state, "TRY": tries(row), "TENANT": row.tenant or ""}
        lines.append(cells | {"QUEUE": row.queue, "ID": row.id, "ERROR": last_error(row)})
    empty = [title for title in ("TENANT", "ERROR", "WHEN") if not any(cells.get(title) for cells in lines)]
    shown = [{title: cell for title, cell in cells.items() if title not in empty} for cells in lines]
    fold = {"TYPE": LEAST_NAME, "TENANT": 12, "ERROR": 36}
    return (
        fitted(shown, width - BETWEEN, fold=fold, right=("AGE", "TRY"), drop=("ID", "QUEUE", "WHEN"))
        if shown
        else table()
    )


# --- Causes, types, schedules ----------------------------------------------------------------------------------------


def _dead(inspector: Inspector, asked: Asked) -> DeadLetters:
    found = inspector.dead(types=asked.chosen.types, since=asked.chosen.ended_after, sort="last")
    return replace(found, groups=tuple(group for group in found.groups if includes(asked.chosen, group)))


def _draw_dead(found: DeadLetters, asked: Asked, width: int) -> Listing:
    notes = []
    if found.obsolete:
        notes = [f"{plural(sum(found.obsolete.values()), 'dead letter')} obsolete: joblane dead says more."]
    if found.unread:
        notes.append(f"{plural(found.unread, 'more dead letter')} not read: joblane dead says more.")
    targets = [
        RowTarget(f"{group.fingerprint} {group.recorded}", cause=group, type=group.type or None)
        for group in found.groups
    ]
    made = group_table(found.groups, width + EDGES, fingerprints=False) if found.groups else table()
    return Listing(made, tuple(targets), None, tuple(notes))


@dataclass(frozen=True)
class Types:
    """The types with their runs of the last hour, and the runs of the selected type."""

    rows: tuple[dict[str, object], ...]
    selected: Performance | None


def _types(inspector: Inspector, asked: Asked) -> Types:
    found = {each.key: each for each in inspector.statistics(within=LAST_HOUR, by="type")}
    names = {each.type for each in inspector.types()} | set(found)
    pauses = {pause.name for pause in inspector.pauses() if pause.scope is PauseScope.TYPE}
    rows: list[dict[str, object]] = []
    failures = {name: each.retried + each.archived + each.lost for name, each in found.items()}
    for name in sorted(names, key=lambda name: (-failures.get(name, 0), name not in found, name)):
        if not of_lane(asked.chosen, name):
            continue
        one, failed = found.get(name), failures.get(name, 0)
        rows.append(
            {
                "TYPE": name,
                "RUNS 1H": f"{one.started:,}" if one else word("·", "dim"),
                "FAILED": word(f"{failed:,}", "red") if failed else word("·", "dim"),
                "MEAN WAIT": milliseconds(one.wait_ms) if one else "",
                "MEAN TIME": milliseconds(one.duration_ms) if one else "",
                "LONGEST": milliseconds(one.longest_ms) if one else "",
                "PAUSED": "yes" if name in pauses else "",
            }
        )
    selected = asked.name if asked.name in names else rows[0]["TYPE"] if rows else None
    of_one = inspector.performance(PauseScope.TYPE, str(selected), within=LAST_HOUR) if selected else None
    return Types(tuple(rows), of_one)


def _draw_types(found: Types, asked: Asked, width: int) -> Listing:
    right = ("RUNS 1H", "FAILED", "MEAN WAIT", "MEAN TIME", "LONGEST")
    made = table()
    if found.rows:
        made = fitted(
            found.rows, width - BETWEEN, fold={"TYPE": LEAST_NAME}, right=right, drop=("LONGEST", "MEAN WAIT")
        )
    above = None
    if found.selected is not None:
        counts = [period.counts for period in found.selected.periods]
        runs = chart([one.number for one in counts], [one.unsuccessful for one in counts], width, height=2)
        above = Group(runs, run_tables.performance(found.selected, width, throughput=False))
    targets = [RowTarget(f"type {row['TYPE']}", type=str(row["TYPE"])) for row in found.rows]
    return Listing(made, tuple(targets), above)


def _schedules(inspector: Inspector, asked: Asked) -> SchedulePage:
    types = asked.chosen.types
    page = inspector.schedules(type=types[0] if len(types) == 1 else None, limit=MOST_ROWS)
    return replace(page, schedules=tuple(each for each in page.schedules if of_lane(asked.chosen, each.type)))


def _draw_schedules(page: SchedulePage, asked: Asked, width: int) -> Listing:
    found = page.schedules
    targets = [RowTarget(one.name, type=one.type, tenant=one.tenant, schedule=one) for one in found]
    notes = [missed_line(one) for one in found if one.missing]
    notes += [f"{one.name} is paused {pause_line(one.pause)}" for one in found if one.pause is not None]
    notes += [f"The first {MOST_ROWS} by name are listed. / narrows the list."] if page.after else []
    return Listing(schedule_table(found, width - BETWEEN) if found else table(), tuple(targets), None, tuple(notes))


VIEWS = (
    View("Overview", _overview, _draw_overview, "There are no queues.", LANE_FIELDS),
    View("Tasks", _tasks, _draw_tasks, "No task matches."),
    View("Running", _running, _draw_tasks, "Nothing runs."),
    View("Failures", _failures, _draw_failures, "No run has failed in the last {minutes} minutes.", ROW_FIELDS),
    View("Dead", _dead, _draw_dead, "No archived tasks, and no dead letters.", CAUSE_FIELDS, every=RATHER_SECONDS),
    View("Types", _types, _draw_types, "There are no task types.", ("types",), selecting=True),
    View("Schedules", _schedules, _draw_schedules, "There are no schedules.", ("types",), every=RATHER_SECONDS),
)


def tabs(shown: View) -> Text:
    """The line with the names of all lists."""
    line = Text()
    for number, view in enumerate(VIEWS, 1):
        line.append(f"{number} {view.title}", "reverse bold" if view is shown else "").append("  ")
    return line


# --- The frame of `joblane watch --once`, and of a pipe or a dumb terminal -------------------------------------------


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
        parts += [word(""), word("Active", "bold"), _few(active, now, width, errors=False)]
    if failed:
        parts += [word(""), word("Latest failures", "bold"), _few(failed, now, width, errors=True)]
    return overview, Group(*parts)


def _few(rows: Sequence[TaskRow], now: datetime, width: int, *, errors: bool) -> RenderableType:
    """A row for each task. ``errors``: with the last error of each, if there is room."""
    wide = width >= WIDE
    tenants = wide and any(task_row.tenant for task_row in rows)
    return with_ids(
        [
            {
                "ID": task_row.id,
                "TYPE": task_row.type,
                "STATE": task_row.state,
                "TRY": tries(task_row),
                **({"TENANT": task_row.tenant or ""} if tenants else {}),
                "WHEN": relative(task_row.finished_at or task_row.created_at, now),
                **({"ERROR": terminal.line(last_error(task_row))} if wide and errors else {}),
            }
            for task_row in rows
        ],
        width,
    )
