"""Find tasks by any text: `find`."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import filters, target, terminal
from joblane.cli.commands import options as o
from joblane.inspector.durations import stamp

if TYPE_CHECKING:
    from rich.console import Console

    from joblane.inspector.filter import Filter
    from joblane.inspector.views import Found, FoundGroup


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
    as_json: o.AsJson = False,
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
        _print(console, group, now, command)
    if not found.groups:
        terminal.say("Nothing found." if found.after is None else "Nothing found so far.")
    if found.searched_to is not None:
        terminal.say(_searched(found))


def _print(to: Console, group: FoundGroup, now: datetime, command: str) -> None:
    from joblane.cli import task_tables as tables

    listing = "" if group.filter is None else f"{command} ls {_options(group.filter)}"
    to.print(terminal.word(group.kind, "bold"), terminal.word(listing, "dim"), soft_wrap=True)
    if group.page.tasks:
        to.print(tables.tasks(group.page.tasks, now, to.width))
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
    tasks = terminal.plural(found.read)
    text = f"Searched the payloads of {tasks}, back to {stamp(found.searched_to)}."
    return text if found.after is None else f"{text} To search further, add --after {shlex.quote(found.after)}"
