"""Actions on tasks, by ids or by a filter: `run`, `retry`, `archive`, `delete`, `cancel`; and `bulk`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import filters, options, previews, queries, target, terminal
from joblane.cli.exits import Exit, exit_of, message_of
from joblane.cli.follow import follow
from joblane.cli.usage import Group
from joblane.inspector.durations import stamp
from joblane.inspector.filter import BulkAction
from joblane.inspector.sentences.actions import note_of, report, result_of
from joblane.inspector.sentences.blocks import canary_waits_line
from joblane.inspector.sentences.counts import counted
from joblane.inspector.sentences.filters import described

if TYPE_CHECKING:
    from joblane.inspector.inspector import Inspector
    from joblane.inspector.views import ActionResult
group = typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode=None)
BulkId = Annotated[str, typer.Argument(metavar="ID", help="Id of the bulk action.")]
HELP = {
    "run": "Run waiting tasks now.",
    "retry": "Run archived or cancelled tasks again, with new attempts.",
    "archive": "Archive waiting tasks, as if their attempts were used up.",
    "delete": "Clear the content of tasks that are not running.\n\nWaiting tasks are cancelled. Ids are kept.",
    "cancel": "Cancel waiting tasks; ask running tasks to stop.",
}


def command(action: str) -> Callable[..., None]:
    """The command of an action: on ids, or on the tasks that the options choose."""

    def act(
        context: typer.Context, ids: options.Ids = None, *, which: filters.FilterOptions, how: options.Bulk
    ) -> None:
        unfiltered = which == filters.FilterOptions()
        if not ids and unfiltered:
            terminal.usage(f"give ids, or options that choose tasks; `joblane {action} --help` lists them")
        chosen = which.filter(ids or ())
        inspector, name = target.inspector(context), target.command(context)
        if unfiltered and not how.dry_run and not how.canary:
            raise typer.Exit(_each(inspector, action, chosen.ids, how.reason, as_json=how.as_json))
        found = inspector.preview(action, chosen, canary=how.canary)
        if not found.number:
            if how.dry_run and how.as_json:
                terminal.document(found)
            terminal.stop("no task matches", Exit.NOTHING)
        tasks = counted(found)
        if how.dry_run:
            previews.dry_run(found, f"{action.capitalize()} would change {tasks}.", how, name)
        question = f"{action.capitalize()} {tasks}{how.first(found.number)}?"
        previews.ask(found, question, how, name, yes=how.yes)
        started = inspector.bulk(BulkAction(action), chosen, canary=how.canary, rate=how.rate, reason=how.reason)
        raise typer.Exit(follow(inspector, started, name, as_json=how.as_json))

    act.__doc__ = HELP[action]
    return options.expanded(act, without=() if action == "retry" else ("canary",))


def _each(inspector: Inspector, action: str, ids: Sequence[str], reason: str | None, *, as_json: bool) -> Exit:
    """Act on the ids one by one; an error is shown, and the rest continues."""
    done: list[ActionResult] = []
    worst = Exit.DONE
    for id_ in ids:
        try:
            acted = getattr(inspector, action)(id_, reason=reason)
        except Exception as error:  # the only place where the outcome of each is decided
            code = exit_of(error)
            if code is None or code in (Exit.UNAVAILABLE, Exit.FORBIDDEN) or len(ids) == 1:
                if as_json and done:  # report the completed actions to the program
                    terminal.document(done)
                raise
            terminal.say(f"joblane: {message_of(error)}")
            worst = code if worst in (Exit.DONE, code) else Exit.FAILED
        else:
            done.append(acted)
            if not as_json:
                _report(acted)
    if as_json:
        terminal.document(done[0] if len(ids) == 1 else done)
    return worst


def _report(acted: ActionResult) -> None:
    terminal.console().print(terminal.word(f"{acted.id} {result_of(acted)}", "none"), soft_wrap=True)
    if acted.note:
        terminal.say(note_of(acted))


# --- Bulk actions ----------------------------------------------------------------------------------------------------


@group.command("ls")
def ls(context: typer.Context, limit: options.Limit = 20, as_json: options.AsJson = False) -> None:
    """List bulk actions, newest first."""
    queries.show(context, "bulks", as_json=as_json, limit=limit)


@group.command("show")
def show(
    context: typer.Context,
    id_: BulkId,
    follow_it: Annotated[bool, typer.Option("--follow", "-f", help="Follow it to its end.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show a bulk action."""
    inspector = target.inspector(context)
    view = inspector.bulk_view(id_)
    if follow_it:
        raise typer.Exit(follow(inspector, view, target.command(context), as_json=as_json, just_started=False))
    terminal.answer(view, as_json=as_json)
    to = terminal.console()
    to.print(terminal.word(f"{report(view).rstrip('.')}. It is {view.shown_state}.", "none"))
    ended = stamp(view.finished_at) if view.finished_at else None
    facts: list[tuple[str, str | None]] = [
        ("who", view.who),
        ("reason", view.reason),
        ("started", stamp(view.started_at)),
        ("ended", ended),
        ("canary", f"{view.canary:,}" if view.canary else None),
        *described(view.filter),
    ]
    to.print(terminal.facts(facts))
    if waits := canary_waits_line(view):
        terminal.say(waits.replace("`joblane ", f"`{target.command(context)} "))


@group.command("abort")
def abort(context: typer.Context, id_: BulkId, reason: options.Reason = None, as_json: options.AsJson = False) -> None:
    """Stop a bulk action.

    Tasks that it has changed stay changed.
    """
    view = target.inspector(context).abort(id_, reason=reason)
    terminal.answer(view, as_json=as_json)
    terminal.console().print(terminal.word(report(view), "none"))
