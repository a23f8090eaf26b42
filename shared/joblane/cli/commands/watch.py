"""`watch`: a live view of the stage."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from joblane.cli import target, terminal


def watch(
    context: typer.Context,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.5, max=60, help="Time between updates.")] = 2.0,
    minutes: Annotated[int, typer.Option(metavar="N", min=1, max=240, help="Count runs of the last N minutes.")] = 30,
    once: Annotated[
        bool,
        typer.Option("--once", help="Print a single frame and end. A pipe or a dumb terminal always gets one frame."),
    ] = False,
) -> None:
    """Watch queues, running tasks and latest failures.

    q or Ctrl-C ends it.
    """
    from joblane.cli import watch as live
    from joblane.cli.queue_tables import unknown_lines

    inspector, console = target.inspector(context), terminal.console()
    if (
        once or not sys.stdout.isatty() or console.is_dumb_terminal
    ):  # under FORCE_COLOR, Rich takes a pipe for a terminal
        snapshot = live.take_snapshot(inspector, minutes)
        console.print(live.frame(snapshot, console.width, None))
        for line in unknown_lines(snapshot.overview):
            terminal.say(line)
    else:
        live.run(inspector, console, every, minutes)
