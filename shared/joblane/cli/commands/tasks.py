"""Inspect tasks: `ls`, `find`, `show`, `graph`, `logs`, `wait`."""

from __future__ import annotations

import math
import shlex
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import filters, lists, options, target, terminal
from joblane.cli.exits import Exit
from joblane.cli.follow import bar
from joblane.inspector.durations import stamp
from joblane.inspector.filter import LOG_LEVELS, MAX_LOG_LINES
from joblane.inspector.sentences.failures import searched_line
from joblane.inspector.sentences.graph import graph_line
from joblane.inspector.shell import argument
from joblane.inspector.short_id import task_of
from joblane.record.row.states import ENDED

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from joblane.inspector.filter import Filter
    from joblane.inspector.inspector import Inspector
    from joblane.inspector.views import Found, FoundGroup, LogLine, TaskView

POLL_SECONDS = 1.0
FOLLOW_SECONDS = 2.0
FOLLOWED_SECONDS = 600
"""A terminal that is left open asks CloudWatch no longer than this."""
NEWEST_LINES = 200
NO_LINES = "No such log lines: of a type, only the last 15 minutes are searched."
LATE = timedelta(minutes=2)
"""Time after which CloudWatch has the lines of a run."""
LOG_FIELDS_LEFT_OUT = ("service", "location", "sampling_rate", "task_id", "task_type", "type", "queue", "timestamp")


@options.expanded
def ls(
    context: typer.Context,
    *,
    which: filters.FilterOptions,
    limit: options.Limit = 20,
    after: options.After = None,
    as_json: options.AsJson = False,
) -> None:
    """List tasks, newest first.

    A task must match all the given options.
    """
    page = target.inspector(context).tasks(which.filter(), after=after, limit=limit)
    terminal.answer(page, as_json=as_json)
    if not page.tasks and page.after is None:
        terminal.say("No task matches." if after is None else "No more tasks match.")
        return
    if page.tasks:
        lists.show(page.tasks)
    if page.searched_to is not None:
        none = "" if page.tasks else "No task found so far. "
        searched = f"{none}The search ended at tasks created at {stamp(page.searched_to)}."
        terminal.say(f"{searched} To search older tasks, add --after {shlex.quote(page.after or '')}")
    elif page.after is not None:
        terminal.say(f"There are more tasks. For the next page, add --after {shlex.quote(page.after)}")


def show(context: typer.Context, id_: options.IdOrPrefix, as_json: options.AsJson = False) -> None:
    """Show all details of one task.

    Why it is not running, its attempts, its error, its payload, and commands for the next steps.
    """
    view = task_of(target.inspector(context), id_)
    terminal.answer(view, as_json=as_json)
    from joblane.cli import task_tables as tables

    tables.task(terminal.console(), view, datetime.now(UTC), target.command(context))


def graph(context: typer.Context, id_: options.IdOrPrefix, as_json: options.AsJson = False) -> None:
    """Show the workflow of a task, or of batch:ID, as a tree.

    The tasks that run before and after it or were enqueued by its runs, and its batch with members and callbacks. Many
    tasks of one type and state are one line.
    """
    from joblane.record.task.insert import BATCH_TAG

    inspector = target.inspector(context)
    found = inspector.graph(id_ if id_.startswith(BATCH_TAG) else task_of(inspector, id_).row.id)
    terminal.answer(found, as_json=as_json)
    from joblane.cli import task_tables as tables

    terminal.console().print(tables.tree(found), soft_wrap=True)
    if line := graph_line(found):
        terminal.say(line)


