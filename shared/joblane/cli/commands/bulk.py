"""`bulk`: list, show and stop bulk actions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from joblane.cli import target, terminal
from joblane.cli.commands import options as o
from joblane.cli.durations import relative
from joblane.cli.follow import follow, report
from joblane.cli.terminal import NARROW, WIDE

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
BulkId = Annotated[str, typer.Argument(metavar="ID", help="Id of the bulk action.")]


@group.command("ls")
def ls(context: typer.Context, limit: o.Limit = 20, as_json: o.AsJson = False) -> None:
    """List bulk actions, newest first."""
    found = target.inspector(context).bulks(limit=limit)
    terminal.answer(found, as_json=as_json, nothing="There are no bulk actions yet.")
    console = terminal.console()
    why = ("WHY",) if console.width >= WIDE and any(bulk.stopped for bulk in found) else ()
    more = ("SKIPPED", "STARTED", "WHO") if console.width >= NARROW else ()
    made = terminal.table("ID", "ACTION", "STATE", "CHANGED", "OF", "FAILED", *more, *why, fold=("ID", "WHO", *why))
    for bulk in found:
        cells = (bulk.id, bulk.action, bulk.shown_state, bulk.done, bulk.total, bulk.failed)
        rest = (bulk.skipped, relative(bulk.started_at, datetime.now(UTC)), bulk.who) if more else ()
        terminal.row(made, *cells, *rest, *((bulk.stopped or "",) if why else ()))
    console.print(made)


@group.command("show")
def show(
    context: typer.Context,
    id_: BulkId,
    follow_it: Annotated[bool, typer.Option("--follow", "-f", help="Follow it to its end.")] = False,
    as_json: o.AsJson = False,
) -> None:
    """Show a bulk action."""
    inspector = target.inspector(context)
    view = inspector.bulk_view(id_)
    if follow_it:
        raise typer.Exit(follow(inspector, view, target.command(context), as_json=as_json, just_started=False))
    terminal.answer(view, as_json=as_json)
    terminal.console().print(terminal.word(f"{report(view).rstrip('.')}. It is {view.shown_state}.", "none"))


@group.command("abort")
def abort(context: typer.Context, id_: BulkId, reason: o.Reason = None, as_json: o.AsJson = False) -> None:
    """Stop a bulk action.

    Tasks that it has changed stay changed.
    """
    view = target.inspector(context).abort(id_, reason=reason)
    terminal.answer(view, as_json=as_json)
    terminal.console().print(terminal.word(report(view), "none"))
