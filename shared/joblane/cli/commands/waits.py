"""Tasks that wait: `waits`, `signal` and `skip`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import options, queries, target, terminal
from joblane.inspector.sentences.actions import note_of, result_of

if TYPE_CHECKING:
    from joblane.inspector.views import ActionResult


def waits(
    context: typer.Context,
    *,
    type_: Annotated[
        str | None,
        typer.Option("--type", "-t", metavar="TYPE", help="Task type.", autocompletion=options.task_types),
    ] = None,
    tenant: options.Tenant = None,
    signal: Annotated[str | None, typer.Option(metavar="NAME", help="Waits for this signal.")] = None,
    limit: options.Limit = 20,
    after: options.After = None,
    as_json: options.AsJson = False,
) -> None:
    """List the open waits of tasks, by their end."""
    queries.show(context, "waits", as_json=as_json, type=type_, tenant=tenant, signal=signal, after=after, limit=limit)


def signal(
    context: typer.Context,
    id_: options.Id,
    name: Annotated[str, typer.Argument(metavar="SIGNAL", help="Name of the signal.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="Value as JSON.")] = "null",
    *,
    replace: Annotated[
        bool, typer.Option("--replace", help="Correct a signal that came before, and reopen a wait that has expired.")
    ] = False,
    reason: options.Reason = None,
    as_json: options.AsJson = False,
) -> None:
    """Send a signal to a task, which continues if it waits for it.

    With --replace, for a task that is not active. Retry an archived task afterwards.
    """
    try:
        given = json.loads(value)
    except (ValueError, RecursionError) as error:
        terminal.usage(f"VALUE is not JSON: {error}. Quote a string twice: '\"yes\"'")
    _report(target.inspector(context).signal(id_, name, given, replace=replace, reason=reason), as_json=as_json)


def skip(
    context: typer.Context, id_: options.Id, reason: options.Reason = None, as_json: options.AsJson = False
) -> None:
    """End the open wait of a task now.

    A sleep ends, a wait for a signal expires, and a poll calls its function for the last time.
    """
    _report(target.inspector(context).skip(id_, reason=reason), as_json=as_json)


def _report(acted: ActionResult, *, as_json: bool) -> None:
    terminal.answer(acted, as_json=as_json)
    is_kept = acted.before == acted.after
    text = acted.note or "" if is_kept else f"{acted.id} {result_of(acted)}"
    terminal.console().print(terminal.word(text, "none"), soft_wrap=True)
    if acted.note and not is_kept:
        terminal.say(note_of(acted))
