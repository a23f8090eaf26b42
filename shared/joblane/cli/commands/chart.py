"""Draw the runs of the stage over time: `chart`."""

from __future__ import annotations

from typing import Annotated

import typer

from joblane.cli import filters, options, target, terminal
from joblane.inspector.durations import duration
from joblane.inspector.filter import PERCENTILES, Group, Measure
from joblane.inspector.sentences.stage import chart_lines


def chart(
    context: typer.Context,
    of: Annotated[
        Measure, typer.Argument(metavar="SERIES", help="runs, failed, failed-share, wait, duration or cost.")
    ] = Measure.RUNS,
    *,
    by: Annotated[
        Group | None,
        typer.Option(metavar="GROUP", help="type, queue, tenant or none. Default: type, or none with --tenant."),
    ] = None,
    percentile: Annotated[
        str,
        typer.Option(
            metavar="P", help="p50, p95 or p99, of waits and durations.", autocompletion=lambda: [*PERCENTILES]
        ),
    ] = "p95",
    within: Annotated[
        str, typer.Option(metavar="DURATION", help="Runs within this time: 2h, 7d; 180d at most.")
    ] = "1d",
    types: options.Types = None,
    queue: Annotated[
        str | None,
        typer.Option("--queue", "-q", metavar="QUEUE", help="Runs of this queue.", autocompletion=options.queues),
    ] = None,
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Runs of this tenant.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also the runs of the day, the week or the 30 days before.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, max=12, help="Groups; the others are added up.")
    ] = 8,
    as_json: options.AsJson = False,
) -> None:
    """Chart one series of runs over time, by type, queue or tenant.

    The sweep counts runs some minutes after their end, and runs of tenants at the end of an hour.
    """
    found = target.inspector(context).chart(
        of=of,
        by=by or (Group.TYPE if tenant is None else Group.NONE),
        percentile=percentile,
        within=filters.parsed(duration, within, "--within"),
        types=tuple(types or ()),
        queue=queue,
        tenant=tenant,
        compare=compare,
        limit=limit,
    )
    terminal.answer(found, as_json=as_json)
    from joblane.cli import run_tables

    console = terminal.console()
    console.print(run_tables.lines(found, f"{of.heading} {percentile if of.is_time else ''}".strip(), console.width))
    for line in chart_lines(found):
        terminal.say(line)
