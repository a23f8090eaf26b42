"""`move` writes the handlers of an application that uses another library."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from joblane.cli import options, terminal
from joblane.cli.usage import Group
from joblane.inspector.sentences.counts import plural
from joblane.project import Project

group = typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode=None)


@group.command("celery")
def celery(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder or file with the application's code.")],
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="NAME=TYPE", help="Celery's name of a task, and its type. Repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write no file.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a handler for each task of a Celery application, and report what has no equivalent.

    Reads the code of PATH and imports none of it. Changes no file of it. The handlers call its functions.
    """
    from joblane.cli.moving.move import plan, write

    given = dict(each.partition("=")[::2] for each in types or ())
    if unnamed := [name for name, type_ in given.items() if not type_]:
        terminal.usage(f"{unnamed[0]!r}: NAME=TYPE is required, for example shop.tasks.send=mail:send", "--type")
    project = Project.here()
    move = plan(project, path, given)
    typer.echo(
        json.dumps(move.as_json(), indent=2) if as_json else terminal.clean(move.as_markdown(), lines=True),
        file=sys.stdout,
    )
    if dry_run:
        terminal.say("\nNothing was written: without --dry-run this writes the handlers.")
        return
    write(move)
    terminal.say(
        f"\nWrote {plural(len(move.files), 'handler')}, which import the application. So its folder belongs to `code` "
        "under [tool.joblane], and Celery to the packages of the functions, until the functions have moved.\n"
        "Next:\n"
        "  joblane schema  # imports all handlers\n"
        "  joblane dev     # runs them on this machine\n"
        "Then rewrite by hand what the report lists: docs/moving/celery.md"
    )
