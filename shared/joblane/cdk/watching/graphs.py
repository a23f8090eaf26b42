"""The graphs of the stage's dashboard: of the whole stage, and with a metric for each lane or function."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aws_cdk import aws_cloudwatch as cloudwatch

from joblane.cdk.constructs.code import Tasks
from joblane.cdk.watching.alarms import VISIBLE, Watched, lambda_metric, own_metric, queue_metric
from joblane.inspector.durations import written
from joblane.names import SWEEP, Queue, cron_group_name, dead_letter_name, front_door_name, home_of, lane_name
from joblane.tasks.task import Task

WIDTH, HEIGHT = 24, 6
"""Source: CloudWatch, *Dashboard body structure and syntax*."""
GRAPHS_OF_ROW = 4
FEW = 3
"""Names in the label of a line."""
FOUND = {
    "Overdue": "overdue tasks",
    "WaitingTooLong": "types that wait too long",
    "StuckLeases": "stuck leases",
    "DeadLettersMovedBySqs": "dead letters moved by SQS",
    "MissedTick": "missed ticks",
}
"""Metric of the sweep → its label."""

Group = Queue | None
"""None: lanes of all queues, or functions."""
GROUPS: Sequence[Group] = (*Queue, None)
MakeMetric = partial[cloudwatch.Metric]


@dataclass(frozen=True)
class Graph:
    """``metrics``: label → function that makes the metric with a label, because a graph that is left out needs none.

    ``lines``: label → value of a horizontal line.
    """

    title: str
    metrics: Mapping[str, MakeMetric]
    stacked: bool = False
    lines: Mapping[str, float] = field(default_factory=dict)

    def widget(self) -> cloudwatch.GraphWidget:
        return cloudwatch.GraphWidget(
            title=self.title,
            left=[make(label=label) for label, make in self.metrics.items()],
            left_y_axis=cloudwatch.YAxisProps(min=0, show_units=False),
            left_annotations=[
                cloudwatch.HorizontalAnnotation(label=label, value=value) for label, value in self.lines.items()
            ],
            stacked=self.stacked,
            width=WIDTH // GRAPHS_OF_ROW,
            height=HEIGHT,
        )


@dataclass(frozen=True)
class GraphKind:
    """A question about all lanes or functions: a graph for each queue with lanes, or a single graph."""

    name: str
    graphs: Mapping[Group, Graph]

    @property
    def sizes(self) -> list[int]:
        return [len(graph.metrics) for graph in self.graphs.values()]


def of_stage(prefix: str) -> list[Graph]:
    """The graphs with the same metrics for any number of types."""
    names = [*(front_door_name(prefix, queue) for queue in Queue), cron_group_name(prefix)]
    swept = partial(own_metric, prefix, task_type=SWEEP)
    runs = {
        "runs": partial(swept, "Runs", statistic="Sum"),
        "failed": partial(swept, "FailedRuns", statistic="Sum"),
        "archived": partial(own_metric, prefix, "Archived", statistic="Sum"),
    }
    found = {label: partial(swept, metric, statistic="Maximum") for metric, label in FOUND.items()}
    account = {
        "throttles": partial(lambda_metric, "Throttles"),
        "concurrent executions": partial(lambda_metric, "ConcurrentExecutions", "Maximum"),
    }
    return [
        Graph("Runs of all types", runs),
        Graph("Found by the sweep", found),
        Graph("Dead letters of front doors and schedules", _visible(prefix, map(dead_letter_name, names))),
        Graph("All functions of the account", account),
    ]


def kinds(tasks: Tasks, prefix: str, functions: Sequence[str], shares: Mapping[str, int]) -> list[GraphKind]:
    """All other graphs, most useful first."""
    lanes = {
        queue: some
        for queue in Queue
        if (some := [Watched(task, queue, prefix) for task in tasks.values() if queue in task.lanes])
    }

    def of_queues(name: str, make: Callable[[Watched], MakeMetric], **graph: Any) -> GraphKind:
        graphs: dict[Group, Graph] = {
            queue: Graph(
                f"{queue}: {name}",
                {lane.task.type: make(lane) for lane in some},
                **{key: value(some) if callable(value) else value for key, value in graph.items()},
            )
            for queue, some in lanes.items()
        }
        return GraphKind(name, graphs)

    def counted(name: str, metric: str) -> GraphKind:
        return of_queues(name, lambda lane: partial(lane.metric, metric), stacked=True)

    def times(name: str, metric: str, percentile: str, **graph: Any) -> GraphKind:
        return of_queues(f"{name} {percentile}, ms", lambda lane: partial(lane.metric, metric, percentile), **graph)

    def waits(percentile: str) -> GraphKind:
        return times("wait", "WaitMs", percentile, lines=lambda some: _targets((lane.task for lane in some), 1000))

    def of_functions(
        name: str, metric: str, statistic: str = "Sum", lines: Mapping[str, float] | None = None
    ) -> GraphKind:
        metrics = {function: partial(lambda_metric, metric, statistic, FunctionName=function) for function in functions}
        return GraphKind(f"functions' {name}", {None: Graph(f"Functions: {name}", metrics, lines=lines or {})})

    dead_letters = [dead_letter_name(_name(lane)) for some in lanes.values() for lane in some]
    due = {
        type_: partial(own_metric, prefix, "OldestDueSeconds", statistic="Maximum", task_type=type_) for type_ in tasks
    }
    return [
        GraphKind("oldest due task, s", {None: Graph("Oldest due task, s", due, lines=_targets(tasks.values(), 1))}),
        waits("p99"),
        counted("retried", "Retried"),
        counted("completed", "Completed"),
        counted("archived", "Archived"),
        GraphKind("dead letters of lanes", {None: Graph("Dead letters of lanes", _visible(prefix, dead_letters))}),
        of_functions("concurrent executions", "ConcurrentExecutions", "Maximum", _limits(tasks, prefix, shares)),
        times("duration", "DurationMs", "p99"),
        GraphKind("messages in lanes", {queue: _messages(queue, some) for queue, some in lanes.items()}),
        of_functions("throttles", "Throttles"),
        of_functions("errors", "Errors"),
        waits("p95"),
        waits("p50"),
        times("duration", "DurationMs", "p95"),
        times("duration", "DurationMs", "p50"),
        counted("started", "Started"),
        of_functions("duration p99, ms", "Duration", "p99"),
    ]


def _targets(tasks: Iterable[Task[Any, Any]], per_second: int) -> dict[str, float]:
    """Return a line for each ``target_wait``, in seconds or, with 1000 ``per_second``, in milliseconds."""
    waits = sorted({task.target_wait for task in tasks})
    return {f"target_wait {written(wait)}": wait.total_seconds() * per_second for wait in waits}


def _limits(tasks: Tasks, prefix: str, shares: Mapping[str, int]) -> dict[str, float]:
    """Return a line for each concurrency limit. A function has the limit of all lanes of its types."""
    functions: defaultdict[str, list[Task[Any, Any]]] = defaultdict(list)
    for task in tasks.values():
        functions[home_of(task.type)].append(task)
    limited: defaultdict[int, list[str]] = defaultdict(list)
    for home, members in functions.items():
        lanes = {lane_name(prefix, queue, task.type) for task in members for queue in task.lanes}
        limited[sum(shares[lane] for lane in lanes)].append(home)
    return {f"limit {limit}: {_few(homes, functions)}": limit for limit, homes in sorted(limited.items())}


def _few(homes: Sequence[str], functions: Mapping[str, Sequence[Task[Any, Any]]]) -> str:
    return ", ".join(homes) if len(homes) <= FEW else f"{sum(len(functions[home]) for home in homes)} types"


def _messages(queue: Queue, lanes: Sequence[Watched]) -> Graph:
    """The lane of a place has a single line, with the name of the place."""
    names = {
        lane.task.type if lane.task.place is None else lane.task.place.name: partial(
            queue_metric, VISIBLE, "Maximum", QueueName=_name(lane)
        )
        for lane in lanes
    }
    return Graph(f"{queue}: messages in lanes", names)


def _name(lane: Watched) -> str:
    return lane_name(lane.prefix, lane.queue, lane.task.type)


def _visible(prefix: str, queues: Iterable[str]) -> dict[str, MakeMetric]:
    """Return the messages in dead-letter queues, by the name of the queue or lane."""
    return {
        name.removeprefix(f"{prefix}-").removesuffix("-dlq"): partial(queue_metric, VISIBLE, "Maximum", QueueName=name)
        for name in queues
    }
