"""Archived tasks and dead letters: `dead` groups them by error, `ack` marks an error as known."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import lists, options, target, terminal
from joblane.cli.filters import time_range
from joblane.inspector.filter import DEFAULT_CANARY
from joblane.inspector.sentences.failures import obsolete_line, unread_line
from joblane.inspector.shell import argument

if TYPE_CHECKING:
    from joblane.inspector.views import Cause

SIGNS = {"#": "# stands for a number, an id or a time", "…": "'…' for a quoted text", "@": "@ for an address"}
"""Parts of an error that differ from task to task → their meaning. See :func:`joblane.worker.outcome.normalised`."""
PARTS = ("Runs", "Over time", "Retry", "Tenants", "Version")
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
