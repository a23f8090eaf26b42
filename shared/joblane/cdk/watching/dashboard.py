"""The widgets of the stage's dashboard, from the alarms down to the functions.

A dashboard has a limited number of metrics, and a stage any number of types. The graphs of the whole stage are always
shown. Graphs with a metric for each lane or function are taken in the order of their worth, as long as they fit, and
the text names the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from aws_cdk import aws_cloudwatch as cloudwatch

from joblane.cdk.constructs.code import Tasks
from joblane.cdk.watching.alarms import Watched, account_metric, function_metric, own_metric, queue_metric
from joblane.cdk.watching.groups import in_groups
from joblane.enqueue.wake import SWEEP
from joblane.queues import Queue, cron_group_name, dead_letter_name, front_door_name, lane_name

WIDTH, HEIGHT = 24, 6
"""Source: CloudWatch, *Dashboard body structure and syntax*."""
GRAPHS_OF_ROW = 4
ALARMS_OF_WIDGET = 100
"""The first alarms are those of the whole stage. Source: the same."""
METRICS_OF_GRAPH, METRICS_OF_DASHBOARD = 500, 2500
"""Source: CloudWatch quotas, *Dashboards*."""
METRICS_OF_FREE = 50
"""Metrics of a dashboard that costs nothing, if it is one of the first three of the account. Source: CloudWatch
pricing."""
FOUND = {
    "Overdue": "overdue tasks",
    "WaitingTooLong": "types that wait too long",
    "StuckLeases": "stuck leases",
    "DeadLettersMovedBySqs": "dead letters moved by SQS",
    "MissedTick": "missed ticks",
}
"""Metric of the sweep → its label."""
NOTE = """
# {prefix}
The description of an alarm names its section in `docs/how-to/operate.md`. For tasks and dead letters run
`joblane watch`, `joblane dead` or `joblane show ID`, or open the page with `joblane page`. For the logs use the saved
queries of Logs Insights below `{prefix}/`. Waits and durations are 99th percentiles, a line for each task type.
"""
LEFT_OUT = """
These graphs have too many metrics for this dashboard, which has {most:,} at most: {names}. See `joblane queues --lanes`
and `joblane stats`, or *All metrics* in CloudWatch: `Joblane/{prefix}`, `AWS/SQS` and `AWS/Lambda`.
"""

Row = list[cloudwatch.IWidget]
Group = Queue | None
"""None: lanes of all queues, or functions."""
GROUPS: Sequence[Group] = (*Queue, None)
MakeMetric = partial[cloudwatch.Metric]


@dataclass(frozen=True)
class Graph:
    """``metrics``: label → function that makes the metric with a label, because a graph that is left out needs none."""

    title: str
    metrics: Mapping[str, MakeMetric]
    stacked: bool = False

    def widget(self) -> cloudwatch.GraphWidget:
        return cloudwatch.GraphWidget(
            title=self.title,
            left=[make(label=label) for label, make in self.metrics.items()],
            left_y_axis=cloudwatch.YAxisProps(min=0, show_units=False),
            stacked=self.stacked,
            width=WIDTH // GRAPHS_OF_ROW,
            height=HEIGHT,
        )


@dataclass(frozen=True)
class Kind:
    """A question about all lanes or functions: a graph for each queue with lanes, or a single graph."""

    name: str
    graphs: Mapping[Group, Graph]

    @property
    def sizes(self) -> list[int]:
        return [len(graph.metrics) for graph in self.graphs.values()]


def rows(
    tasks: Tasks, *, prefix: str, functions: Sequence[str], alarms: Sequence[cloudwatch.IAlarm], most: int
) -> list[Row]:
    """Return the widgets, row by row. ``alarms``: most important first. ``most``: metrics of all graphs together."""
    of_stage = _of_stage(prefix)
    room = most - sum(len(graph.metrics) for graph in of_stage)
    shown: list[Kind] = []
    left_out: list[str] = []
    for kind in _kinds(tasks, prefix, functions):
        if sum(kind.sizes) <= room and max(kind.sizes, default=0) <= METRICS_OF_GRAPH:
            room -= sum(kind.sizes)
            shown.append(kind)
        else:
            left_out.append(kind.name)
    note = NOTE + (LEFT_OUT if left_out else "")
    text = note.format(prefix=prefix, most=most, names="; ".join(left_out))
    found: list[Row] = [[cloudwatch.TextWidget(markdown=text, width=WIDTH // 2, height=HEIGHT), _tiles(alarms)]]
    for graphs in (of_stage, *([kind.graphs[group] for kind in shown if group in kind.graphs] for group in GROUPS)):
        found += [[graph.widget() for graph in some] for some in in_groups(graphs, GRAPHS_OF_ROW)]
    return found


def _tiles(alarms: Sequence[cloudwatch.IAlarm]) -> cloudwatch.AlarmStatusWidget:
    shown = list(alarms[:ALARMS_OF_WIDGET])
    return cloudwatch.AlarmStatusWidget(
        title="Alarms" if len(shown) == len(alarms) else f"The first {len(shown)} of {len(alarms)} alarms",
        alarms=shown,
        width=WIDTH // 2,
        height=HEIGHT,
        sort_by=cloudwatch.AlarmStatusWidgetSortBy.STATE_UPDATED_TIMESTAMP,  # alarms that fire are first
    )


def _of_stage(prefix: str) -> list[Graph]:
    """The graphs with the same metrics for any number of types."""
    names = [*(front_door_name(prefix, queue) for queue in Queue), cron_group_name(prefix)]
    swept = {
        label: partial(own_metric, prefix, metric, statistic="Maximum", task_type=SWEEP)
        for metric, label in FOUND.items()
    }
    account = {
        "throttles": partial(account_metric, "Throttles", "Sum"),
        "concurrent executions": partial(account_metric, "ConcurrentExecutions", "Maximum"),
    }
    return [
        Graph("Found by the sweep", swept),
        Graph("Archived", {"all types": partial(own_metric, prefix, "Archived", statistic="Sum")}),
        Graph("Dead letters of front doors and schedules", _visible(prefix, map(dead_letter_name, names))),
        Graph("All functions of the account", account),
    ]


def _kinds(tasks: Tasks, prefix: str, functions: Sequence[str]) -> list[Kind]:
    """All other graphs, most useful first."""
    lanes = {
        queue: some
        for queue in Queue
        if (some := [Watched(task, queue, prefix) for task in tasks.values() if queue in task.lanes])
    }

    def of_queues(name: str, make: Callable[[Watched], MakeMetric], *, stacked: bool = False) -> Kind:
        graphs: dict[Group, Graph] = {
            queue: Graph(f"{queue}: {name}", {lane.task.type: make(lane) for lane in some}, stacked)
            for queue, some in lanes.items()
        }
        return Kind(name, graphs)

    def own(name: str, metric: str, statistic: str = "Sum") -> Kind:
        return of_queues(name, lambda lane: partial(lane.metric, metric, statistic), stacked=statistic == "Sum")

    def of_lanes(name: str, metric: str) -> Kind:
        return of_queues(name, lambda lane: partial(queue_metric, _name(lane), metric, "Maximum"))

    def of_functions(name: str, metric: str, statistic: str = "Sum") -> Kind:
        metrics = {function: partial(function_metric, function, metric, statistic) for function in functions}
        return Kind(f"functions' {name}", {None: Graph(f"Functions: {name}", metrics)})

    dead_letters = [dead_letter_name(_name(lane)) for some in lanes.values() for lane in some]
    return [
        own("wait p99, ms", "WaitMs", "p99"),
        own("retried", "Retried"),
        own("completed", "Completed"),
        own("archived", "Archived"),
        Kind("dead letters of lanes", {None: Graph("Dead letters of lanes", _visible(prefix, dead_letters))}),
        of_lanes("messages in lanes", "ApproximateNumberOfMessagesVisible"),
        own("started", "Started"),
        own("duration p99, ms", "DurationMs", "p99"),
        of_lanes("oldest message in lanes, s", "ApproximateAgeOfOldestMessage"),
        of_functions("errors", "Errors"),
        of_functions("throttles", "Throttles"),
        of_functions("concurrent executions", "ConcurrentExecutions", "Maximum"),
        of_functions("duration p99, ms", "Duration", "p99"),
    ]


def _name(lane: Watched) -> str:
    return lane_name(lane.prefix, lane.queue, lane.task.type)


def _visible(prefix: str, queues: Iterable[str]) -> dict[str, MakeMetric]:
    """Return the messages in dead-letter queues, by the name of the queue or lane."""
    return {
        name.removeprefix(f"{prefix}-").removesuffix("-dlq"): partial(
            queue_metric, name, "ApproximateNumberOfMessagesVisible", "Maximum"
        )
        for name in queues
    }
