"""Pauses of queues, types and tenants: `pause`, `resume`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import filters, options, target, terminal
from joblane.inspector.durations import stamp
from joblane.inspector.filter import PauseScope
from joblane.inspector.shell import argument

if TYPE_CHECKING:
    from joblane.inspector.views import Pause

EFFECT = "running tasks continue, nothing new starts. Tasks wait without spending attempts"

Scope = Annotated[str, typer.Argument(metavar="SCOPE", help="queue, type or tenant.", autocompletion=options.scopes)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name.")]


def pause(
    context: typer.Context,
    scope: Annotated[
        str | None,
        typer.Argument(metavar="SCOPE", help="queue, type or tenant.", autocompletion=options.scopes),
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Its name.")] = None,
    *,
    reason: options.Reason = None,
    for_: options.For = None,
    until: options.Until = None,
    as_json: options.AsJson = False,
) -> None:
    """Pause a queue, type or tenant. For a schedule: `joblane schedules pause`.

    Running tasks continue, and nothing new starts. Tasks wait without spending attempts. Without arguments: list the
    pauses.
    """
    if scope is None:
        _show_pauses(context, as_json=as_json)
        return
    if name is None:
        terminal.usage(f"give the name of the {scope}", "NAME")
    chosen, named, ends = _scope(scope), filters.name_of(name, "NAME"), filters.end_of(for_, until)
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
    lines = [f"Paused {paused.scope} {paused.name} {end}: {EFFECT}."]
    if paused.replaced:
        by = f" by {paused.replaced_by}" if paused.replaced_by else ""
        lines.append(
            f"It was already paused{by}, since {stamp(paused.since)}; your reason and end replace the earlier ones."
        )
    return lines


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
    if text == "schedule":
        terminal.usage("use `joblane schedules pause NAME`, and `joblane schedules resume NAME`", "SCOPE")
    return filters.one_of(PauseScope, text, "SCOPE")
