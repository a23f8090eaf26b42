"""Following a bulk action: a progress bar on the error output, and the report at its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from joblane.cli import terminal
from joblane.cli.exits import Exit
from joblane.inspector.filter import PauseScope
from joblane.inspector.sentences.actions import report
from joblane.inspector.sentences.blocks import canary_waits_line
from joblane.inspector.sentences.pauses import pause_line
from joblane.inspector.shell import argument
from joblane.names import BULK
from joblane.record.row.states import ENDED

if TYPE_CHECKING:
    from rich.progress import Progress

    from joblane.inspector.inspector import Inspector
    from joblane.inspector.views import BulkView

POLL_SECONDS = 0.5


def bar() -> Progress:
    """A progress bar that is removed at its end; nothing if the error output is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = terminal.messages()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def follow(
    inspector: Inspector, started: BulkView, command: str, *, as_json: bool = False, just_started: bool = True
) -> Exit:
    """Follow a bulk action to its end, and print its report. Neither Ctrl-C nor an error here stops the action.

    ``command``: `joblane`, with the options for this stage. ``just_started``: this command has just started the action.
    """
    view, id_ = started, argument(started.id)
    if just_started:
        terminal.say(f"Started bulk action {view.id}.")
        for pause in inspector.pauses():
            if (pause.scope, pause.name) == (PauseScope.TYPE, BULK):
                terminal.say(f"It waits: {pause_line(pause)}.\nResume:  {command} resume type {BULK}")
    try:
        with bar() as progress:
            line, said = progress.add_task(view.action, total=view.total), None
            while view.state not in ENDED:
                if (waits := canary_waits_line(view)) != said and waits is not None:
                    terminal.say(waits.replace("`joblane ", f"`{command} "))
                said = waits
                done = view.done + view.skipped + view.failed
                progress.update(line, total=max(view.total, done), completed=done, description=_description(view))
                time.sleep(POLL_SECONDS)
                view = inspector.bulk_view(view.id)
    except KeyboardInterrupt:
        terminal.say(f"\nNo longer following; the action continues.\nShow it:  {command} bulk show {id_}")
        if view.stopped is None:
            terminal.say(f"Stop it:  {command} bulk abort {id_}")
        raise typer.Exit(Exit.INTERRUPTED) from None
    except Exception:  # the action does not depend on this process
        terminal.say(f"Bulk action {view.id} continues.  Show it:  {command} bulk show {id_}")
        raise
    if as_json:
        terminal.document(view)
    else:
        terminal.console().print(terminal.word(report(view), "none"))
    return Exit.DONE if view.state == "completed" and not view.failed and view.stopped is None else Exit.FAILED


def _description(view: BulkView) -> str:
    if view.stopped:
        return f"{view.action}: {view.shown_state}"
    if view.canary and view.done + view.skipped + view.failed < view.canary:
        return f"{view.action}: canary of {view.canary}"
    return view.action
