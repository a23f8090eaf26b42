"""The preview of an action on many tasks: its causes and what will keep its tasks from starting, then the question."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from joblane.cli import terminal
from joblane.cli.exits import Exit
from joblane.inspector.sentences.blocks import block_line, canary_stopped_line, cure_of
from joblane.inspector.sentences.counts import first_of, plural

if TYPE_CHECKING:
    from joblane.cli.options import Bulk
    from joblane.inspector.views import Preview

SHOWN = 10
"""Causes that are printed: the largest."""


def show(found: Preview, command: str) -> None:
    """Print the causes of an action's tasks, and what will keep them from starting, each with the command that helps.

    ``command``: `joblane`, with the options for this stage.
    """
    named = [cause for cause in found.causes if cause.error]
    if named:
        width = len(f"{named[0].number:,}")
        for cause in named[:SHOWN]:
            where = f"  [{cause.fingerprint}]" if cause.fingerprint else ""
            terminal.say(f"  {cause.number:>{width},}  {cause.type or 'unreadable'}: {cause.error}{where}")
        if (more := found.number_of_causes - len(named[:SHOWN])) > 0:
            terminal.say(f"  and {plural(more, 'more cause')}")
    for block in found.blocks:
        cure = cure_of(block)
        terminal.say(block_line(block) + (f"\n  {command} {cure}" if cure else ""))


def ask(found: Preview, question: str, how: Bulk, command: str, *, yes: bool) -> None:
    """Show the preview and ask. Ends the command if its canary cannot run, or if the answer is no."""
    if not how.as_json or not yes:
        show(found, command)
    if found.canary_stopped:
        terminal.usage(canary_stopped_line(found.canary_stopped).replace("`joblane ", f"`{command} "), "--canary")
    terminal.confirm(question, yes=yes)


def dry_run(found: Preview, text: str, how: Bulk, command: str) -> None:
    """End the command with the preview, as a document or in words."""
    if how.as_json:
        terminal.document(found)
        raise typer.Exit
    terminal.console().print(terminal.word(text, "none"))
    show(found, command)
    if found.canary_stopped:
        terminal.say(f"The canary would be refused: {canary_stopped_line(found.canary_stopped)}.")
    raise typer.Exit


def several_causes(found: Preview) -> None:
    """End the command: a script has to name the causes, or accept all of them."""
    types = first_of(list(dict.fromkeys(cause.type or "unreadable" for cause in found.causes)))
    terminal.stop(
        f"these are {plural(found.number_of_causes, 'cause')}, of {types}: give a fingerprint, or --all-causes",
        Exit.USAGE,
    )
