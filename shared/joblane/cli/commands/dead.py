"""What was given up: `dead` shows it by cause, `redrive` tries it again."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import target, terminal
from joblane.cli.commands import options as o
from joblane.cli.durations import relative
from joblane.cli.exits import Exit
from joblane.cli.follow import follow
from joblane.cli.terminal import NARROW, WIDE, plural, word
from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.shell import argument
from joblane.record.states import State

if TYPE_CHECKING:
    from rich.console import Console

    from joblane.inspector.inspector import Inspector
    from joblane.inspector.views import DeadGroup, DeadLetters

DEFAULT_CANARY = 5
FINGERPRINT = re.compile(r"[0-9a-f]{16}")
"""As :class:`joblane.worker.failure.Failure` makes them."""


def dead(context: typer.Context, as_json: o.AsJson = False) -> None:
    """What was given up, grouped by what went wrong."""
    found = target.inspector(context).dead()
    terminal.answer(found, as_json=as_json)
    if not found.groups and not found.unread:
        terminal.say("Nothing is dead.")
    if found.groups:
        _groups(terminal.console(), found)
    if found.leftovers:
        letters = plural(sum(found.leftovers.values()), "message")
        terminal.say(
            f"Left over in the dead-letter queues: {letters} of tasks that were retried or deleted since. "
            f"`{target.command(context)} redrive --all` removes that, too."
        )
    if found.unread:
        terminal.say(
            f"{plural(found.unread, 'message')} more in the dead-letter queues were not looked at: they are many."
        )
    if found.groups:
        _next_steps(found.groups[0], target.command(context))


def _groups(to: Console, found: DeadLetters) -> None:
    now, wide = datetime.now(UTC), to.width >= WIDE
    times, types = ("FIRST", "LAST") if wide else ("LAST",), ("TYPE",) if to.width >= NARROW else ()
    made = terminal.table(
        "COUNT", "FINGERPRINT", *types, *times, "WHAT WENT WRONG", right=("COUNT",), fold=("WHAT WENT WRONG",)
    )
    for one in found.groups:
        when = (relative(one.first_at, now),) if wide else ()
        cells = (*((one.type,) if types else ()), *when, relative(one.last_at, now))
        wrong = _wrong(one) if types or not one.type else f"{one.type}: {_wrong(one)}"
        terminal.row(made, f"{one.count:,}", one.fingerprint, *cells, wrong)
    to.print(made)


def _wrong(one: DeadGroup) -> str:
    text = f"{one.error_type}: {one.message}" if one.message else one.error_type
    return text if one.recorded else f"{text} (messages without a row, in {one.queue}'s dead letters)"


def _next_steps(one: DeadGroup, command: str) -> None:
    logs = [] if one.log_link else [(f"{command} logs {argument(one.example)}", "what that one wrote")]
    looks = [
        (f"{command} show {argument(one.example)}", "one of the first group"),
        *logs,
        (f"{command} ls --state archived --fingerprint {one.fingerprint}", "all of it"),
    ]
    canary = f" --canary {DEFAULT_CANARY}" if one.type else ""  # what cannot be read becomes no task to wait for
    again = f"{command} redrive {one.fingerprint}{canary}"
    to = terminal.messages()
    to.print()
    terminal.steps(to, [*(looks if one.recorded else []), (again, "once it is mended: a few first, then the rest")])
    if one.log_link:
        to.print(word(f"  Its log: {one.log_link}", "none"), soft_wrap=True)


def redrive(
    context: typer.Context,
    which: Annotated[
        list[str] | None, typer.Argument(metavar="[FINGERPRINT|ID]...", help="A fingerprint of `joblane dead`, or ids.")
    ] = None,
    *,
    type_: o.Types = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is dead.")] = False,
    canary: Annotated[
        int,
        typer.Option(min=0, max=100, help="So many first; the rest only if all of these succeed. 0: all at once."),
    ] = 0,
    rate: o.Rate = 50,
    reason: o.Reason = None,
    yes: o.Yes = False,
    dry_run: o.DryRun = False,
    as_json: o.AsJson = False,
) -> None:
    """Try again what was given up, a few first.

    By fingerprint, ids, type, or all of it. Messages without a row come along.
    """
    from joblane.inspector.bulk.dead import left_over

    if everything and (which or type_):
        terminal.usage("it is all: name nothing else", "--all")
    if not (everything or which or type_):
        terminal.usage("name a fingerprint of `joblane dead`, ids, a --type, or --all", "[FINGERPRINT|ID]...")
    inspector = target.inspector(context)
    found = inspector.dead()
    chosen = _filter(which or [], type_ or [], found.groups)
    number, removed = _number(inspector, chosen, found, exactly=dry_run), left_over(found, chosen)
    if everything and (unread := sum(one.count for one in found.groups if not one.type)):
        terminal.say(f"{plural(unread, 'message')} that cannot be read stay; redrive such by their fingerprint.")
    if not number and not removed:
        terminal.stop("nothing that is dead matches; `joblane dead` shows what there is", Exit.NOTHING)
    if dry_run:
        from joblane.inspector.views import Count

        terminal.answer(Count(number, exact=True), as_json=as_json)
        terminal.console().print(word(_would(number, removed), "none"))
        return
    first = f", the first {min(canary, number)} as a canary" if canary else ""
    question = f"Redrive {plural(number)}{first}?" if number else f"Remove {plural(removed, 'message')} left over?"
    terminal.confirm(question, yes=yes or bool(chosen.ids))
    started = inspector.redrive(chosen, canary=canary, rate=rate, reason=reason)
    raise typer.Exit(follow(inspector, started, target.command(context), as_json=as_json))


def _would(number: int, removed: int) -> str:
    parts = [f"{plural(number)} would be redriven"] if number else []
    parts += [f"{plural(removed, 'message')} left over would be removed"] if removed else []
    return "; ".join(parts) + "."


def _filter(which: list[str], types: list[str], groups: tuple[DeadGroup, ...]) -> Filter:
    """One fingerprint, or ids: a word that is no group's fingerprint is an id."""
    prints = {one.fingerprint for one in groups} | {one for one in which if FINGERPRINT.fullmatch(one)}
    named = [one for one in which if one in prints]
    if len(named) > 1 or (named and len(which) > 1):
        terminal.usage("one fingerprint at a time, or ids alone", "[FINGERPRINT|ID]...")
    if named:
        return Filter(fingerprint=named[0], types=tuple(types))
    return Filter(ids=tuple(dict.fromkeys(which)), types=tuple(types))


def _number(inspector: Inspector, chosen: Filter, found: DeadLetters, *, exactly: bool) -> int:
    """How many it sends back. By ids, ``exactly``: tasks; whether messages without a row have such an id is seen as it
    goes."""

    from joblane.inspector.bulk.dead import within

    if not chosen.ids:
        return sum(one.count for one in within(found.groups, chosen))
    if not exactly:
        return len(chosen.ids)
    return int(inspector.count(replace(chosen, states=(State.ARCHIVED,)), action=BulkAction.RETRY).number)
