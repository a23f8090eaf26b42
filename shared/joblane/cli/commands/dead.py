"""Archived tasks and dead letters: `dead` groups them by error, `redrive` runs them again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import lists, options, target, terminal
from joblane.cli.exits import Exit
from joblane.cli.filters import time_range
from joblane.cli.follow import follow
from joblane.inspector.filter import DEFAULT_CANARY, BulkAction, Filter
from joblane.inspector.sentences import obsolete_line, plural, unread_line
from joblane.inspector.shell import argument
from joblane.record.row.states import State

if TYPE_CHECKING:
    from joblane.inspector.inspector import Inspector
    from joblane.inspector.views import Cause, DeadLetters

SIGNS = {"#": "# stands for a number, an id or a time", "…": "'…' for a quoted text", "@": "@ for an address"}
"""Parts of an error that differ from task to task → their meaning. See :func:`joblane.worker.outcome.normalised`."""
FINGERPRINT = re.compile(r"[0-9a-f]{16}")
"""The form of fingerprints made by :class:`joblane.worker.outcome.Failure`."""
PARTS = ("Runs", "Over time", "Tenants", "Version")
"""Columns of an error that a list of dead letters leaves out."""


class Sort(StrEnum):
    """The order of the groups."""

    COUNT = "count"
    LAST = "last"


def dead(
    context: typer.Context,
    *,
    type_: options.Types = None,
    tenant: options.Tenant = None,
    newer: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Only errors that came after this: an age (10m, 2h, 3d) or a time."),
    ] = None,
    sort: Annotated[Sort, typer.Option(help="The largest group first, or the latest.")] = Sort.COUNT,
    as_json: options.AsJson = False,
) -> None:
    """Show archived tasks and dead letters, grouped by error.

    `joblane errors` also has the errors of tasks that still retry.
    """
    since, _ = time_range(newer, None)
    found = target.inspector(context).dead(types=tuple(type_ or ()), tenant=tenant, since=since, sort=sort.value)
    terminal.answer(found, as_json=as_json)
    if not found.groups and not found.unread:
        some = type_ or tenant or newer
        terminal.say(
            f"There are no {'such ' if some else ''}archived tasks and no {'such ' if some else ''}dead letters."
        )
    if found.groups:
        lists.show(found.groups, without=PARTS)
    if found.obsolete:
        them = "it" if sum(found.obsolete.values()) == 1 else "them"
        terminal.say(f"{obsolete_line(found.obsolete)} `{target.command(context)} redrive --all` removes {them}.")
    if found.unread:
        terminal.say(unread_line(found))
    say_signs(found.groups)
    if found.groups:
        _next_steps(found.groups[0], target.command(context), tenant)


def say_signs(causes: Sequence[Cause]) -> None:
    """Explain the signs in the messages of errors."""
    if signs := [meaning for sign, meaning in SIGNS.items() if any(sign in cause.message for cause in causes)]:
        terminal.say(f"In the errors, {', '.join(signs)}.")


def _next_steps(group: Cause, command: str, tenant: str | None) -> None:
    of = f" --tenant {argument(tenant)}" if tenant else ""
    logs = [] if group.log_link else [(f"{command} logs {argument(group.example)}", "its log lines")]
    details = [
        (f"{command} show {argument(group.example)}", "an example of the first group"),
        *logs,
        (f"{command} ls --state archived --fingerprint {group.fingerprint}{of}", "all tasks of the first group"),
    ]
    canary = f" --canary {DEFAULT_CANARY}" if group.type else ""  # an unreadable message creates no task to wait for
    again = f"{command} redrive {group.fingerprint}{of}{canary}"
    meaning = "once the cause is fixed: a few first, then the rest" if canary else "once the cause is fixed"
    to = terminal.messages()
    to.print()
    terminal.steps(to, [*(details if group.recorded else []), (again, meaning)])
    if group.log_link:
        to.print(terminal.word(f"  Log: {group.log_link}", "none"), soft_wrap=True)


@options.expanded
def redrive(
    context: typer.Context,
    which: Annotated[
        list[str] | None,
        typer.Argument(metavar="FINGERPRINT|ID", help="A fingerprint from `joblane dead`, or ids."),
    ] = None,
    *,
    type_: options.Types = None,
    tenant: options.Tenant = None,
    everything: Annotated[bool, typer.Option("--all", help="All archived tasks and dead letters.")] = False,
    how: options.Bulk,
) -> None:
    """Run archived tasks again, with `--canary` a few of them first.

    Choose the tasks by fingerprint, ids, type or tenant, or --all. Dead letters without a row are sent back as well.
    """
    if everything and (which or type_ or tenant):
        terminal.usage("give --all without a fingerprint, ids, --type or --tenant", "--all")
    if not (everything or which or type_ or tenant):
        terminal.usage("give a fingerprint from `joblane dead`, ids, --type, --tenant, or --all")
    inspector = target.inspector(context)
    found = inspector.dead(types=tuple(type_ or ()), tenant=tenant)
    chosen = replace(_filter(which or [], found.groups), types=tuple(type_ or ()), tenant=tenant)
    number, removed = _number(inspector, chosen, found, exactly=how.dry_run), found.removable(chosen)
    if everything and (unreadable := sum(group.archived for group in found.groups if not group.type)):
        stay = "stays" if unreadable == 1 else "stay"
        terminal.say(f"{plural(unreadable, 'unreadable message')} {stay}; redrive unreadable messages by fingerprint.")
    if not number and not removed:
        terminal.stop("no archived task or dead letter matches; `joblane dead` lists them", Exit.NOTHING)
    if how.dry_run:
        from joblane.inspector.views import Count

        terminal.answer(Count(number, exact=True), as_json=how.as_json)
        terminal.console().print(terminal.word(_would(number, removed), "none"))
        return
    question = f"Redrive {plural(number)}{how.first(number)}?" if number else f"Remove {_obsolete(removed)}?"
    terminal.confirm(question, yes=how.yes or bool(chosen.ids))
    started = inspector.redrive(chosen, canary=how.canary, rate=how.rate, reason=how.reason)
    raise typer.Exit(follow(inspector, started, target.command(context), as_json=how.as_json))


def _would(number: int, removed: int) -> str:
    parts = [f"{plural(number)} would be redriven"] if number else []
    parts += [f"{_obsolete(removed)} would be removed"] if removed else []
    return "; ".join(parts) + "."


def _obsolete(number: int) -> str:
    return plural(number, "obsolete dead letter")


def _filter(which: list[str], groups: tuple[Cause, ...]) -> Filter:
    """A filter for one fingerprint, or for ids: an argument that is not a fingerprint is an id."""
    known = {group.fingerprint for group in groups} | {text for text in which if FINGERPRINT.fullmatch(text)}
    fingerprints = [text for text in which if text in known]
    if len(fingerprints) > 1 or (fingerprints and len(which) > 1):
        terminal.usage("give one fingerprint, or only ids", "FINGERPRINT|ID")
    if fingerprints:
        return Filter(fingerprint=fingerprints[0])
    return Filter(ids=tuple(dict.fromkeys(which)))


def _number(inspector: Inspector, chosen: Filter, found: DeadLetters, *, exactly: bool) -> int:
    """The number of tasks and messages that a redrive sends back.

    For ids: the number of ids, or, if ``exactly``, of archived tasks with these ids. Messages without a row that have
    such an id are found only by the redrive itself.
    """

    if not chosen.ids:
        return sum(group.archived for group in found.within(chosen))
    if not exactly:
        return len(chosen.ids)
    return int(inspector.count(replace(chosen, states=(State.ARCHIVED,)), action=BulkAction.RETRY).number)
