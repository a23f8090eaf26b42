"""Following what goes on by itself: a bar on the error output while a bulk action is under way, and its report."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from joblane.cli import terminal
from joblane.cli.exits import Exit
from joblane.cli.terminal import plural
from joblane.inspector.shell import argument
from joblane.record.states import ENDED

if TYPE_CHECKING:
    from rich.progress import Progress

    from joblane.inspector.inspector import Inspector
    from joblane.inspector.views import BulkView

LOOK_AGAIN_SECONDS = 0.5


def bar() -> Progress:
    """A bar that vanishes at its end; nothing where the error output is no terminal."""
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


def follow(inspector: Inspector, started: BulkView, command: str, *, as_json: bool = False, begun: bool = True) -> Exit:
    """Follow a bulk action to its end and report. Ctrl-C stops following, not the action; nor does an error.

    ``command``: `joblane`, with the options that lead to this stage. ``begun``: it was started for this, just now.
    """
    view, id_ = started, argument(started.id)
    if begun:
        terminal.say(f"Bulk action {view.id} has begun.")
    try:
        with bar() as progress:
            line = progress.add_task(view.action, total=view.total)
            while view.state not in ENDED:
                done = view.done + view.skipped + view.failed
                progress.update(line, total=max(view.total, done), completed=done, description=_description(view))
                time.sleep(LOOK_AGAIN_SECONDS)
                view = inspector.bulk_view(view.id)
    except KeyboardInterrupt:
        terminal.say(f"\nNo longer following; the action goes on by itself.\nSee it:   {command} bulk show {id_}")
        if view.stopped is None:
            terminal.say(f"Stop it:  {command} bulk abort {id_}")
        raise typer.Exit(Exit.INTERRUPTED) from None
    except Exception:  # whatever it is, the action does not depend on who looks on
        terminal.say(f"Bulk action {view.id} goes on by itself.  See it:  {command} bulk show {id_}")
        raise
    if as_json:
        terminal.document(view)
    else:
        terminal.console().print(terminal.word(report(view), "none"))
    return Exit.DONE if view.state == "completed" and not view.failed and view.stopped is None else Exit.FAILED


def _description(view: BulkView) -> str:
    if view.stopped:
        return f"{view.action}: {view.standing}"
    if view.canary and view.done + view.skipped + view.failed < view.canary:
        return f"{view.action}: the first {view.canary}"
    return view.action


def report(view: BulkView) -> str:
    """How a bulk action stands, as a sentence."""
    parts = [f"{view.done:,} done", f"{view.skipped:,} skipped" if view.skipped else ""]
    parts += [f"{view.failed:,} failed {'again' if view.action == 'redrive' else ''}".strip() if view.failed else ""]
    text = f"{view.action}: {', '.join(part for part in parts if part)} of {plural(view.total)}."
    if view.skipped:
        text += " Skipped are those that were changed meanwhile."
    how = "Stopping" if view.standing == "stopping" else "Stopped"
    return f"{text} {how}: {view.stopped}" if view.stopped else text
