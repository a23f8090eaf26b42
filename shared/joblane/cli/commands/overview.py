"""Inspect the stage: `queues`, `runs`, `audit`, `types`, `doctor`, `why`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import filters, lists, options, queries, target, terminal
from joblane.cli.exits import Exit
from joblane.inspector.durations import duration
from joblane.inspector.filter import MOST_ERRORS, STATISTICS_BY, PauseScope
from joblane.inspector.sentences.counts import counted, plural
from joblane.inspector.sentences.failures import error_lines
from joblane.inspector.sentences.limits import allowed_line
from joblane.inspector.sentences.pauses import pause_line, waiting_line
from joblane.inspector.sentences.stage import mark_line, target_line, unknown_lines
from joblane.inspector.shell import argument
from joblane.names import TYPE_PATTERN

if TYPE_CHECKING:
    from datetime import timedelta

    from joblane.inspector.views import Check, Statistic

MOST_MARKS = 5
OF_COSTS = ("Cost", "Per 1000")
OF_TIMEOUTS = ("Failed", "p99", "Timeout", "p99 of timeout", "Longest of timeout")
OF_OUTCOMES = ("Completed", "Retried", "Archived", "Lost", "Mean wait")
COSTS = (
    "Costs are estimates: run time, requests and queue calls at list prices, without the database and free tiers. See "
    "docs/explanation/costs.md."
)


def queues(
    context: typer.Context,
    lanes: Annotated[bool, typer.Option("--lanes", help="Also list each lane: one task type in one queue.")] = False,
    minutes: Annotated[int, typer.Option(metavar="N", min=1, max=240, help="Count runs of the last N minutes.")] = 60,
    by: Annotated[
        str,
        typer.Option(metavar="KEY", help="queue, type or tenant.", autocompletion=lambda: ["queue", "type", "tenant"]),
    ] = "queue",
    as_json: options.AsJson = False,
) -> None:
    """Show what needs an operator now, and the three queues, the types, or the tenants.

    The queues have their tasks by state, dead letters, throughput and pauses. --by type: the types with their failures
    and waits, worst first. --by tenant: who has many tasks waiting, and who waits.
    """
    if by == "tenant":
        _tenants(context, as_json=as_json)
        return
    if by not in ("queue", "type"):
        terminal.usage(f"{by!r} is neither queue, type nor tenant", "--by")
    now = target.inspector(context).now(minutes=minutes)
    found = now.overview
    terminal.answer(found if by == "queue" else now.types, as_json=as_json)
    from joblane.cli import tables

    console = terminal.console()
    for each in tables.trouble(now.trouble):
        console.print(each, soft_wrap=True)
    console.print()
    if by == "type":
        lists.show([row for row in now.types if not row.is_empty] or now.types)
        return
    console.print(tables.queues(found, console.width))
    if lanes:
        console.print()
        lists.show([lane for queue in found.queues for lane in queue.lanes])
    for line in (*map(waiting_line, now.other_pauses), *unknown_lines(found)):
        terminal.say(line)
    if found.archived.number:
        archived = counted(found.archived, "archived task").capitalize()
        terminal.say(f"{archived}. See why: {target.command(context)} dead")


def _tenants(context: typer.Context, *, as_json: bool) -> None:
    found = queries.show(context, "tenants", as_json=as_json)
    for row in found:
        if row.pause is not None:
            terminal.say(pause_line(row.pause))
    if found[0].due and found[0].tenant:
        name = argument(found[0].tenant)
        terminal.say(f"Stop one for a while: {target.command(context)} pause tenant {name} --for 1h --reason …")


def runs(
    context: typer.Context,
    type_: Annotated[
        str | None,
        typer.Argument(metavar="TYPE", help="The runs of this type over time.", autocompletion=options.task_types),
    ] = None,
    *,
    tenant: Annotated[
        str | None, typer.Option(metavar="TENANT", help="The runs of this tenant over time, by hour.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Without a type or --tenant: type (the default) or tenant.",
            autocompletion=options.groups,
        ),
    ] = None,
    within: Annotated[
        str, typer.Option(metavar="DURATION", help="Runs within this time: 15m, 1d, 7d; 30d at most.")
    ] = "1d",
    cost: Annotated[bool, typer.Option("--cost", help="Without a type or --tenant: show estimated costs.")] = False,
    timeouts: Annotated[
        bool, typer.Option("--timeouts", help="Without a type or --tenant: show timeouts, the nearest one first.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show the runs of all types or tenants, or of one over time.

    Of all: outcomes, mean times of waiting and running, and costs. Of one: also percentiles, tasks now, limits and
    errors, and the latest deploys, pauses, changed limits and bulk actions.
    """
    length = filters.parsed(duration, within, "--within")
    if type_ is None and tenant is None:
        if timeouts and (cost or by == "tenant"):
            terminal.usage("give it without --cost and --by tenant", "--timeouts")
        found = _all_runs(context, within, length, by or "type", nearest_first=timeouts, as_json=as_json)
        lists.show(found, without=(*(() if cost else OF_COSTS), *(OF_OUTCOMES if timeouts else OF_TIMEOUTS)))
        if cost:
            terminal.say(COSTS)
    elif type_ is not None and tenant is not None:
        terminal.usage("give a type or --tenant, and not both")
    elif cost or by or timeouts:
        option = "--cost" if cost else "--by" if by else "--timeouts"
        terminal.usage("give it without a type and --tenant", option)
    elif tenant is None:
        _runs_of(context, PauseScope.TYPE, type_ or "", length, as_json=as_json)
    else:
        _runs_of(context, PauseScope.TENANT, tenant, length, as_json=as_json)


