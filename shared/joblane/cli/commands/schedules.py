"""Schedules of the code and those made at run time: `schedules` lists them; `show`, `pause`, `run` and so on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joblane.cli import filters, lists, options, target, terminal
from joblane.cli.usage import Listing
from joblane.inspector.sentences.counts import counted
from joblane.inspector.sentences.pauses import (
    deleted_schedule_line,
    missed_line,
    paused_schedule_line,
    resumed_schedule_line,
)
from joblane.inspector.shell import argument

if TYPE_CHECKING:
    from joblane.inspector.views import SchedulePage, ScheduleView

MOST = 200
"""Schedules of a page."""

group = typer.Typer(cls=Listing, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule; TYPE:NAME of one of the code.")]
Tenant = Annotated[str | None, typer.Option(metavar="TENANT", help="Schedules of this tenant.")]
Type = Annotated[
    str | None,
    typer.Option("--type", "-t", metavar="TYPE", help="Schedules of this type.", autocompletion=options.task_types),
]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The schedules of an action: one by its name, or all those made at run time of a tenant or a type."""

    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Name of the schedule, or --tenant or --type.", show_default=False),
    ] = None
    tenant: Tenant = None
    type_: Type = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --tenant or --type: count what would change, and do nothing.")
    ] = False
    reason: options.Reason = None
    yes: options.Yes = False
    as_json: options.AsJson = False

    def or_many(self, context: typer.Context, action: str, **given: Any) -> str:
        """Return the name. Without one, act on all schedules of the tenant or type, and end the command."""
        if self.tenant is None and self.type_ is None:
            if self.name is None:
                terminal.usage("give the name of a schedule, or --tenant or --type", "NAME")
            if self.dry_run:
                terminal.usage("give it with --tenant or --type", "--dry-run")
            return self.name
        if self.name is not None:
            terminal.usage("give a name, or --tenant and --type", "NAME")
        from joblane.cli import many_schedules

        inspector = target.inspector(context)
        act: Callable[..., object] = getattr(inspector, f"{action}_schedule")
        raise typer.Exit(
            many_schedules.run(
                inspector,
                action,
                lambda name: act(name, reason=self.reason, **given),
                tenant=self.tenant,
                type_=self.type_,
                dry_run=self.dry_run,
                yes=self.yes,
                as_json=self.as_json,
            )
        )


