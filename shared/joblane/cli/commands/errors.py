"""Errors: `errors` groups failed runs, tasks in retry and archived tasks; its commands mark an error."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from joblane.cli import filters, lists, options, target, terminal
from joblane.cli.commands.dead import say_signs
from joblane.cli.usage import Listing
from joblane.inspector.durations import duration
from joblane.inspector.filter import DEFAULT_CANARY
from joblane.inspector.sentences.failures import left_out_lines, marked_line
from joblane.inspector.shell import argument
from joblane.inspector.views.causes import Cause, CauseState

group = typer.Typer(cls=Listing, rich_markup_mode=None)


class Sort(StrEnum):
    """The order of the errors."""

    NOW = "now"
    RUNS = "runs"
    LAST = "last"


def states() -> list[str]:
    """The states of an error."""
    return [*CauseState]


Fingerprints = Annotated[list[str], typer.Argument(metavar="FINGERPRINT", help="Fingerprints from `joblane errors`.")]
Note = Annotated[str, typer.Option("--reason", metavar="NOTE", help="Note for other operators.")]


@group.command("ls")
def ls(
    context: typer.Context,
    *,
    within: Annotated[
        str, typer.Option(metavar="DURATION", help="Count failed runs within this time: 15m, 1d, 7d; 30d at most.")
    ] = "1d",
    type_: options.Types = None,
    tenant: options.Tenant = None,
    version: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Only failed runs that started in this version."),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option("--state", "-s", metavar="STATE", help="Only errors in this state.", autocompletion=states),
    ] = None,
    sort: Annotated[
        Sort,
        typer.Option(help="Errors of the last hour first and new ones before others, the most runs, or the latest."),
    ] = Sort.NOW,
    limit: options.Limit = 20,
    as_json: options.AsJson = False,
) -> None:
    """Show errors: failed runs over time, tasks in retry and archived tasks, grouped by their error.

    Known, resolved and ignored errors follow the others. An ignored error is listed only if it has archived tasks, or
    with --state ignored. The name of the command can be left out.
    """
    length = filters.parsed(duration, within, "--within")
    chosen = None if state is None else filters.one_of(CauseState, state, "--state")
    found = target.inspector(context).errors(
        within=length,
        types=tuple(type_ or ()),
        tenant=tenant,
        version=version,
        state=chosen,
        sort=sort.value,
        limit=limit,
    )
    terminal.answer(found, as_json=as_json)
    if not found.causes:
        such = "such " if type_ or tenant or version or state else ""
        terminal.say(f"No {such}run has failed within the last {within}, and there are no {such}archived tasks.")
    if found.causes:
        lists.show(found.causes)
    for line in left_out_lines(found):
        terminal.say(line)
    say_signs(found.causes)
    if found.causes:
        _next_steps(found.causes[0], target.command(context), tenant)


def _next_steps(cause: Cause, command: str, tenant: str | None) -> None:
    of = f" --tenant {argument(tenant)}" if tenant else ""
    show = [(f"{command} show {argument(cause.example)}", "a task of the first error")] if cause.example else []
    tasks = (f"{command} ls --fingerprint {argument(cause.fingerprint)}{of}", "all its tasks")
    again = (
        f"{command} redrive {argument(cause.fingerprint)}{of} --canary {DEFAULT_CANARY}",
        "once the cause is fixed: a few archived tasks first, then the rest",
    )
    known = (f"{command} errors known {argument(cause.fingerprint)} --reason …", "list it below the others")
    has_tasks = bool(cause.fingerprint) and (cause.retry or cause.archived)
    rows = [*show, *([tasks] if has_tasks else []), *([again] if cause.fingerprint and cause.archived else [])]
    to = terminal.messages()
    to.print()
    terminal.steps(to, [*rows, *([known] if cause.fingerprint and not cause.is_quiet else [])])
    if cause.log_link:
        to.print(terminal.word(f"  Log: {cause.log_link}", "none"), soft_wrap=True)


@group.command("known")
def known(context: typer.Context, fingerprints: Fingerprints, reason: Note, as_json: options.AsJson = False) -> None:
    """Mark errors as known: they are listed below the others, until they are resolved or opened."""
    _mark(context, fingerprints, CauseState.KNOWN, reason, as_json=as_json)


@group.command("resolve")
def resolve(context: typer.Context, fingerprints: Fingerprints, reason: Note, as_json: options.AsJson = False) -> None:
    """Mark errors as resolved: an error is new again if a run that starts later fails with it."""
    _mark(context, fingerprints, CauseState.RESOLVED, reason, as_json=as_json)


@group.command("ignore")
def ignore(context: typer.Context, fingerprints: Fingerprints, reason: Note, as_json: options.AsJson = False) -> None:
    """Ignore errors: they are not listed, except for archived tasks, until they are opened."""
    _mark(context, fingerprints, CauseState.IGNORED, reason, as_json=as_json)


@group.command("open")
def open_(
    context: typer.Context, fingerprints: Fingerprints, reason: options.Reason = None, as_json: options.AsJson = False
) -> None:
    """Remove the mark of errors."""
    _mark(context, fingerprints, CauseState.OPEN, reason, as_json=as_json)


def _mark(
    context: typer.Context, fingerprints: list[str], state: CauseState, reason: str | None, *, as_json: bool
) -> None:
    marked = target.inspector(context).mark_errors(tuple(fingerprints), state, reason=reason)
    terminal.answer(marked, as_json=as_json)
    terminal.say(marked_line(marked))
