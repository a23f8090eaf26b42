"""Schedules: `schedules` lists all; `show`, `pause`, `resume`, `run`, `delete` are for those made at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import options, target, terminal
from joblane.cli.commands.limits import Listing
from joblane.inspector.durations import stamp
from joblane.inspector.shell import argument

if TYPE_CHECKING:
    from joblane.inspector.inspector import Inspector
    from joblane.inspector.views import RunTimeSchedulePage, RunTimeScheduleView, ScheduleView

MOST = 200
"""Schedules made at run time of a page."""

group = typer.Typer(cls=Listing, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a schedule that was made at run time.")]


@dataclass(frozen=True)
class Schedules:
    """The document of `schedules --json`."""

    declared: Sequence[ScheduleView]
    run_time: RunTimeSchedulePage


@group.command("ls")
def ls(
    context: typer.Context,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Only schedules with this text in their name.")
    ] = None,
    *,
    tenant: Annotated[
        str | None, typer.Option(metavar="TENANT", help="Only schedules of this tenant, all of them made at run time.")
    ] = None,
    type_: Annotated[
        str | None,
        typer.Option(
            "--type", "-t", metavar="TYPE", help="Only schedules of this type.", autocompletion=options.task_types
        ),
    ] = None,
    problem: Annotated[
        bool, typer.Option("--problem", help="Only schedules made at run time that have a problem.")
    ] = False,
    limit: Annotated[
        int,
        typer.Option("--limit", "-n", metavar="N", min=1, max=MOST, help="Show at most N of those made at run time."),
    ] = 50,
    after: Annotated[
        str | None, typer.Option(metavar="NAME", help="Continue after this name, which the previous page gives.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List schedules: those that the code declares, and those made at run time.

    Declared ones with their last ticks, the others in the order of their names. The name of the command can be left
    out.
    """
    inspector = target.inspector(context)
    found = inspector.run_time_schedules(
        tenant=tenant, type=type_, text=text, problem=problem, after=after, limit=limit
    )
    declared = () if tenant or problem or after else _declared(inspector, type_, text)
    terminal.answer(Schedules(declared, found), as_json=as_json)
    if not declared and not found.schedules:
        terminal.say("No schedule matches.")
    else:
        _show(declared, found)
    _say_more(context, declared, found)


@group.command("show")
def show(context: typer.Context, name: Name, as_json: options.AsJson = False) -> None:
    """Show a schedule made at run time: its next ticks, its last task, its payload and the actions on it."""
    view = target.inspector(context).run_time_schedule(name)
    terminal.answer(view, as_json=as_json)
    _show_one(context, view)


@group.command("pause")
def pause(context: typer.Context, name: Name, reason: options.Reason = None, as_json: options.AsJson = False) -> None:
    """Pause a schedule made at run time: it has no ticks until it is resumed.

    For a schedule of the code: `joblane pause schedule TYPE:NAME`.
    """
    view = target.inspector(context).pause_schedule(name, reason=reason)
    terminal.answer(view, as_json=as_json)
    terminal.say(f"Paused {view.row.name}: it has no ticks until it is resumed.")
    terminal.say(f"Resume:  {target.command(context)} schedules resume {argument(name)}")


@group.command("resume")
def resume(context: typer.Context, name: Name, reason: options.Reason = None, as_json: options.AsJson = False) -> None:
    """Resume a schedule made at run time. Ticks of the pause do not run."""
    view = target.inspector(context).resume_schedule(name, reason=reason)
    terminal.answer(view, as_json=as_json)
    at = f": its next tick is at {stamp(view.row.next_at)}" if view.row.next_at else ""
    terminal.say(f"Resumed {view.row.name}{at}.")


@group.command("run")
def run(context: typer.Context, name: Name, reason: options.Reason = None, as_json: options.AsJson = False) -> None:
    """Run the task of a schedule made at run time now, in addition to its ticks."""
    acted = target.inspector(context).run_schedule(name, reason=reason)
    terminal.answer(acted, as_json=as_json)
    terminal.console().print(terminal.word(f"Enqueued: {acted.new_id or acted.id}", "none"), soft_wrap=True)


@group.command("delete")
def delete(
    context: typer.Context,
    name: Name,
    *,
    reason: options.Reason = None,
    yes: options.Yes = False,
    as_json: options.AsJson = False,
) -> None:
    """Delete a schedule made at run time. Its tasks of the past stay.

    The application that has made it may make it again.
    """
    inspector = target.inspector(context)
    view = inspector.run_time_schedule(name)  # an unknown schedule is an error of its own
    of_tenant = f" of the tenant {view.row.tenant}" if view.row.tenant else ""
    terminal.confirm(f"Delete the schedule {name} of {view.row.type}{of_tenant}?", yes=yes)
    deleted = inspector.delete_schedule(name, reason=reason)
    terminal.answer(deleted, as_json=as_json)
    terminal.say(f"Deleted {deleted.name}: it has no ticks any more.")


# --- Words ---------------------------------------------------------------------------------------------------------


def _declared(inspector: Inspector, type_: str | None, text: str | None) -> tuple[ScheduleView, ...]:
    wanted = (text or "").lower()
    return tuple(
        one for one in inspector.schedules() if type_ in (None, one.type) and wanted in f"{one.type}:{one.name}".lower()
    )


def _show(declared: Sequence[ScheduleView], found: RunTimeSchedulePage) -> None:
    from joblane.cli import schedule_tables as tables

    console = terminal.console()
    if declared:
        if found.schedules:
            console.print(terminal.word("Declared in the code", "bold"))
        console.print(tables.schedule_table(declared, console.width))
        for schedule in declared:
            if schedule.missed:
                console.print(terminal.word(tables.missed_line(schedule)))
    if found.schedules:
        if declared:
            console.print()
        console.print(terminal.word("Made at run time", "bold"))
        console.print(tables.run_time_table(found.schedules, console.width))


def _say_more(context: typer.Context, declared: Sequence[ScheduleView], found: RunTimeSchedulePage) -> None:
    command = target.command(context)
    if any(one.missed or any(tick.state is None for tick in one.ticks) for one in declared):
        terminal.say(f"× marks a missed tick. Send a tick now:  {command} tick TYPE")
    if found.after is not None:
        searched = f" Searched up to the name {found.searched_to}." if found.searched_to else ""
        terminal.say(
            f"{len(found.schedules):,} of {terminal.counted(found.count, 'schedule')} made at run time.{searched} "
            f"Continue:  --after {argument(found.after)}"
        )
    if any(one.problem for one in found.schedules):
        terminal.say(f"See a problem:  {command} schedules show NAME")


def _show_one(context: typer.Context, view: RunTimeScheduleView) -> None:
    from joblane.cli import schedule_tables as tables

    console, command, name = terminal.console(), target.command(context), argument(view.row.name)
    tables.run_time_schedule(console, view, datetime.now(UTC))
    console.print()
    steps = [(f"{command} ls --id {argument(view.row.id_prefix)}", "its tasks")]
    steps.append((f"{command} schedules run {name}", "run its task now"))
    steps.append(
        (f"{command} schedules resume {name}", "let it have ticks again")
        if view.row.paused_at
        else (f"{command} schedules pause {name}", "until it is resumed")
    )
    terminal.steps(console, steps)
