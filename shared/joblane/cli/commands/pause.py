"""Pauses, and ticks by hand: `pause`, `resume`, `tick`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import filters, options, target, terminal
from joblane.inspector.durations import stamp
from joblane.inspector.filter import PauseScope
from joblane.inspector.shell import argument

if TYPE_CHECKING:
    from joblane.inspector.views import Pause

Scope = Annotated[
    str, typer.Argument(metavar="SCOPE", help="queue, type, tenant or schedule.", autocompletion=options.scopes)
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name; TYPE:NAME for a schedule.")]


def pause(
    context: typer.Context,
    scope: Annotated[
        str | None,
        typer.Argument(metavar="SCOPE", help="queue, type, tenant or schedule.", autocompletion=options.scopes),
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Its name; TYPE:NAME for a schedule.")] = None,
    *,
    reason: options.Reason = None,
    for_: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="Resume automatically after this time, for example 2h."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Resume at this time (ISO 8601).")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Pause a queue, type, tenant or schedule.

    Running tasks continue, and nothing new starts. Tasks wait without spending attempts. Without arguments: list the
    pauses.
    """
    if scope is None:
        _show_pauses(context, as_json=as_json)
        return
    if name is None:
        terminal.usage(f"give the name of the {scope}", "NAME")
    chosen, named, ends = _scope(scope), filters.name_of(name, "NAME"), _ends(for_, until)
    paused = target.inspector(context).pause(chosen, named, reason=reason, until=ends)
    terminal.answer(paused, as_json=as_json)
    for line in paused_lines(paused):
        terminal.say(line)
    terminal.say(f"Resume:  {target.command(context)} resume {paused.scope} {argument(paused.name)}")


def resume(
    context: typer.Context, scope: Scope, name: Name, reason: options.Reason = None, as_json: options.AsJson = False
) -> None:
    """End a pause."""
    chosen, named = _scope(scope), filters.name_of(name, "NAME")
    was = target.inspector(context).resume(chosen, named, reason=reason)
    terminal.answer(was, as_json=as_json)
    terminal.say(resumed_line(was))


def paused_lines(paused: Pause) -> list[str]:
    """Sentences about a new pause: its end, its effect, and the pause that it replaces."""
    end = f"until {stamp(paused.until)}" if paused.until else "until it is resumed"
    lines = [f"Paused {paused.scope} {paused.name} {end}: {effect_of(paused.scope)}."]
    if paused.replaced:
        by = f" by {paused.replaced_by}" if paused.replaced_by else ""
        lines.append(
            f"It was already paused{by}, since {stamp(paused.since)}; your reason and end replace the earlier ones."
        )
    return lines


def effect_of(scope: PauseScope) -> str:
    """Say what continues during a pause, and what waits."""
    if scope is PauseScope.SCHEDULE:
        return "its ticks run nothing"
    return "running tasks continue, nothing new starts. Tasks wait without spending attempts"


def resumed_line(was: Pause) -> str:
    """A sentence about a pause that was ended."""
    by = f" by {was.by}" if was.by else ""
    return f"Resumed {was.scope} {was.name}; it was paused{by} since {stamp(was.since)}."


def _show_pauses(context: typer.Context, *, as_json: bool) -> None:
    found = target.inspector(context).pauses()
    terminal.answer(found, as_json=as_json, nothing="Nothing is paused.")
    rows = [
        {
            "SCOPE": pause.scope,
            "NAME": pause.name,
            "SINCE": stamp(pause.since),
            "UNTIL": stamp(pause.until) if pause.until else "until resumed",
            "BY": pause.by,
            "REASON": pause.reason,
        }
        for pause in found
    ]
    terminal.console().print(terminal.filled(rows, fold=("NAME", "REASON")))


def _scope(text: str) -> PauseScope:
    return filters.one_of(PauseScope, text, "SCOPE")


def _ends(for_: str | None, until: str | None) -> datetime | None:
    if for_ is not None and until is not None:
        terminal.usage("give --for or --until, not both", "--until")
    length = filters.duration_of(for_, "--for")
    return filters.time_of(until, "--until") if length is None else datetime.now(UTC) + length


def tick(
    context: typer.Context,
    type_: options.Type,
    schedule: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the schedule, if the task has several.")
    ] = None,
    reason: options.Reason = None,
    as_json: options.AsJson = False,
) -> None:
    """Send a tick of a periodic task now.

    This also works if the schedule is off in the stage.
    """
    acted = target.inspector(context).tick(type_, schedule=schedule, reason=reason)
    terminal.answer(acted, as_json=as_json)
    terminal.console().print(terminal.word(f"Sent: {acted.new_id or acted.id}", "none"), soft_wrap=True)
