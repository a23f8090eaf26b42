"""Inspect the stage: `queues`, `runs`, `audit`, `types`, `doctor`, `why`."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import filters, options, target, terminal
from joblane.cli.exits import Exit
from joblane.inspector.durations import duration
from joblane.inspector.filter import STATISTICS_BY, PauseScope
from joblane.inspector.shell import argument

if TYPE_CHECKING:
    from datetime import timedelta

    from rich.table import Table

    from joblane.inspector.views import Check, Statistic

LEFT_OUT_FIRST = ("LONGEST", "MEAN WAIT", "LOST", "RETRIED", "MEAN TIME", "COMPLETED")
"""Columns of `runs` in the order in which they are left out of a narrow table."""


def queues(
    context: typer.Context,
    lanes: Annotated[bool, typer.Option("--lanes", help="Also list each lane: one task type in one queue.")] = False,
    minutes: Annotated[int, typer.Option(metavar="N", min=1, max=240, help="Count runs of the last N minutes.")] = 60,
    by: Annotated[
        str, typer.Option(metavar="KEY", help="queue or tenant.", autocompletion=lambda: ["queue", "tenant"])
    ] = "queue",
    as_json: options.AsJson = False,
) -> None:
    """Show the three queues, or the tenants.

    Their tasks by state, dead letters, throughput and pauses. --by tenant: who has many tasks waiting, and who waits.
    """
    if by == "tenant":
        _tenants(context, as_json=as_json)
        return
    if by != "queue":
        terminal.usage(f"{by!r} is neither queue nor tenant", "--by")
    found = target.inspector(context).overview(minutes=minutes)
    terminal.answer(found, as_json=as_json)
    from joblane.cli.queue_tables import lane_table, pause_lines, queue_table, unknown_lines

    console = terminal.console()
    console.print(queue_table(found, console.width, sparks=console.width >= terminal.WIDE))
    if lanes:
        console.print()
        console.print(lane_table(found, console.width))
    for line in (*pause_lines(found), *unknown_lines(found)):
        terminal.say(line)
    if found.archived.number:
        terminal.say(
            f"{terminal.counted(found.archived, 'archived task').capitalize()}. See why: {target.command(context)} dead"
        )


def _tenants(context: typer.Context, *, as_json: bool) -> None:
    from joblane.cli.queue_tables import pause_line, tenant_table

    found = target.inspector(context).tenants()
    terminal.answer(found, as_json=as_json, nothing="No tenant has live tasks, or runs of the last hour.")
    console = terminal.console()
    console.print(tenant_table(found, console.width))
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
        str,
        typer.Option(metavar="KEY", help="Without a type or --tenant: type or tenant.", autocompletion=options.groups),
    ] = "type",
    within: Annotated[
        str, typer.Option(metavar="DURATION", help="Runs within this time: 15m, 1d, 7d; 30d at most.")
    ] = "1d",
    cost: Annotated[bool, typer.Option("--cost", help="Without a type or --tenant: show estimated costs.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show the runs of all types or tenants, or of one over time.

    Of all: outcomes, mean times of waiting and running, and costs. Of one: also percentiles, tasks now, limits and
    errors, and the latest deploys, pauses, changed limits and bulk actions.
    """
    length = filters.parsed(duration, within, "--within")
    if type_ is None and tenant is None:
        _all_runs(context, within, length, by, cost=cost, as_json=as_json)
    elif type_ is not None and tenant is not None:
        terminal.usage("give a type or --tenant, and not both")
    elif cost:
        terminal.usage("give it without a type and --tenant", "--cost")
    elif tenant is None:
        _runs_of(context, PauseScope.TYPE, type_ or "", length, as_json=as_json)
    else:
        _runs_of(context, PauseScope.TENANT, tenant, length, as_json=as_json)


def _all_runs(context: typer.Context, within: str, length: timedelta, by: str, *, cost: bool, as_json: bool) -> None:
    if by not in STATISTICS_BY:
        terminal.usage(f"{by!r} is neither type nor tenant", "--by")
    found = target.inspector(context).statistics(within=length, by=by)
    terminal.answer(found, as_json=as_json, nothing=f"No task ran within the last {within}.")
    console = terminal.console()
    console.print(_statistics(found, by, console.width, cost=cost))
    if cost:
        terminal.say(
            "Costs are estimates: run time, requests and queue calls at list prices, without the database and free "
            "tiers. See docs/explanation/costs.md."
        )


