"""`watch`: what happens now, until q or Ctrl-C."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from joblane.cli import target, terminal


def watch(
    context: typer.Context,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.5, max=60, help="Look again so often.")] = 2.0,
    minutes: Annotated[int, typer.Option(min=1, max=240, help="So far back the figures look.")] = 30,
    once: Annotated[
        bool,
        typer.Option("--once", help="One frame; a pipe or a dumb terminal gets no other."),
    ] = False,
) -> None:
    """What happens now: queues, running tasks, newest failures. q or Ctrl-C ends it."""
    from joblane.cli import watch as live
    from joblane.cli.queue_tables import unknown_lines

    inspector, console = target.inspector(context), terminal.console()
    if once or not sys.stdout.isatty() or console.is_dumb_terminal:  # FORCE_COLOR makes no terminal of a pipe
        seen = live.look(inspector, minutes)
        console.print(live.frame(seen, console.width, None))
        for line in unknown_lines(seen.overview):
            terminal.say(line)
    else:
        live.run(inspector, console, every, minutes)
