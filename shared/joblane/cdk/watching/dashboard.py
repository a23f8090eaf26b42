"""The widgets of the stage's dashboard, from the state in six numbers and the alarms down to the functions.

A dashboard has a limited number of metrics, and a stage any number of types. The graphs of the whole stage are always
shown. Graphs with a metric for each lane or function are taken in the order of their worth, as long as they fit, and
the text names the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from aws_cdk import aws_cloudwatch as cloudwatch

from joblane.cdk.constructs.code import Tasks
from joblane.cdk.watching.alarms import Links, in_groups, lambda_metric, own_metric
from joblane.cdk.watching.graphs import GRAPHS_OF_ROW, GROUPS, HEIGHT, WIDTH, GraphKind, kinds, of_stage
from joblane.names import SWEEP, function_name, log_group_name

ALARMS_OF_WIDGET = 100
"""The alarms of the whole stage come first. Source: CloudWatch, *Dashboard body structure and syntax*."""
METRICS_OF_GRAPH, METRICS_OF_DASHBOARD = 500, 2500
"""Source: CloudWatch quotas, *Dashboards*."""
METRICS_OF_FREE = 50
"""Metrics of a dashboard that costs nothing, if it is one of the first three of the account. Source: CloudWatch
pricing."""
NOTE = """
# {prefix}
{links}

`{doctor}` is the first check. `{dead}` shows what failed for good, `{pause}` stops a type that does harm, and
`{watch}` is this dashboard in a terminal. The description of an alarm has its command and its section of the runbook.
"""
LEFT_OUT = """
These graphs have too many metrics for this dashboard, which has {most:,} at most: {names}. See `joblane queues --lanes`
and `joblane runs`, or *All metrics* in CloudWatch: `Joblane/{prefix}`, `AWS/SQS` and `AWS/Lambda`.
"""

DAY = "-P1D"
"""Start of a widget's own time range: 24 hours ago. Source: *Dashboard body structure and syntax*."""
NUMBERS_OF_ROW, METRICS_OF_ROW, HEIGHT_OF_NUMBER = 6, 8, 3
FINDINGS = """
filter task_type = "jobs:sweep" and level = "ERROR"
| fields @timestamp, message, coalesce(of_type, newest, queue, old_snapshot.holder) as what, waits_seconds, messages
| sort @timestamp desc
| limit 50
"""
DEPLOYS = """
filter message like /^migrated/
| fields @timestamp, version, deployed_by, message, revision, types
| sort @timestamp desc
| limit 50
"""
"""Every deploy of changed code migrates. Lines in a graph are fixed when the dashboard is deployed, so they cannot show
the deploys. The two logs are small: a query costs by the bytes that it reads."""

Row = list[cloudwatch.IWidget]