def _all_runs(
    context: typer.Context, within: str, length: timedelta, by: str, *, nearest_first: bool, as_json: bool
) -> tuple[Statistic, ...]:
    if by not in STATISTICS_BY:
        terminal.usage(f"{by!r} is neither type nor tenant", "--by")
    found = target.inspector(context).statistics(within=length, by=by)
    if nearest_first:
        found = tuple(sorted(found, key=lambda one: -(one.timeout_share or 0)))
    terminal.answer(found, as_json=as_json, nothing=f"No task ran within the last {within}.")
    return found


def _runs_of(context: typer.Context, kind: PauseScope, name: str, length: timedelta, *, as_json: bool) -> None:
    from joblane.cli import run_tables
    from joblane.errors import LimitError

    inspector = target.inspector(context)
    found = inspector.performance(kind, name, within=length)
    terminal.answer(found, as_json=as_json)
    console = terminal.console()
    console.print(run_tables.performance(found, console.width))
    lines: list[str] = []
    if kind is PauseScope.TYPE:
        lanes = run_tables.lanes(inspector.overview(minutes=1), found.name)
        declared = next((one for one in inspector.types() if one.type == found.name), None)
        if lanes:
            lists.show(lanes)
            lines += error_lines(inspector.errors(types=(found.name,), within=length, sort="runs", limit=MOST_ERRORS))
        if declared is not None:
            lines.append(target_line(declared))
            for limit in declared.limits:
                with suppress(LimitError):  # the database does not have it yet
                    lines += map(allowed_line, inspector.limits(limit))
    elif found.name:
        lines += error_lines(inspector.errors(tenant=found.name, within=length, sort="runs", limit=MOST_ERRORS))
    lines += map(mark_line, inspector.marks(kind, (found.name,), within=length)[:MOST_MARKS])
    for line in lines:
        terminal.say(line)
    for pause in inspector.pauses():
        if (pause.scope, pause.name) == (kind, found.name):
            terminal.say(pause_line(pause))


def audit(
    context: typer.Context,
    *,
    target_: Annotated[
        str | None, typer.Option("--target", metavar="TARGET", help="A task's id, or type:data:export, queue:low …")
    ] = None,
    who: Annotated[str | None, typer.Option(metavar="NAME", help="Only actions of this operator.")] = None,
    action: Annotated[
        str | None, typer.Option(metavar="ACTION", help="Only this action: pause, retry, redrive …")
    ] = None,
    bulk: Annotated[
        str | None, typer.Option(metavar="ID", help="The entries of the tasks of this bulk action or redrive.")
    ] = None,
    older: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only actions before this: an age (10m, 2h, 3d) or a time.")
    ] = None,
    newer: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only actions after this: an age (10m, 2h, 3d) or a time.")
    ] = None,
    after: Annotated[
        int | None, typer.Option(metavar="NO", help="NO of the last entry of the previous page: show the next page.")
    ] = None,
    limit: options.Limit = 50,
    as_json: options.AsJson = False,
) -> None:
    """List actions of operators, newest first.

    A bulk action or redrive is one line. --bulk lists its tasks.
    """
    since, until = filters.time_range(newer, older)
    found = queries.show(
        context,
        "audit",
        as_json=as_json,
        target=target_,
        who=who,
        action=action,
        bulk=bulk,
        since=since,
        until=until,
        before=after,
        limit=limit,
    )
    if len(found) == limit:
        terminal.say(f"There may be more entries. For the next page, add --after {found[-1].number}")


def types(context: typer.Context, as_json: options.AsJson = False) -> None:
    """List the declared task types."""
    found = target.types(context)
    terminal.answer(found, as_json=as_json)
    lists.show(found)


def doctor(context: typer.Context, as_json: options.AsJson = False) -> None:
    """Check a deployment, and say what to do.

    Exit status 1 if a check is bad, 5 if a check is unknown and none is bad.
    """
    _judge(target.inspector(context).doctor(), as_json=as_json)


def why(context: typer.Context, type_: options.Type, as_json: options.AsJson = False) -> None:
    """Say why the tasks of a type start late.

    Checks pauses, limits, tenants, lanes, durations, arrivals, failures and the sweep. Each finding has its numbers and
    the command that helps. Exit status 1 if one of them delays tasks.
    """
    if not TYPE_PATTERN.fullmatch(type_):
        terminal.usage(f"a type is required; `{target.command(context)} show ID` says why a task waits", "TYPE")
    _judge(target.inspector(context).why_slow(type_), as_json=as_json)


def _judge(found: tuple[Check, ...], *, as_json: bool) -> None:
    """Print the checks, and exit by the worst."""
    if as_json:
        terminal.document(found)
    else:
        lists.show(found)
        counts = {grade: sum(check.grade == grade for check in found) for grade in ("bad", "warning", "unknown")}
        if counts["warning"] > 1:
            counts["warnings"] = counts.pop("warning")
        result = ", ".join(f"{number} {grade}" for grade, number in counts.items() if number)
        terminal.say(f"{plural(len(found), 'check')}: {result or 'all good'}.")
    if any(check.grade == "bad" for check in found):
        raise typer.Exit(Exit.FAILED)
    if any(check.grade == "unknown" for check in found):
        raise typer.Exit(Exit.UNAVAILABLE)
