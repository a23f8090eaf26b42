"""Options and arguments that several commands have, each said once."""

from __future__ import annotations

from typing import Annotated

import typer

from joblane.cli import completion

AsJson = Annotated[bool, typer.Option("--json", "--as-json", help="One JSON document, for programs.")]
Reason = Annotated[str | None, typer.Option(help="Why, for the audit.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count what would be touched, and do nothing.")]
Rate = Annotated[int, typer.Option(min=1, max=500, help="Tasks a second.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="So many at the most.")]

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the task.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of tasks.", show_default=False)]
Type = Annotated[
    str, typer.Argument(metavar="TYPE", help="For example data:export.", autocompletion=completion.task_types)
]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", "-t", metavar="TYPE", help="Repeatable.", autocompletion=completion.task_types),
]
