"""When things start: `pause`, `resume`, `schedules`, `tick`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import completion, filters, target, terminal
from joblane.cli.commands import options as o
from joblane.cli.durations import relative
from joblane.cli.terminal import WIDE
from joblane.inspector.durations import stamp
from joblane.inspector.filter import PauseScope
from joblane.inspector.shell import argument

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from joblane.inspector.views import ScheduleView, Tick

Scope = Annotated[
    str, typer.Argument(metavar="SCOPE", help="queue, type, tenant or schedule.", autocompletion=completion.scopes)
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name; TYPE:NAME of a schedule.")]


def pause(
    context: typer.Context,
    scope: Annotated[
        str | None,
        typer.Argument(metavar="[SCOPE]", help="queue, type, tenant or schedule.", autocompletion=completion.scopes),
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Its name; TYPE:NAME of a schedule.")] = None,
    *,
    reason: o.Reason = None,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="It resumes by itself after 2h.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="It resumes by itself then (ISO 8601).")] = None,
    as_json: o.AsJson = False,
) -> None:
    """Start nothing new of a queue, type, tenant or schedule.

    Without arguments: what is paused. Messages stay, and no attempts are spent.
    """
    if scope is None:
        _show_pauses(context, as_json=as_json)
        return
    if name is None:
        terminal.usage(f"give the name of the {scope}, too", "NAME")
    chosen, named, ends = _scope(scope), filters.name_of(name, "NAME"), _ends(for_, until)
    made = target.inspector(context).pause(chosen, named, reason=reason, until=ends)
    terminal.answer(made, as_json=as_json)
    what = "what runs goes on, nothing new starts. Messages stay, and no attempts are spent"
    if made.scope == "schedule":
        what = "its ticks run nothing"
    end = f"until {terminal.clean(stamp(made.until))}" if made.until else "until it is resumed"
    terminal.say(f"Paused {made.scope} {made.name} {end}: {what}.")
    if made.replaced:
        by = f" by {made.replaced_by}" if made.replaced_by else ""
        terminal.say(f"It was paused already{by}, since {stamp(made.since)}; your reason and end stand from now on.")
    terminal.say(f"Go on:  {target.command(context)} resume {made.scope} {argument(made.name)}")


def resume(
    context: typer.Context, scope: Scope, name: Name, reason: o.Reason = None, as_json: o.AsJson = False
) -> None:
    """Go on with what was paused."""
    chosen, named = _scope(scope), filters.name_of(name, "NAME")
    was = target.inspector(context).resume(chosen, named, reason=reason)
    terminal.answer(was, as_json=as_json)
    by = f" by {was.by}" if was.by else ""
    terminal.say(f"Resumed {was.scope} {was.name}; it was paused{by} since {stamp(was.since)}.")


def _show_pauses(context: typer.Context, *, as_json: bool) -> None:
    found = target.inspector(context).pauses()
    terminal.answer(found, as_json=as_json, nothing="Nothing is paused.")
    made = terminal.table("WHAT", "NAME", "SINCE", "UNTIL", "BY", "REASON", fold=("NAME", "REASON"))
    for one in found:
        until = stamp(one.until) if one.until else "resumed by hand"
        terminal.row(made, one.scope, one.name, stamp(one.since), until, one.by, one.reason)
    terminal.console().print(made)


def _scope(text: str) -> PauseScope:
    return filters.one_of(PauseScope, text, "SCOPE")


def _ends(for_: str | None, until: str | None) -> datetime | None:
    if for_ is not None and until is not None:
        terminal.usage("give --for or --until, not both", "--until")
    length = filters.duration_of(for_, "--for")
    return filters.time_of(until, "--until") if length is None else datetime.now(UTC) + length


def schedules(context: typer.Context, as_json: o.AsJson = False) -> None:
    """Periodic tasks, their next times and last ticks."""
    found = target.inspector(context).schedules()
    terminal.answer(found, as_json=as_json)
    console = terminal.console()
    console.print(_schedule_table(found, console.width))
    if any(tick.state is None for one in found for tick in one.ticks):
        terminal.say(f"A tick that did not come is marked ×. Send one by hand:  {target.command(context)} tick TYPE")


def _schedule_table(found: tuple[ScheduleView, ...], width: int) -> Table:
    from joblane.cli.queue_tables import paused

    wide, now = width >= WIDE, datetime.now(UTC)
    more = ("TIME ZONE", "OVERLAP", "ON AWS") if wide else ()
    made = terminal.table("TYPE", "NAME", "SCHEDULE", *more, "NEXT", "LAST TICKS", "", fold=("SCHEDULE",))
    for one in found:
        extra = (one.timezone, one.overlap, one.on_aws) if wide else ()
        coming = relative(one.next[0], now) if one.next else None
        terminal.row(made, one.type, one.name, one.text, *extra, coming, _ticks(one.ticks), paused(one.pause))
    return made


def _ticks(ticks: tuple[Tick, ...]) -> Text:
    """The last ticks, newest last: a mark each."""
    from rich.text import Text

    marks = {"completed": ("✓", "green"), "archived": ("✗", "red"), "cancelled": ("–", "dim"), None: ("×", "bold red")}
    text = Text()
    for one in reversed(ticks[:10]):
        text.append(*marks.get(one.state, ("…", "blue")))
    return text


def tick(
    context: typer.Context,
    type_: o.Type,
    schedule: Annotated[str | None, typer.Option(help="Name of the schedule, where the task has several.")] = None,
    reason: o.Reason = None,
    as_json: o.AsJson = False,
) -> None:
    """Send a tick of a periodic task now.

    As its schedule would; also where the stage has it off.
    """
    acted = target.inspector(context).tick(type_, schedule=schedule, reason=reason)
    terminal.answer(acted, as_json=as_json)
    terminal.console().print(terminal.word(f"Sent: {acted.new_id or acted.id}", "none"), soft_wrap=True)
