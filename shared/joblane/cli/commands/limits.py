"""Limits and the order of keys: `limits`, and its commands `set`, `reset`, `line` and `pass`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import filters, lists, options, queries, target, terminal
from joblane.cli.usage import Listing
from joblane.inspector.durations import stamp, starts
from joblane.inspector.sentences.limits import change_lines, limit_name
from joblane.inspector.shell import argument

if TYPE_CHECKING:
    from joblane.record.flow.limit_status import LimitStatus
    from joblane.tasks.limit import Rate

Name = Annotated[str, typer.Argument(metavar="NAME", help="Task type, or name of a shared limit.")]
Key = Annotated[str | None, typer.Option(metavar="KEY", help="Only this key of the type.")]
LineKey = Annotated[str, typer.Argument(metavar="KEY", help="Key of the type; with a tenant: 'TENANT KEY'.")]


group = typer.Typer(cls=Listing, rich_markup_mode=None)


@group.command("ls")
def ls(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Task type, or name of a shared limit. Without it: all.")
    ] = None,
    key: Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Show limits: their values, the tasks that have their slots, and those that wait.

    Of a type, also the keys whose tasks wait longest. The name of the command can be left out, except for a limit that
    has the name of a command: `limits ls line`.
    """
    found = queries.show(context, "limits", name, as_json=as_json, key=key)
    _say_changes(found)
    undeclared = [one for one in found if one.change and not one.is_declared]
    resets = [_reset_command(context, one.name, one.key if one.own_change else None) for one in undeclared]
    for command in dict.fromkeys(resets):
        terminal.say(f"Remove it:  {command}")
    for one in found:
        if one.delayed_until is not None:
            terminal.say(
                f"{limit_name(one)}: a handler has delayed it until {stamp(one.delayed_until)}. End the delay:  "
                f"{_reset_command(context, one.name, one.key)}"
            )
    if any(one.held for one in found):
        terminal.say(f"See all held tasks:  {target.command(context)} ls --state held")


@group.command("set")
def set_(
    context: typer.Context,
    name: Name,
    *,
    key: Key = None,
    max_per_key: Annotated[
        int | None, typer.Option(metavar="N", help="Tasks of one key at a time. 0: none starts.")
    ] = None,
    max_total: Annotated[
        int | None, typer.Option(metavar="N", help="Tasks of the type at a time. 0: none starts.")
    ] = None,
    total: Annotated[
        int | None, typer.Option(metavar="N", help="Tasks of a shared limit at a time. 0: none starts.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="N/DURATION", help="Starts in a time, for example 100/1m.")
    ] = None,
    burst: Annotated[int | None, typer.Option(metavar="N", help="Starts that are saved up. With --rate.")] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Time from which the declared values hold again (ISO 8601). Without it: as set before, else a reset.",
        ),
    ] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Reason, for operators and the audit.")],
    as_json: options.AsJson = False,
) -> None:
    """Set values of a limit, in place of the declared ones.

    A raised limit starts waiting tasks at once. A lowered one stops none. The values outlive deploys.
    """
    found = target.inspector(context).set_limit(
        name,
        key=key,
        max_per_key=max_per_key,
        max_total=max_total,
        total=total,
        rate=_rate(rate, burst),
        until=filters.time_of(until, "--until"),
        reason=reason,
    )
    terminal.answer(found, as_json=as_json)
    _show(found)
    terminal.say(f"Declared values again:  {_reset_command(context, name, key)}")


@group.command("reset")
def reset(
    context: typer.Context, name: Name, key: Key = None, reason: options.Reason = None, as_json: options.AsJson = False
) -> None:
    """Remove what is set for a limit, so that the declared values hold, and end a delay by RateLimited.

    What is set for single keys of a type stays, unless you give the key.
    """
    found = target.inspector(context).reset_limit(name, key=key, reason=reason)
    terminal.answer(found, as_json=as_json)
    _show(found)


@group.command("line")
def line(
    context: typer.Context,
    type_: options.Type,
    key: LineKey,
    limit: options.Limit = 20,
    as_json: options.AsJson = False,
) -> None:
    """Show the tasks of an ordered key, in their order."""
    found = target.inspector(context).line(type_, key, limit=limit)
    terminal.answer(found, as_json=as_json, nothing="No task of this key waits or runs.")
    lists.show(found)
    command = target.command(context)
    terminal.say(f"See what the first one waits for:  {command} show {argument(found[0].id)}")


@group.command("pass")
def pass_(
    context: typer.Context,
    type_: options.Type,
    key: LineKey,
    reason: options.Reason = None,
    as_json: options.AsJson = False,
) -> None:
    """Move the first task of an ordered key to the end of its order, so that the next one runs."""
    acted = target.inspector(context).pass_line(type_, key, reason=reason)
    terminal.answer(acted, as_json=as_json)
    terminal.say(f"Task {acted.id}: {acted.note}.")


# --- Words ---------------------------------------------------------------------------------------------------------


def _rate(text: str | None, burst: int | None) -> Rate | None:
    if text is None:
        if burst is not None:
            terminal.usage("give --rate too", "--burst")
        return None
    from joblane.tasks.limit import Rate

    return Rate(*filters.parsed(starts, text, "--rate"), 1 if burst is None else burst)


def _show(found: Sequence[LimitStatus]) -> None:
    lists.show(found)
    _say_changes(found)


def _say_changes(found: Sequence[LimitStatus]) -> None:
    for sentence in change_lines(found):
        terminal.say(sentence)


def _reset_command(context: typer.Context, name: str, key: str | None) -> str:
    of_key = "" if key is None else f" --key {argument(key)}"
    return f"{target.command(context)} limits reset {argument(name)}{of_key}"