def rows(
    tasks: Tasks,
    *,
    prefix: str,
    functions: Sequence[str],
    shares: Mapping[str, int],
    alarms: Sequence[cloudwatch.IAlarm],
    links: Links,
    most: int,
) -> list[Row]:
    """Return the widgets, row by row. ``shares``: the limit of each lane by its name. ``alarms``: most important first.
    ``most``: metrics of all graphs together."""
    always = of_stage(prefix)
    room = most - METRICS_OF_ROW - sum(len(graph.metrics) for graph in always)
    shown: list[GraphKind] = []
    left_out: list[str] = []
    for kind in kinds(tasks, prefix, functions, shares):
        if sum(kind.sizes) <= room and max(kind.sizes, default=0) <= METRICS_OF_GRAPH:
            room -= sum(kind.sizes)
            shown.append(kind)
        else:
            left_out.append(kind.name)
    text = cloudwatch.TextWidget(markdown=_note(prefix, links, left_out, most), width=WIDTH // 2, height=HEIGHT)
    found: list[Row] = [_numbers(prefix), [text, _tiles(alarms)]]
    for graphs in (always, *([kind.graphs[group] for kind in shown if group in kind.graphs] for group in GROUPS)):
        found += [[graph.widget() for graph in some] for some in in_groups(graphs, GRAPHS_OF_ROW)]
    return [*found, _logs(prefix)]


def _numbers(prefix: str) -> Row:
    """The first row: the state of the stage in :data:`NUMBERS_OF_ROW` numbers of :data:`METRICS_OF_ROW` metrics."""
    own = partial(own_metric, prefix, statistic="Sum")
    runs, failed = (own(name, task_type=SWEEP) for name in ("Runs", "FailedRuns"))
    share = cloudwatch.MathExpression(
        expression="IF(runs > 0, 100 * FILL(failed, 0) / runs, 0)",
        using_metrics={"runs": runs, "failed": failed},
        label="failed",
    )
    # 0 only where a sweep has reported that nothing is due, and not while its metrics have not arrived yet
    due = cloudwatch.MathExpression(
        expression="IF(swept >= 0, FILL(due, 0))",
        using_metrics={
            "swept": own_metric(prefix, "Overdue", statistic="Maximum", task_type=SWEEP),
            "due": own_metric(prefix, "OldestDueSeconds", statistic="Maximum"),
        },
        label="seconds",
    )
    of_day: dict[str, cloudwatch.IMetric] = {
        "Runs, 24 h": runs,
        "Failed, % of runs, 24 h": share,
        "Archived (dead), 24 h": own("Archived"),
        "Throttles of the account, 24 h": lambda_metric("Throttles"),
        "Estimated cost, $, 24 h": own("CostUsd", task_type=SWEEP),
    }
    size: Any = {"width": WIDTH // NUMBERS_OF_ROW, "height": HEIGHT_OF_NUMBER}
    row: Row = [
        cloudwatch.SingleValueWidget(title=title, metrics=[metric], start=DAY, set_period_to_time_range=True, **size)
        for title, metric in of_day.items()
    ]
    oldest = cloudwatch.SingleValueWidget(title="Oldest due task, s, now", metrics=[due], sparkline=True, **size)
    return [*row[:3], oldest, *row[3:]]


def _note(prefix: str, links: Links, left_out: Sequence[str], most: int) -> str:
    buttons = {
        "primary:Page": links.page,
        "Runbook": links.runbook and links.section("stop-the-harm-first"),
        "Saved queries": "#logsV2:logs-insights",
    }
    note = NOTE + (LEFT_OUT if left_out else "")
    return note.format(
        prefix=prefix,
        links=" ".join(f"[button:{label}]({address})" for label, address in buttons.items() if address),
        doctor=links.command("doctor"),
        dead=links.command("dead --sort last"),
        pause=links.command("pause type TYPE"),
        watch=links.command("watch"),
        most=most,
        names="; ".join(left_out),
    )


def _logs(prefix: str) -> Row:
    """Tables of the findings of the sweep, and of the deploys."""
    return [
        cloudwatch.LogQueryWidget(
            title=title,
            log_group_names=[log_group_name(function)],
            query_string=query.strip(),
            width=WIDTH // 2,
            height=HEIGHT,
        )
        for title, function, query in (
            ("Found by the sweep, newest first", function_name(prefix, SWEEP), FINDINGS),
            ("Deploys, newest first", f"{prefix}-migrate", DEPLOYS),
        )
    ]


def _tiles(alarms: Sequence[cloudwatch.IAlarm]) -> cloudwatch.AlarmStatusWidget:
    shown = list(alarms[:ALARMS_OF_WIDGET])
    return cloudwatch.AlarmStatusWidget(
        title="Alarms" if len(shown) == len(alarms) else f"The first {len(shown)} of {len(alarms)} alarms",
        alarms=shown,
        width=WIDTH // 2,
        height=HEIGHT,
        sort_by=cloudwatch.AlarmStatusWidgetSortBy.STATE_UPDATED_TIMESTAMP,  # alarms that fire are first
    )
