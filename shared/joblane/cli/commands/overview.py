"""Inspect the stage: `queues`, `stats`, `audit`, `types`, `doctor`."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from joblane.cli import filters, options, target, terminal
from joblane.cli.exits import Exit
from joblane.inspector.durations import duration
from joblane.inspector.filter import STATISTICS_BY, PauseScope
from joblane.inspector.shell import argument

if TYPE_CHECKING:
    from rich.table import Table

    from joblane.inspector.views import Check, Statistic


class Why(TyperGroup):
    """A group that knows no id of a task."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "--help"} and not ctx.resilient_parsing:
            of = target.command(ctx)
            terminal.usage(f"`{of} why slow TYPE` is about a type; `{of} show ID` says why a task waits")
        return super().parse_args(ctx, args)


why = typer.Typer(cls=Why, no_args_is_help=True, rich_markup_mode=None)

LEFT_OUT_FIRST = ("LONGEST", "MEAN WAIT", "LOST", "RETRIED", "MEAN TIME", "COMPLETED")
"""Columns of `stats` in the order in which they are left out of a narrow table."""


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


def stats(
    context: typer.Context,
    within: Annotated[
        str, typer.Option(metavar="DURATION", help="Only runs that started within this time: 1h, 1d, 1w.")
    ] = "1d",
    by: Annotated[str, typer.Option(metavar="KEY", help="type or tenant.", autocompletion=options.groups)] = "type",
    cost: Annotated[bool, typer.Option("--cost", help="Show estimated costs.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show runs by type or tenant, and their costs.

    Their outcomes, and their mean times of waiting and running. `joblane runs TYPE` has percentiles.
    """
    if by not in STATISTICS_BY:
        terminal.usage(f"{by!r} is neither type nor tenant", "--by")
    length = filters.parsed(duration, within, "--within")
    found = target.inspector(context).statistics(within=length, by=by)
    terminal.answer(found, as_json=as_json, nothing=f"No task ran within the last {within}.")
    console = terminal.console()
    console.print(_statistics(found, by, console.width, cost=cost))
    if cost:
        terminal.say(
            "Costs are estimates: run time, requests and queue calls at list prices, without the database and free "
            "tiers. See docs/explanation/costs.md."
        )


def runs(
    context: typer.Context,
    type_: Annotated[
        str | None, typer.Argument(metavar="TYPE", help="Task type.", autocompletion=options.task_types)
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(metavar="TENANT", help="The runs of this tenant instead of a type, by hour.")
    ] = None,
    within: Annotated[
        str, typer.Option(metavar="DURATION", help="Runs that ended within this time: 15m, 1d, 7d; 30d at most.")
    ] = "1d",
    as_json: options.AsJson = False,
) -> None:
    """Show the runs of one type or tenant over time.

    Runs, failures, percentiles of waits and durations, cost, tasks now, limits and errors, and the latest deploys,
    pauses, changed limits and bulk actions.
    """
    from joblane.cli import run_tables
    from joblane.cli.queue_tables import pause_line
    from joblane.errors import LimitError

    if (type_ is None) == (tenant is None):
        terminal.usage("give a type or --tenant, and not both")
    kind, name = (PauseScope.TYPE, type_) if tenant is None else (PauseScope.TENANT, tenant)
    inspector, length = target.inspector(context), filters.parsed(duration, within, "--within")
    found = inspector.performance(kind, name or "", within=length)
    terminal.answer(found, as_json=as_json)
    console = terminal.console()
    console.print(run_tables.performance(found, console.width))
    if kind is PauseScope.TYPE:
        overview = inspector.overview(minutes=1)
        declared = next((one for one in inspector.types() if one.type == found.name), None)
        console.print(run_tables.now(overview, found.name, declared))
        for name in declared.limits if declared else ():
            with suppress(LimitError):  # the database does not have it yet
                for line in run_tables.limit_lines(inspector.limits(name)):
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
    before: Annotated[int | None, typer.Option(metavar="NO", help="Only entries with a lower NO than this.")] = None,
    limit: options.Limit = 50,
    as_json: options.AsJson = False,
) -> None:
    """List actions of operators, newest first.

    A bulk action or redrive is one line. --bulk lists its tasks.
    """
    from joblane.cli import task_tables as tables

    since, until = filters.time_range(newer, older)
    found = target.inspector(context).audit(
        target=target_, who=who, action=action, bulk=bulk, since=since, until=until, before=before, limit=limit
    )
    terminal.answer(found, as_json=as_json, nothing="No audit entry matches.")
    console = terminal.console()
    console.print(tables.audit(found, datetime.now(UTC), console.width))
    if len(found) == limit:
        terminal.say(f"There may be more entries. For the next page, add --before {found[-1].number}")


def types(context: typer.Context, as_json: options.AsJson = False) -> None:
    """List the declared task types."""
    found = target.inspector(context).types()
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


@why.command("slow")
def slow(
    context: typer.Context,
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="Task type.", autocompletion=options.task_types)],
    as_json: options.AsJson = False,
) -> None:
    """Say why the tasks of a type start late.

    Checks pauses, limits, tenants, lanes, durations, arrivals, failures and the sweep. Each finding has its numbers and
    the command that helps. Exit status 1 if one of them delays tasks.
    """
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