@group.command("ls")
def ls(
    context: typer.Context,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Only schedules with this text in their name.")
    ] = None,
    *,
    tenant: Tenant = None,
    type_: Type = None,
    origin: Annotated[
        str | None,
        typer.Option(metavar="ORIGIN", help="code: schedules of the code; run_time: the others."),
    ] = None,
    problem: Annotated[bool, typer.Option("--problem", help="Only schedules that have a problem.")] = False,
    paused: Annotated[bool, typer.Option("--paused", help="Only paused schedules.")] = False,
    sort: Annotated[
        str, typer.Option(metavar="ORDER", help="name; or ticks: the most ticks a day first.", show_default=False)
    ] = "name",
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, max=MOST, help="Show at most N.")] = 50,
    after: Annotated[
        str | None, typer.Option(metavar="POSITION", help="Continue after the previous page, which gives the position.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List schedules: of the code, and those made at run time.

    The name of the command can be left out.
    """
    found = target.inspector(context).schedules(
        tenant=tenant,
        type=type_,
        text=text,
        origin=origin,
        problem=problem,
        paused=paused,
        sort=sort,
        after=after,
        limit=limit,
    )
    terminal.answer(found, as_json=as_json)
    _show(context, found)


@group.command("show")
def show(context: typer.Context, name: Name, as_json: options.AsJson = False) -> None:
    """Show a schedule: its next and last ticks, its payload and the actions on it."""
    view = target.inspector(context).schedule(name)
    terminal.answer(view, as_json=as_json)
    _show_one(context, view)


@group.command("pause")
@options.expanded
def pause(context: typer.Context, chosen: Chosen, for_: options.For = None, until: options.Until = None) -> None:
    """Pause a schedule, or all of a tenant or type: no ticks until they are resumed."""
    ends = filters.end_of(for_, until)
    name = chosen.or_many(context, "pause", until=ends)
    view = target.inspector(context).pause_schedule(name, reason=chosen.reason, until=ends)
    terminal.answer(view, as_json=chosen.as_json)
    terminal.say(paused_schedule_line(view.row))
    terminal.say(f"Resume:  {target.command(context)} schedules resume {argument(name)}")


@group.command("resume")
@options.expanded
def resume(context: typer.Context, chosen: Chosen) -> None:
    """Resume a schedule, or all of a tenant or type. Ticks of the pause do not run."""
    name = chosen.or_many(context, "resume")
    view = target.inspector(context).resume_schedule(name, reason=chosen.reason)
    terminal.answer(view, as_json=chosen.as_json)
    terminal.say(resumed_schedule_line(view.row))


@group.command("run")
def run(context: typer.Context, name: Name, reason: options.Reason = None, as_json: options.AsJson = False) -> None:
    """Run the task of a schedule now, in addition to its ticks. A paused one too."""
    acted = target.inspector(context).run_schedule(name, reason=reason)
    terminal.answer(acted, as_json=as_json)
    terminal.console().print(terminal.word(f"Enqueued: {acted.new_id or acted.id}", "none"), soft_wrap=True)


@group.command("delete")
@options.expanded
def delete(context: typer.Context, chosen: Chosen) -> None:
    """Delete a schedule made at run time, or all of a tenant or type. Tasks of the past stay.

    The application that has made a schedule may make it again. One that the code declares cannot be deleted.
    """
    name, inspector = chosen.or_many(context, "delete"), target.inspector(context)
    view = inspector.schedule(name)  # an unknown schedule is an error of its own
    of_tenant = f" of the tenant {view.row.tenant}" if view.row.tenant else ""
    terminal.confirm(f"Delete the schedule {name} of {view.row.type}{of_tenant}?", yes=chosen.yes)
    deleted = inspector.delete_schedule(name, reason=chosen.reason)
    terminal.answer(deleted, as_json=chosen.as_json)
    terminal.say(deleted_schedule_line(deleted))


# --- Words ---------------------------------------------------------------------------------------------------------


def _show(context: typer.Context, found: SchedulePage) -> None:
    console, command = terminal.console(), target.command(context)
    missing = [one for one in found.schedules if one.missing]
    for one in missing:
        console.print(terminal.word(missed_line(one)))
    if found.schedules:
        lists.show(found.schedules)
    else:
        terminal.say("No schedule matches.")
    if missing:
        terminal.say(f"× marks a missed tick. Run a task now:  {command} schedules run NAME")
    if found.after is not None:
        searched = f" Searched up to the name {found.searched_to}." if found.searched_to else ""
        terminal.say(
            f"{len(found.schedules):,} of {counted(found.count, 'schedule')}.{searched} "
            f"Continue:  --after {argument(found.after)}"
        )
    if any(one.problem for one in found.schedules):
        terminal.say(f"See a problem:  {command} schedules show NAME")


def _show_one(context: typer.Context, view: ScheduleView) -> None:
    from joblane.cli import schedule_tables as tables

    console, command, name = terminal.console(), target.command(context), argument(view.row.name)
    tables.schedule(console, view, datetime.now(UTC))
    console.print()
    steps = [(f"{command} ls --id {argument(view.row.id_prefix)}", "its tasks")]
    steps.append((f"{command} schedules run {name}", "run its task now"))
    steps.append(
        (f"{command} schedules resume {name}", "let it have ticks again")
        if view.row.pause
        else (f"{command} schedules pause {name}", "until it is resumed")
    )
    if view.row.can_be_deleted:
        steps.append((f"{command} schedules delete {name}", "for good"))
    terminal.steps(console, steps)
