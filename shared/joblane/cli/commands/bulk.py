"""Bulk actions, which go on by themselves: see how they stand, stop one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from joblane.cli import filters as asking
from joblane.cli import terminal as screen
from joblane.cli.commands import options as o
from joblane.cli.terminal import NARROW, WIDE

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
BulkId = Annotated[str, typer.Argument(metavar="ID", help="Id of the bulk action.")]


@group.command("ls")
def ls(context: typer.Context, limit: o.Limit = 20, as_json: o.AsJson = False) -> None:
    """Bulk actions, newest first."""
    from joblane.cli.durations import relative
    from joblane.inspector.views import BulkView

    found = asking.inspector(context).bulks(limit=limit)
    if as_json:
        screen.document(found, tuple[BulkView, ...])
        return
    if not found:
        screen.say("There was no bulk action yet.")
        return
    console = screen.console()
    why = ("WHY",) if console.width >= WIDE and any(one.stopped for one in found) else ()
    more = ("SKIPPED", "STARTED", "WHO") if console.width >= NARROW else ()
    made = screen.table("ID", "ACTION", "STATE", "DONE", "OF", "FAILED", *more, *why, fold=("ID", "WHO", *why))
    for one in found:
        cells = (one.id, one.action, one.standing, one.done, one.total, one.failed)
        rest = (one.skipped, relative(one.started_at, datetime.now(UTC)), one.who) if more else ()
        screen.row(made, *cells, *rest, *((one.stopped or "",) if why else ()))
    console.print(made)


@group.command("show")
def show(
    context: typer.Context,
    id_: BulkId,
    follow_it: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it has ended.")] = False,
    as_json: o.AsJson = False,
) -> None:
    """How one bulk action stands."""
    from joblane.cli.follow import follow, report
    from joblane.inspector.views import BulkView

    inspector = asking.inspector(context)
    view = inspector.bulk_view(id_)
    if follow_it:
        raise typer.Exit(follow(inspector, view, asking.here(context), as_json=as_json, begun=False))
    if as_json:
        screen.document(view, BulkView)
    else:
        screen.console().print(screen.word(f"{report(view).rstrip('.')}. It is {view.standing}.", "none"))


@group.command("abort")
def abort(context: typer.Context, id_: BulkId, reason: o.Reason = None, as_json: o.AsJson = False) -> None:
    """Stop a bulk action; what is done stays done."""
    from joblane.cli.follow import report
    from joblane.inspector.views import BulkView

    view = asking.inspector(context).abort(id_, reason=reason)
    if as_json:
        screen.document(view, BulkView)
    else:
        screen.console().print(screen.word(report(view), "none"))