def logs(
    context: typer.Context,
    id_: Annotated[str | None, typer.Argument(metavar="ID", help="Task id, or its beginning.")] = None,
    *,
    type_: Annotated[
        str | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="The newest lines of a type, instead of a task's lines.",
            autocompletion=options.task_types,
        ),
    ] = None,
    level: Annotated[str | None, typer.Option(metavar="LEVEL", help=f"Lowest level: {', '.join(LOG_LEVELS)}.")] = None,
    text: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only lines with this text; upper and lower case differ.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow for ten minutes, or until the task has ended.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", "--as-json", help="JSON: one document; with --follow, an object per line.")
    ] = False,
) -> None:
    """Show the log lines of all attempts of one task, or the newest lines of a type."""
    if (id_ is None) == (type_ is None):
        raise typer.BadParameter("an id or --type is required, and not both", param_hint="ID")
    inspector, level = target.inspector(context), level and level.upper()
    view = None if id_ is None else task_of(inspector, id_)

    def read() -> tuple[LogLine, ...]:
        if view is not None:
            return inspector.logs(view.row.id, level=level, text=text, limit=MAX_LOG_LINES)
        return inspector.type_logs(type_ or "", level=level, text=text, limit=NEWEST_LINES)

    def has_ended() -> bool:
        return view is not None and inspector.task(view.row.id).row.state in ENDED

    lines, is_over = read(), view is not None and view.row.state in ENDED
    terminal.answer(lines, as_json=as_json and not follow)
    console, shown, ends = terminal.console(), Counter[str](), time.monotonic() + FOLLOWED_SECONDS
    try:
        while True:
            found = Counter[str]()
            for line in lines:
                found[key := repr(line)] += 1
                if found[key] > shown[key]:  # CloudWatch may have it later than a line that was written after it
                    if as_json:
                        typer.echo(terminal.json_of(line))
                    else:
                        _print_log_line(console, line)
            shown |= found
            if not follow or is_over or terminal.Output.is_closed_by_reader:
                break
            if time.monotonic() > ends:
                terminal.say("No longer following, after ten minutes. The same command follows again.")
                break
            time.sleep(FOLLOW_SECONDS)
            is_over = has_ended()  # before the lines, so that they include the last ones
            lines = read()
    except KeyboardInterrupt:
        terminal.say("\nNo longer following." if view is None else "\nNo longer following; the task continues.")
        raise typer.Exit(Exit.INTERRUPTED) from None
    if not shown:
        terminal.say(_no_lines(view, datetime.now(UTC)) if view and not (level or text) else NO_LINES)
    if view is not None and len(lines) >= MAX_LOG_LINES:
        terminal.say(f"These are the first {MAX_LOG_LINES:,} lines; CloudWatch has the rest.")


def _no_lines(view: TaskView, now: datetime) -> str:
    ends = [attempt.finished_at for attempt in view.attempts if attempt.finished_at]
    if not view.attempts:
        return "No log lines: no run of this task has started."
    if not ends or now - max(ends) < LATE:
        return "No log lines yet: CloudWatch has them some seconds after they are written."
    return (
        f"No log lines: its last run ended {terminal.relative(max(ends), now)}, and its log is no longer kept, or was"
        " deleted."
    )


def _print_log_line(to: Console, line: LogLine) -> None:
    from rich.text import Text

    style = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red", "DEBUG": "dim"}.get(line.level, "")
    text = Text(f"{line.at.astimezone(UTC):%H:%M:%S.%f}"[:12] + "Z ", "dim")
    text.append(f"{line.attempt or '–':>2} ", "dim")
    text.append(f"{line.level:<7} ", style).append(terminal.clean(line.message))
    for name, value in line.fields.items():
        if name not in LOG_FIELDS_LEFT_OUT:
            text.append(f"  {terminal.clean(name)}=", "dim").append(terminal.clean(value))
    to.print(text, soft_wrap=True)


