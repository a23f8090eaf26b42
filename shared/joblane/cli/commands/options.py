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

# --- Which tasks; those that can be repeated let through what any of them names ------------------------------------

States = Annotated[
    list[str] | None,
    typer.Option("--state", "-s", metavar="STATE", help="Repeatable.", autocompletion=completion.states),
]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", "-t", metavar="TYPE", help="Repeatable.", autocompletion=completion.task_types),
]
Queues = Annotated[
    list[str] | None,
    typer.Option("--queue", "-q", metavar="QUEUE", help="Repeatable.", autocompletion=completion.queues),
]
Tenant = Annotated[str | None, typer.Option(help="Tasks of this tenant.")]
Tag = Annotated[str | None, typer.Option(help="Tasks with this tag.")]
IdPrefix = Annotated[str | None, typer.Option("--id", metavar="PREFIX", help="What the id begins with.")]
Error = Annotated[str | None, typer.Option(help="Text in the error's type or message.")]
Fingerprint = Annotated[str | None, typer.Option(help="What went wrong, as `joblane dead` names it.")]
Older = Annotated[str | None, typer.Option(metavar="AGE", help="Made longer ago than 10m, 2h, 3d; or before a time.")]
Newer = Annotated[str | None, typer.Option(metavar="AGE", help="Made within 10m, 2h, 3d; or at a time or later.")]
