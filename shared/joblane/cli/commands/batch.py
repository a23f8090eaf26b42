"""`batch`: list batches, show one, run its archived members again, and seal it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import lists, options, previews, queries, target, terminal
from joblane.cli.exits import Exit
from joblane.cli.follow import follow
from joblane.cli.usage import Group
from joblane.inspector.durations import stamp
from joblane.inspector.sentences.counts import counted, plural
from joblane.inspector.shell import argument
from joblane.record.row.states import State

if TYPE_CHECKING:
    from joblane.inspector.views import BatchRow, BatchView

group = typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode=None)
BatchId = Annotated[str, typer.Argument(metavar="ID", help="Id of the batch.")]


@group.command("ls")
def ls(context: typer.Context, limit: options.Limit = 20, as_json: options.AsJson = False) -> None:
    """List batches, newest first."""
    queries.show(context, "batches", as_json=as_json, limit=limit)


@group.command("show")
def show(context: typer.Context, id_: BatchId, as_json: options.AsJson = False) -> None:
    """Show a batch: its members by state, its callbacks, and its archived members."""
    view = target.inspector(context).batch(id_)
    terminal.answer(view, as_json=as_json)
    _show(view, target.command(context))


@group.command("retry")
@options.expanded
def retry(context: typer.Context, id_: BatchId, *, how: options.Bulk) -> None:
    """Run the archived members of a batch again.

    Its on_success callback runs once all members have completed.
    """
    from joblane.inspector.views import archived_members

    inspector = target.inspector(context)
    inspector.batch(id_)  # an unknown batch is an error of its own
    chosen = archived_members(id_)
    found, command = inspector.preview("redrive", chosen, canary=how.canary), target.command(context)
    if not found.number:
        terminal.stop(f"no member of the batch {id_!r} is archived", Exit.NOTHING)
    tasks = counted(found)
    if how.dry_run:
        previews.dry_run(found, f"{tasks} would be redriven.", how, command)
    previews.ask(found, f"Redrive {tasks} of batch {id_}{how.first(found.number)}?", how, command, yes=how.yes)
    started = inspector.redrive(chosen, canary=how.canary, rate=how.rate, reason=how.reason)
    raise typer.Exit(follow(inspector, started, command, as_json=how.as_json))


@group.command("seal")
def seal(context: typer.Context, id_: BatchId, reason: options.Reason = None, as_json: options.AsJson = False) -> None:
    """Seal a batch whose creator cannot do it any more.

    From then on only its running members add members, and its callbacks run once its members have ended.
    """
    view = target.inspector(context).seal_batch(id_, reason=reason)
    terminal.answer(view, as_json=as_json)
    _show(view, target.command(context))


# --- Words ---------------------------------------------------------------------------------------------------------


def _show(view: BatchView, command: str) -> None:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    from joblane.cli.task_tables import BAR_WIDTH

    console, now = terminal.console(), datetime.now(UTC)
    line = Table.grid(padding=(0, 1))
    least = "" if view.exact else "at least "
    members = f"{view.ended:,} of {least}{plural(view.number, 'member')} ended"
    bar = ProgressBar(total=view.number or 1, completed=view.ended, width=BAR_WIDTH)
    line.add_row(terminal.word(view.row.id, "bold"), bar)
    console.print(line)
    console.print(terminal.word(f"{members}. {_sealed(view.row, now)}", "none"))
    console.print(terminal.facts((state, f"{number:,}") for state in State if (number := view.members.get(state))))
    callbacks = [(name, one) for name, one in (("on_end", view.row.on_end), ("on_success", view.row.on_success)) if one]
    if callbacks:
        console.print()
        console.print(
            terminal.facts((name, f"{one.id}  {one.type or ''}  {one.shown_state}") for name, one in callbacks)
        )
    id_ = argument(view.row.id)
    steps = [(f"{command} ls --tag {argument(f'batch:{view.row.id}')}", "its members")]
    if view.dead:
        console.print()
        console.print(terminal.word("Archived members", "bold"))
        lists.show(view.dead)
        steps.append((f"{command} batch retry {id_}", "run the archived members again"))
    if view.row.sealed_at is None:
        steps.append((f"{command} batch seal {id_}", "if its creator cannot seal it any more"))
    console.print()
    terminal.steps(console, steps)


def _sealed(row: BatchRow, now: datetime) -> str:
    if row.sealed_at is None:
        return "It is not sealed: its callbacks wait until its creator seals it."
    return f"Sealed at {stamp(row.sealed_at)} ({terminal.relative(row.sealed_at, now)})."