def wait(
    context: typer.Context,
    id_: options.Id,
    timeout: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Longest time to wait, for example 10m or 2h.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Wait until a task has ended.

    Exit status 0: completed, 1: archived or cancelled, 7: not ended in time.
    """
    longest = filters.duration_of(timeout, "--timeout")
    raise typer.Exit(await_end(target.inspector(context), target.command(context), id_, longest, as_json=as_json))


def await_end(inspector: Inspector, command: str, id_: str, longest: timedelta | None, *, as_json: bool) -> Exit:
    """Follow a task to its end, print its state, and return the exit status for it.

    ``command``: `joblane`, with the options for this stage. ``longest`` None: without a limit.
    """
    ends = math.inf if longest is None else time.monotonic() + longest.total_seconds()
    view = inspector.task(id_)
    try:
        with bar() as progress:
            line = progress.add_task(view.row.type, total=None)
            while view.row.state not in ENDED and (left := ends - time.monotonic()) > 0:
                _update(progress, line, view)
                time.sleep(min(POLL_SECONDS, left))
                view = inspector.task(id_)
    except KeyboardInterrupt:
        terminal.say(f"\nNo longer waiting; task {id_} continues.")
        return Exit.INTERRUPTED
    if as_json:
        terminal.document(view)
    match view.row.state:
        case "completed":
            terminal.say(f"Task {id_} completed.")
            return Exit.DONE
        case "archived" | "cancelled" as state:
            terminal.say(f"Task {id_} is {state}: {view.row.reason or view.why.text}")
            terminal.say(f"More: {command} show {argument(id_)}")
            return Exit.FAILED
        case state:
            terminal.say(f"Task {id_} has not ended in time: it is {state}. {view.why.text}")
            return Exit.TIMED_OUT


def _update(progress: Progress, line: TaskID, view: TaskView) -> None:
    done, total = (view.progress.done, view.progress.total) if view.progress else (0, None)
    text = (view.progress and view.progress.note) or view.why.text
    progress.update(line, total=total, completed=done, description=f"{view.row.state}: {terminal.clean(text)}")


def find(
    context: typer.Context,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Text of 1 to 200 characters.")],
    *,
    newer: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Only errors and payloads of tasks newer than this: an age or a time."),
    ] = None,
    older: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Only errors and payloads of tasks older than this: an age or a time."),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(metavar="CURSOR", help="Cursor that the previous search printed: search further payloads."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Find tasks by an id, a tenant, an error or a payload.

    TEXT is an id or its beginning, a tenant, tag, fingerprint or unique key, or a part of a type, of an error or of a
    value in a payload. Payloads are searched back to 24 hours ago, or to --newer.
    """
    created_after, created_before = filters.time_range(newer, older)
    inspector = target.inspector(context)
    found = inspector.find(text, created_after=created_after, created_before=created_before, after=after)
    terminal.answer(found, as_json=as_json)
    from joblane.cli import task_tables as tables

    console, now, command = terminal.console(), datetime.now(UTC), target.command(context)
    if found.id is not None:
        tables.task(console, inspector.task(found.id), now, command)
        return
    for group in found.groups:
        _print(console, group, command)
    if not found.groups:
        terminal.say("Nothing found." if found.after is None else "Nothing found so far.")
    if found.searched_to is not None:
        terminal.say(_searched(found))


def _print(to: Console, group: FoundGroup, command: str) -> None:
    listing = "" if group.filter is None else f"{command} ls {_options(group.filter)}"
    to.print(terminal.word(group.kind, "bold"), terminal.word(listing, "dim"), soft_wrap=True)
    if group.page.tasks:
        lists.show(group.page.tasks)
    elif group.page.searched_to is not None:
        to.print(terminal.word(f"none since {stamp(group.page.searched_to)}; the listing searches further"))
    to.print()


def _options(filter_: Filter) -> str:
    """The options of `ls` for a filter of a group."""
    given = {"--id": filter_.id_prefix, "--tenant": filter_.tenant, "--tag": filter_.tag, "--error": filter_.error}
    given |= {"--fingerprint": filter_.fingerprint, "--type": next(iter(filter_.types), None)}
    times = {"--newer": filter_.created_after, "--older": filter_.created_before}
    given |= {option: None if at is None else at.isoformat() for option, at in times.items()}
    return " ".join(f"{option} {shlex.quote(value)}" for option, value in given.items() if value)


def _searched(found: Found) -> str:
    assert found.searched_to is not None
    text = searched_line(found.read, found.searched_to)
    return text if found.after is None else f"{text} To search further, add --after {shlex.quote(found.after)}"
