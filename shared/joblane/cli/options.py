"""Options and arguments that several commands share, and their completions for the shell.

Completions send nothing, and import no handler.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any

import typer

from joblane.inspector.filter import DEFAULT_RATE, MAX_CANARY, MAX_RATE, STATISTICS_BY, PauseScope
from joblane.names import Queue
from joblane.project import Project, ProjectError
from joblane.record.row.states import State


def states() -> list[str]:
    return [*State]


def queues() -> list[str]:
    return [*Queue]


def scopes() -> list[str]:
    """The scopes of a pause."""
    return [*PauseScope]


def groups() -> list[str]:
    """The groups of the statistics."""
    return [*STATISTICS_BY]


def task_types() -> list[str]:
    """The declared types, as written in ``@task("…")`` of each handler; none in a folder of another user."""
    try:
        handlers = Project.here().handlers.glob("*/handler.py")
    except ProjectError:
        return []
    found = (re.search(r"^@task\(\s*[\"']([^\"']+)", path.read_text(encoding="utf-8"), re.M) for path in handlers)
    return sorted(match[1] for match in found if match)


AsJson = Annotated[bool, typer.Option("--json", "--as-json", help="Print one JSON document.")]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Reason, for the audit.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
For = Annotated[
    str | None,
    typer.Option("--for", metavar="DURATION", help="Resume automatically after this time, for example 2h."),
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Resume at this time (ISO 8601).")]
Limit = Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, max=500, help="Show at most N.")]
After = Annotated[
    str | None, typer.Option(metavar="CURSOR", help="Cursor that the previous page printed: show the next page.")
]

Tenant = Annotated[str | None, typer.Option(metavar="TENANT", help="Tasks of this tenant.")]

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the task.")]
IdOrPrefix = Annotated[str, typer.Argument(metavar="ID", help="Id of the task, or the beginning of it.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of tasks.", show_default=False)]
Type = Annotated[str, typer.Argument(metavar="TYPE", help="For example data:export.", autocompletion=task_types)]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        "-t",
        metavar="TYPE",
        help="Task type. You can repeat the option.",
        autocompletion=task_types,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Bulk:
    """How an action on many tasks is carried out."""

    canary: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=MAX_CANARY,
            help="Try N first; continue only if all of them complete. 0: all at once.",
        ),
    ] = 0
    rate: Annotated[int, typer.Option(metavar="N", min=1, max=MAX_RATE, help="Tasks a second.")] = DEFAULT_RATE
    reason: Reason = None
    yes: Yes = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would happen, and do nothing.")] = False
    as_json: AsJson = False

    def first(self, number: int) -> str:
        """A clause of a question about ``number`` tasks."""
        return f", the first {min(self.canary, number)} as a canary" if self.canary else ""


def expanded(command: Callable[..., None], *, without: Collection[str] = ()) -> Callable[..., None]:
    """``command`` with the options of a dataclass in place of each parameter that is annotated with that class.

    ``without``: options that are left out, and have their defaults.
    """
    own = inspect.signature(command, eval_str=True)
    kinds: dict[str, Any] = {
        name: each.annotation for name, each in own.parameters.items() if is_dataclass(each.annotation)
    }
    options = {
        name: {
            option: each
            for option, each in inspect.signature(kind, eval_str=True).parameters.items()
            if option not in without
        }
        for name, kind in kinds.items()
    }

    def run(**given: Any) -> None:
        for name, kind in kinds.items():
            given[name] = kind(**{option: given.pop(option) for option in options[name]})
        command(**given)

    found = (options[name].values() if name in kinds else [each] for name, each in own.parameters.items())
    parameters = [each.replace(kind=each.KEYWORD_ONLY) for some in found for each in some]
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__doc__ = command.__doc__
    return run
