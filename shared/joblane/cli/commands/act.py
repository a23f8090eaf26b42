"""Act on tasks, by their ids or on all that a filter finds: `run`, `retry`, `archive`, `delete`, `cancel`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import typer

from joblane.cli import filters, target, terminal
from joblane.cli.commands import options as o
from joblane.cli.exits import Exit, exit_of
from joblane.cli.follow import follow
from joblane.cli.terminal import plural
from joblane.inspector.filter import BulkAction, Filter

if TYPE_CHECKING:
    from joblane.inspector.inspector import Inspector
    from joblane.inspector.views import ActionResult

HELP = {
    "run": "Run what waits now.",
    "retry": "Run what was given up or cancelled, with new attempts.",
    "archive": "Give up what waits, as if its attempts were used up.",
    "delete": "Clear the content of what does not run.\n\nWhat waits is cancelled by it. Ids are kept.",
    "cancel": "Cancel what waits; ask what runs to stop.",
}
DEFAULT_RATE = 50


def command(action: str) -> Callable[..., None]:
    """The command of one action: on the ids, or on what the options find."""

    @o.expanded
    def act(
        context: typer.Context,
        ids: o.Ids = None,
        *,
        which: filters.FilterOptions,
        reason: o.Reason = None,
        rate: o.Rate = DEFAULT_RATE,
        yes: o.Yes = False,
        dry_run: o.DryRun = False,
        as_json: o.AsJson = False,
    ) -> None:
        unfiltered = which == filters.FilterOptions()
        if not ids and unfiltered:
            terminal.usage(
                f"give ids, or options that say which tasks; `joblane {action} --help` lists them", "[ID]..."
            )
        chosen = which.filter(ids or ())
        inspector = target.inspector(context)
        if unfiltered and not dry_run:
            raise typer.Exit(_each(inspector, action, chosen.ids, reason, as_json=as_json))
        number = _counted(inspector, chosen, BulkAction(action), dry_run=dry_run, as_json=as_json)
        terminal.confirm(f"{action.capitalize()} {number}?", yes=yes)
        started = inspector.bulk(BulkAction(action), chosen, rate=rate, reason=reason)
        raise typer.Exit(follow(inspector, started, target.command(context), as_json=as_json))

    act.__doc__ = HELP[action]
    return act


def _each(inspector: Inspector, action: str, ids: Sequence[str], reason: str | None, *, as_json: bool) -> Exit:
    """One after the other; an error is shown, and the rest continues."""
    done: list[ActionResult] = []
    worst = Exit.DONE
    for id_ in ids:
        try:
            acted = getattr(inspector, action)(id_, reason=reason)
        except Exception as error:  # the one place where the outcome of each is decided
            code = exit_of(error)
            if code is None or code in (Exit.AWAY, Exit.FORBIDDEN) or len(ids) == 1:
                if as_json and done:  # a program then knows of these
                    terminal.document(done)
                raise
            terminal.say(f"joblane: {error}")
            worst = code if worst in (Exit.DONE, code) else Exit.FAILED
        else:
            done.append(acted)
            if not as_json:
                _tell(acted)
    if as_json:
        terminal.document(done[0] if len(ids) == 1 else done)
    return worst


def _tell(acted: ActionResult) -> None:
    if acted.action == "cancel" and acted.after == "active":
        text = "was asked to stop: it is cancelled at its next ctx.check(), ctx.progress() or end"
    elif acted.action == "delete":
        text = f"is {acted.after}; its payload, result and error are cleared"
    elif acted.before == acted.after or acted.before is None:
        text = f"is {acted.after}"
    else:
        text = f"was {acted.before}, is {acted.after}"
    terminal.console().print(terminal.word(f"{acted.id} {text}", "none"), soft_wrap=True)
    if acted.note:
        terminal.say(acted.note.capitalize().rstrip(".") + ".")


def _counted(inspector: Inspector, chosen: Filter, action: BulkAction, *, dry_run: bool, as_json: bool) -> str:
    """How many it would touch, in words. Ends the command for a dry run, and where nothing does."""
    count = inspector.count(chosen, action=action)
    words = plural(count.number) if count.exact else f"more than {plural(count.number)}"
    if dry_run and as_json:
        terminal.document(count)
    if not count.number:
        terminal.stop("nothing matches", Exit.NOTHING)
    if dry_run:
        if not as_json:
            terminal.console().print(terminal.word(f"{words} would be touched.", "none"))
        raise typer.Exit
    return words