def _runs_of(context: typer.Context, kind: PauseScope, name: str, length: timedelta, *, as_json: bool) -> None:
    from joblane.cli import run_tables
    from joblane.cli.queue_tables import pause_line
    from joblane.errors import LimitError

    inspector = target.inspector(context)
    found = inspector.performance(kind, name, within=length)
    terminal.answer(found, as_json=as_json)
    console = terminal.console()
    console.print(run_tables.performance(found, console.width))
    if kind is PauseScope.TYPE:
        overview = inspector.overview(minutes=1)
        declared = next((one for one in inspector.types() if one.type == found.name), None)
        console.print(run_tables.now(overview, found.name, declared))
        for limit in declared.limits if declared else ():
            with suppress(LimitError):  # the database does not have it yet
                for line in run_tables.limit_lines(inspector.limits(limit)):
                    terminal.say(line)
        errors = (
            inspector.dead(types=(found.name,), sort="last").groups if run_tables.lanes(overview, found.name) else ()
        )
        for line in run_tables.error_lines(errors):
            terminal.say(line)
    for line in run_tables.mark_lines(inspector.marks(kind, (found.name,), within=length)):
        terminal.say(line)
    for pause in inspector.pauses():
        if (pause.scope, pause.name) == (kind, found.name):
            terminal.say(pause_line(pause))


def _statistics(found: tuple[Statistic, ...], by: str, width: int, *, cost: bool) -> Table:
    from joblane.cli.task_tables import dollars

    def money(value: float | None) -> str | None:
        return None if value is None else f"~{dollars(value)}"

    name = by.upper()
    rows: list[dict[str, object]] = [
        {
            name: statistic.key or None,
            "RUNS": f"{statistic.started:,}",
            "COMPLETED": f"{statistic.completed:,}",
            "RETRIED": f"{statistic.retried:,}",
            "ARCHIVED": f"{statistic.archived:,}",
            "LOST": f"{statistic.lost:,}",
            "MEAN WAIT": terminal.milliseconds(statistic.wait_ms),
            "MEAN TIME": terminal.milliseconds(statistic.duration_ms),
            "LONGEST": terminal.milliseconds(statistic.longest_ms),
        }
        for statistic in found
    ]
    if cost:
        for statistic, cells in zip(found, rows, strict=True):
            per_thousand = statistic.cost_usd / statistic.started * 1000 if statistic.started else None
            cells |= {"COST": money(statistic.cost_usd), "PER 1000": money(per_thousand)}
    drop = ("PER 1000", *LEFT_OUT_FIRST) if cost else LEFT_OUT_FIRST
    return terminal.fitted(rows, width, fold={name: terminal.LEAST_NAME}, right=list(rows[0])[1:], drop=drop)


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
    from joblane.cli import task_tables as tables

    since, until = filters.time_range(newer, older)
    found = target.inspector(context).audit(
        target=target_, who=who, action=action, bulk=bulk, since=since, until=until, before=after, limit=limit
    )
    terminal.answer(found, as_json=as_json, nothing="No audit entry matches.")
    console = terminal.console()
    console.print(tables.audit(found, datetime.now(UTC), console.width))
    if len(found) == limit:
        terminal.say(f"There may be more entries. For the next page, add --after {found[-1].number}")


def types(context: typer.Context, as_json: options.AsJson = False) -> None:
    """List the declared task types."""
    found = target.types(context)
    terminal.answer(found, as_json=as_json)
    console = terminal.console()
    rows = [
        {
            "TYPE": declared.type,
            "QUEUES": ", ".join(declared.queues),
            "RETRIES": declared.max_retry,
            "TIMEOUT": terminal.short(declared.timeout_seconds),
            **(
                {
                    "KEPT": terminal.short(declared.retention_seconds),
                    "BATCH": declared.batch_size,
                    "MEMORY": f"{declared.memory_mb} MB",
                }
                if console.width >= terminal.WIDE
                else {}
            ),
            "SCHEDULES": ", ".join(declared.schedules) or None,
        }
        for declared in found
    ]
    right = ("RETRIES", "TIMEOUT", "KEPT", "BATCH", "MEMORY")
    console.print(terminal.filled(rows, right=right, fold=("SCHEDULES",)))


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
    if ":" not in type_:
        terminal.usage(f"a type is required; `{target.command(context)} show ID` says why a task waits", "TYPE")
    _judge(target.inspector(context).why_slow(type_), as_json=as_json)


def _judge(found: tuple[Check, ...], *, as_json: bool) -> None:
    """Print the checks, and exit by the worst."""
    if as_json:
        terminal.document(found)
    else:
        rows = [
            {"GRADE": check.grade, "CHECK": check.what, "FINDING": check.found, "WHAT TO DO": check.do}
            for check in found
        ]
        terminal.console().print(terminal.filled(rows, fold=("CHECK", "FINDING", "WHAT TO DO")))
        counts = {grade: sum(check.grade == grade for check in found) for grade in ("bad", "warning", "unknown")}
        if counts["warning"] > 1:
            counts["warnings"] = counts.pop("warning")
        result = ", ".join(f"{number} {grade}" for grade, number in counts.items() if number)
        terminal.say(f"{terminal.plural(len(found), 'check')}: {result or 'all good'}.")
    if any(check.grade == "bad" for check in found):
        raise typer.Exit(Exit.FAILED)
    if any(check.grade == "unknown" for check in found):
        raise typer.Exit(Exit.UNAVAILABLE)
