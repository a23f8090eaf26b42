"""Pauses of queues, types and tenants: `pause`, `resume`."""

from __future__ import annotations

from typing import Annotated

import typer

from joblane.cli import filters, options, queries, target, terminal
from joblane.inspector.filter import PauseScope
from joblane.inspector.sentences.pauses import paused_line, resumed_line
from joblane.inspector.shell import argument

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
        queries.show(context, "pauses", as_json=as_json)
        return
    if name is None:
        terminal.usage(f"give the name of the {scope}", "NAME")
    chosen, named, ends = _scope(scope), filters.name_of(name, "NAME"), filters.end_of(for_, until)
    paused = target.inspector(context).pause(chosen, named, reason=reason, until=ends)
    terminal.answer(paused, as_json=as_json)
    terminal.say(paused_line(paused))
    terminal.say(f"Resume:  {target.command(context)} resume {paused.scope} {argument(paused.name)}")


def resume(
    context: typer.Context, scope: Scope, name: Name, reason: options.Reason = None, as_json: options.AsJson = False
) -> None:
    """End a pause."""
    chosen, named = _scope(scope), filters.name_of(name, "NAME")
    was = target.inspector(context).resume(chosen, named, reason=reason)
    terminal.answer(was, as_json=as_json)
    terminal.say(resumed_line(was))


def _scope(text: str) -> PauseScope:
    if text == "schedule":
        terminal.usage("use `joblane schedules pause NAME`, and `joblane schedules resume NAME`", "SCOPE")
    return filters.one_of(PauseScope, text, "SCOPE")
