"""`watch`: a live view of the stage."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from joblane.cli import target, terminal
from joblane.cli.exits import Exit


def watch(
    context: typer.Context,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.5, max=60, help="Time between updates.")] = 2.0,
    minutes: Annotated[
        int, typer.Option(metavar="N", min=1, max=240, help="Chart runs, and list failures, of the last N minutes.")
    ] = 30,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse every action.")] = False,
    once: Annotated[
        bool,
        typer.Option("--once", help="Print a single frame and end. A pipe or a dumb terminal always gets one frame."),
    ] = False,
) -> None:
    """Watch a stage in the terminal, and act on it.

    Lists queues, tasks, failures, dead letters, types and schedules. Pauses, retries and redrives. ? shows the keys. q
    or Ctrl-C ends it.
    """
    inspector, console = target.inspector(context), terminal.console()
    # under FORCE_COLOR, Rich takes a pipe for a terminal
    is_live = sys.stdin.isatty() and sys.stdout.isatty() and not console.is_dumb_terminal and not once
    if is_live and not terminal.has_utf_8(sys.stdout):
        terminal.say("The live view needs a terminal with UTF-8, such as LC_ALL=C.UTF-8 sets. This is one frame.")
        is_live = False
    if not is_live:
        from joblane.cli.watch.lists import frame
        from joblane.inspector.sentences.stage import unknown_lines

        overview, drawn = frame(inspector, console.width, minutes)
        console.print(drawn)
        for line in unknown_lines(overview):
            terminal.say(line)
        return
    from joblane.cli.watch.app import Watch

    stage = target.of(context).stage
    app = Watch(
        inspector,
        every=every,
        minutes=minutes,
        stage=stage or "local",
        command=target.command(context),
        source="the control API" if stage else "the database",
        read_only="`joblane watch` was started with --read-only." if read_only else None,
    )
    app.run(mouse=False)
    if app.return_code == Exit.FAILED:
        raise app.failure or RuntimeError("a widget of `joblane watch` has failed")
    raise typer.Exit(app.return_code or 0)
