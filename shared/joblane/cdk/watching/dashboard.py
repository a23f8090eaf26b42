"""The widgets of the stage's dashboard, from the alarms down to the functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import aws_cloudwatch as cloudwatch

from joblane.cdk.constructs.code import Tasks
from joblane.cdk.watching.alarms import Watched, function_metric, own_metric, queue_metric
from joblane.enqueue.wake import SWEEP
from joblane.queues import Queue, cron_group_name, dead_letter_name, front_door_name, lane_name

WIDTH = 24
"""Source: CloudWatch, *Dashboard body structure and syntax*."""
HEIGHT = 6
MAX_ALARMS = 100
"""In one widget. The last alarms are shown, which are those of the whole stage. Source: the same."""
ENDS = ("Started", "Completed", "Retried", "Archived")
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

Row = list[cloudwatch.IWidget]


def rows(tasks: Tasks, *, prefix: str, functions: Sequence[str], alarms: Sequence[cloudwatch.IAlarm]) -> list[Row]:
    """The widgets, row by row."""
    lanes = {queue: [Watched(task, queue, prefix) for task in tasks.values() if queue in task.lanes] for queue in Queue}
    return [
        [
            cloudwatch.TextWidget(markdown=NOTE.format(prefix=prefix), width=WIDTH // 2, height=HEIGHT),
            cloudwatch.AlarmStatusWidget(
                title="Alarms", alarms=list(alarms[-MAX_ALARMS:]), width=WIDTH // 2, height=HEIGHT
            ),
        ],
        *(row for queue in Queue if lanes[queue] for row in _of_queue(queue, lanes[queue], prefix)),
        _of_dead_letters(lanes, prefix),
        _of_functions(functions),
    ]


def _of_queue(queue: Queue, lanes: Sequence[Watched], prefix: str) -> list[Row]:
    """Runs and their outcomes, waits and durations, and the messages in the lanes."""
    names = {lane.task.type: lane_name(prefix, queue, lane.task.type) for lane in lanes}
    return [
        [
            _graph(
                f"{queue}: {end.lower()}",
                {lane.task.type: lane.metric(end) for lane in lanes},
                width=WIDTH // len(ENDS),
                stacked=True,
            )
            for end in ENDS
        ],
        [
            _graph(f"{queue}: wait p99, ms", {lane.task.type: lane.metric("WaitMs", "p99") for lane in lanes}),
            _graph(f"{queue}: duration p99, ms", {lane.task.type: lane.metric("DurationMs", "p99") for lane in lanes}),
            _graph(f"{queue}: messages in lanes", _queues(names, "ApproximateNumberOfMessagesVisible")),
            _graph(f"{queue}: oldest message in lanes, s", _queues(names, "ApproximateAgeOfOldestMessage")),
        ],
    ]


def _of_dead_letters(lanes: Mapping[Queue, Sequence[Watched]], prefix: str) -> Row:
    names = [lane_name(prefix, queue, lane.task.type) for queue, some in lanes.items() for lane in some]
    names += [*(front_door_name(prefix, queue) for queue in Queue), cron_group_name(prefix)]
    dead_letters = {name.removeprefix(f"{prefix}-"): dead_letter_name(name) for name in names}
    swept = {label: own_metric(prefix, metric, statistic="Maximum", task_type=SWEEP) for metric, label in FOUND.items()}
    return [
        _graph("Dead letters", _queues(dead_letters, "ApproximateNumberOfMessagesVisible"), width=WIDTH // 2),
        _graph("Found by the sweep", swept, width=WIDTH // 2),
    ]


def _of_functions(functions: Sequence[str]) -> Row:
    def all_of(metric: str, statistic: str = "Sum") -> dict[str, cloudwatch.IMetric]:
        return {name: function_metric(name, metric, statistic) for name in functions}

    return [
        _graph("Functions: errors", all_of("Errors")),
        _graph("Functions: throttles", all_of("Throttles")),
        _graph("Functions: concurrent executions", all_of("ConcurrentExecutions", "Maximum")),
        _graph("Functions: duration p99, ms", all_of("Duration", "p99")),
    ]


def _queues(names: Mapping[str, str], metric: str) -> dict[str, cloudwatch.IMetric]:
    return {label: queue_metric(name, metric, "Maximum") for label, name in names.items()}


def _graph(
    title: str,
    metrics: Mapping[str, cloudwatch.IMetric],
    *,
    width: int = WIDTH // 4,
    stacked: bool = False,
) -> cloudwatch.GraphWidget:
    labelled = [metric.with_(label=label) for label, metric in metrics.items()]  # type: ignore[attr-defined]
    return cloudwatch.GraphWidget(
        title=title,
        left=labelled,
        left_y_axis=cloudwatch.YAxisProps(min=0, show_units=False),
        stacked=stacked,
        width=width,
        height=HEIGHT,
    )
