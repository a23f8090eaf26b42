"""Commands that list the rows of an operation: their output, and those commands that are generated."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import joblane.inspector
from joblane.cli import lists, options, target, terminal
from joblane.cli.usage import Command
from joblane.inspector.listing import SHOWN_IN_THEIR_OWN_WAY

if TYPE_CHECKING:
    from joblane.inspector.queries import Parameter, Query

OPERATION = re.compile(r"@needs\(VIEW\)\n    def (\w+)\(")
SOURCE = Path(joblane.inspector.__path__[0], "inspector.py")


def show(context: typer.Context, operation: str, *arguments: Any, as_json: bool, **given: Any) -> Sequence[Any]:
    """Call an operation of the inspector, and print its rows. Without rows, or as JSON, this ends the command."""
    answer = getattr(target.inspector(context), operation)(*arguments, **given)
    from joblane.inspector.queries import query

    found = query(operation)
    assert found is not None
    rows, after = found.rows(answer), getattr(answer, "after", None)
    if as_json:
        terminal.document(answer)
        raise typer.Exit
    if rows:
        lists.show(rows)
    elif after is None:
        terminal.say(found.listing.empty)
    if after is not None:
        more = "There is more." if rows else "Nothing found so far."
        terminal.say(f"{more} For the next page, add --after {shlex.quote(str(after))}")
    if not rows:
        raise typer.Exit
    return rows


def new() -> list[Any]:
    """Return a command for each query that has none. Without such a query, this imports no inspector."""
    known = "joblane.inspector.inspector" in sys.modules
    if not known and SHOWN_IN_THEIR_OWN_WAY.issuperset(OPERATION.findall(SOURCE.read_text(encoding="utf-8"))):
        return []
    from joblane.inspector import queries

    made = []
    for found in queries.new():
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(found.title, cls=Command, rich_help_panel="Inspect")(_function(found))
        made.append(typer.main.get_command(app))
    return made


def _function(found: Query) -> Callable[..., None]:
    """The function of a command: arguments and options from the parameters of a query, help from its docstring."""

    def run(context: typer.Context, as_json: bool, **given: Any) -> None:
        values = {name: [value] if isinstance(value, str) else value or () for name, value in given.items()}
        values |= {name: ["yes"] for name, value in given.items() if value is True}
        show(context, found.name, as_json=as_json, **found.arguments(values))

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("context", kind, annotation=typer.Context)]
    parameters += [
        inspect.Parameter(one.name, kind, annotation=_annotation(one), default=_default(one))
        for one in found.parameters
    ]
    parameters.append(inspect.Parameter("as_json", kind, annotation=options.AsJson, default=False))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__doc__ = found.doc
    return run


def _default(one: Parameter) -> Any:
    return inspect.Parameter.empty if one.is_required else False if one.kind is bool else None


def _annotation(one: Parameter) -> Any:
    name, option = one.name.upper(), f"--{one.name.replace('_', '-')}"
    if one.is_required:
        return Annotated[str, typer.Argument(metavar=name, help=one.help)]
    if one.kind is bool:
        return Annotated[bool, typer.Option(option, help=one.help)]
    kind = list[str] | None if one.is_repeated else str | None
    return Annotated[kind, typer.Option(option, metavar=name, help=one.help, show_default=False)]
