"""The alarms of a stage, as a list derived from its tasks: metrics, thresholds, and the meaning of missing data.

There are three alarms for each lane and about six for the stage. Throttles and runs near their timeout have one alarm
for every ten functions or lanes, because their cause is shared or nobody has to be woken. CloudWatch bills the metrics
that alarms read, and an alarm reads at most ten, so one alarm for ten lanes costs as much as ten alarms: it only saves
mails that would say the same, and the dashboard shows which lane it is. A ``SEARCH`` expression could read all lanes,
but an alarm does not accept one.
Sources: CloudWatch, *Using metric math*; its pricing, whose unit is an "alarm metric".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch

from joblane.cdk.settings.apis import Count, Monitoring
from joblane.declaration import Task
from joblane.enqueue.wake import SWEEP
from joblane.queues import Queue, cron_group_name, dead_letter_name, front_door_name, function_name
from joblane.telemetry import namespace

PAGE = "docs/how-to/operate.md"
MAX_METRICS = 10
"""Metrics that one alarm reads. Source: CloudWatch quotas, *Metric Math alarms*."""
MAX_RANGE = timedelta(days=1)
"""All evaluated periods of an alarm together. Source: PutMetricAlarm, CloudWatch API reference."""
FIVE, QUARTER = timedelta(minutes=5), timedelta(minutes=15)
WORST_WAIT, WORST_TIME = "p95", "p99"
"""Percentiles. With few runs a single slow run decides; with many runs several have to be slow."""

T = TypeVar("T")
Metrics = Mapping[str, cloudwatch.IMetric]


class Silence(StrEnum):
    """The meaning of missing data, as the alarm's description says it."""

    FINE = "No data means that nothing ran, or that there was no problem."
    FAULT = "No data means that no run has completed."


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """``name``: without the stage's prefix. ``run``: the first command. ``heading``: the section of :data:`PAGE`.

    The alarm fires when ``expression`` over ``metrics`` (the one metric itself if the expression is empty) reaches
    ``threshold`` in ``rings_after`` of the last ``periods`` periods. With ``below`` it fires below ``threshold``.
    """

    name: str
    heading: str
    says: str
    run: str
    metrics: Metrics
    threshold: float
    silence: Silence = Silence.FINE
    expression: str = ""
    period: timedelta = FIVE
    periods: int = 2  # CloudWatch reads metrics from the log: those of the last five minutes may be late
    rings_after: int = 1
    below: bool = False

    @property
    def description(self) -> str:
        return f"{self.says} Run: {self.run}. Runbook: {PAGE}#{self.heading}. {self.silence}"


def alarms(
    monitoring: Monitoring, tasks: Mapping[str, Task[Any, Any]], *, prefix: str, functions: Sequence[str]
) -> list[Alarm]:
    """Return all alarms of a stage. ``functions``: the names of its Lambda functions."""
    lanes = [Watched(task, queue, prefix) for task in tasks.values() for queue in task.lanes]
    return [
        *(alarm for lane in lanes for alarm in _of_lane(lane, monitoring)),
        *_near_timeout(lanes, monitoring),
        *_throttles(functions, monitoring),
        *_of_dead_letters(prefix, monitoring),
        *(_of_sweep(tasks[SWEEP], prefix, monitoring) if SWEEP in tasks else ()),
    ]


# --- For each lane -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched:
    """A task type in one queue, and its metrics."""

    task: Task[Any, Any]
    queue: Queue
    prefix: str

    @property
    def name(self) -> str:
        return f"{self.queue}-{self.task.slug}"

    def metric(self, name: str, statistic: str = "Sum", period: timedelta = FIVE) -> cloudwatch.Metric:
        """Return a metric that :mod:`joblane.worker.run_log` writes."""
        return own_metric(
            self.prefix, name, statistic=statistic, period=period, task_type=self.task.type, queue=self.queue.value
        )


def _of_lane(lane: Watched, monitoring: Monitoring) -> Iterator[Alarm]:
    type_ = lane.task.type
    if isinstance(monitoring.archived, int):
        yield Alarm(
            name=f"archived-{lane.name}",
            heading="archived",
            says=f"{type_}: at least {_count(monitoring.archived, 'task was', 'tasks were')} archived in 15 minutes.",
            run="joblane dead",
            metrics={"archived": lane.metric("Archived", period=QUARTER)},
            threshold=monitoring.archived,
            period=QUARTER,
        )
    if isinstance(monitoring.failing_percent, int):
        yield _failing(lane, monitoring.failing_percent, monitoring.failing_runs)
    if monitoring.waiting:
        target = lane.task.target_wait
        yield Alarm(
            name=f"waiting-{lane.name}",
            heading="waiting-too-long",
            says=f"{type_}: tasks started more than {in_words(target)} (its target_wait) after they were due.",
            run="joblane queues --lanes",
            metrics={"wait": lane.metric("WaitMs", WORST_WAIT)},
            threshold=target / timedelta(milliseconds=1),
        )


def _failing(lane: Watched, percent: int, runs: int) -> Alarm:
    """Runs that were killed write no metric, so Lambda's own errors are counted in addition.

    A missing metric counts as 0 in a sum. Source: CloudWatch, *Using metric math*, basic arithmetic functions.
    """
    metrics = {name: lane.metric(name.capitalize(), period=QUARTER) for name in ("started", "retried", "archived")}
    metrics["errors"] = function_metric(function_name(lane.prefix, lane.task.type), "Errors", period=QUARTER)
    return Alarm(
        name=f"failing-{lane.name}",
        heading="failing",
        says=f"{lane.task.type}: at least {percent} % of the runs failed in 15 minutes, with {runs} runs or more.",
        run=f"joblane ls --state retry --type {lane.task.type}",
        metrics=metrics,
        expression=(f"IF(started + errors >= {runs}, 100 * (retried + archived + errors) / (started + errors), 0)"),
        threshold=percent,
        period=QUARTER,
    )


# --- For ten lanes or functions ------------------------------------------------------------------------------------


def _near_timeout(lanes: Sequence[Watched], monitoring: Monitoring) -> Iterator[Alarm]:
    """The longest runs, in percent of their types' timeouts.

    A resumable task is left out: it uses each invocation to its end and continues in the next one.
    """
    if not isinstance(monitoring.near_timeout_percent, int):
        return
    for number, some in _in_tens([lane for lane in lanes if not lane.task.resumable]):
        shares = [f"100 * d{n} / {lane.task.timeout // timedelta(milliseconds=1)}" for n, lane in enumerate(some)]
        yield Alarm(
            name=f"near-timeout-{number}",
            heading="near-the-timeout",
            says=(
                f"Runs took {monitoring.near_timeout_percent} % of their timeout or more. One of these types: "
                f"{', '.join(lane.task.type for lane in some)}."
            ),
            run="joblane stats --within 1d",
            metrics={f"d{n}": lane.metric("DurationMs", WORST_TIME, QUARTER) for n, lane in enumerate(some)},
            expression=f"MAX([{', '.join(shares)}])" if len(shares) > 1 else shares[0],
            threshold=monitoring.near_timeout_percent,
            period=QUARTER,
        )


def _throttles(functions: Sequence[str], monitoring: Monitoring) -> Iterator[Alarm]:
    if not isinstance(monitoring.throttles, int):
        return
    for number, some in _in_tens(functions):
        metrics = {f"t{n}": function_metric(name, "Throttles") for n, name in enumerate(some)}
        yield Alarm(
            name=f"throttles-{number}",
            heading="throttles",
            says=f"Lambda throttled one of these functions: {', '.join(some)}.",
            run="joblane doctor",
            metrics=metrics,
            expression=" + ".join(metrics) if len(metrics) > 1 else "",
            threshold=monitoring.throttles,
        )


def _in_tens(things: Sequence[T]) -> Iterator[tuple[int, Sequence[T]]]:
    """Groups of as many things as one alarm can read, numbered from 1."""
    starts = range(0, len(things), MAX_METRICS)
    return ((number, things[start : start + MAX_METRICS]) for number, start in enumerate(starts, start=1))


# --- For the stage -------------------------------------------------------------------------------------------------


def _of_dead_letters(prefix: str, monitoring: Monitoring) -> Iterator[Alarm]:
    """The dead-letter queues of front doors and schedules. Those of lanes have alarms of their own."""
    if not isinstance(monitoring.refused, int):
        return
    queues = [*(front_door_name(prefix, queue) for queue in Queue), cron_group_name(prefix)]
    metrics = {
        f"q{n}": queue_metric(dead_letter_name(name), "ApproximateNumberOfMessagesVisible", "Maximum")
        for n, name in enumerate(queues)
    }
    yield Alarm(
        name="refused",
        heading="refused",
        says="A front door refused messages, or EventBridge could not send ticks. They are in one of these dead-letter "
        f"queues: {', '.join(map(dead_letter_name, queues))}.",
        run="joblane dead",
        metrics=metrics,
        expression=" + ".join(metrics),
        threshold=monitoring.refused,
    )


def _of_sweep(sweep: Task[Any, Any], prefix: str, monitoring: Monitoring) -> Iterator[Alarm]:
    gap = longest_gap(sweep)
    if gap is None:  # the stage has switched the sweep off, so its metrics are missing on purpose
        return

    def reported(name: str, metric: str, threshold: Count, *, heading: str, says: str, run: str) -> Iterator[Alarm]:
        if isinstance(threshold, int):
            metrics = {"found": own_metric(prefix, metric, statistic="Maximum", period=FIVE, task_type=SWEEP)}
            yield Alarm(name=name, heading=heading, says=says, run=run, metrics=metrics, threshold=threshold)

    yield from reported(
        "moved-by-sqs",
        "DeadLettersMovedBySqs",
        monitoring.moved_by_sqs,
        heading="dead-letters-that-sqs-moved",
        says="SQS itself moved messages to a dead-letter queue, so no reason was recorded. The sweep's log names the "
        "queue.",
        run="joblane dead",
    )
    yield from reported(
        "waiting",
        "WaitingTooLong",
        1 if monitoring.waiting else "off",
        heading="waiting-too-long",
        says="Tasks are due for longer than the target_wait of their type and have not started. The sweep's log names "
        "the types.",
        run="joblane queues --lanes",
    )
    yield from reported(
        "missed-tick",
        "MissedTick",
        monitoring.missed_ticks,
        heading="a-missed-tick",
        says="A schedule should have fired, and its tick has not arrived. The sweep's log names the schedule.",
        run="joblane schedules",
    )
    yield from reported(
        "stuck-lease",
        "StuckLeases",
        monitoring.stuck_leases,
        heading="a-stuck-lease",
        says="The leases of runs ended more than ten minutes ago, and the sweep has not found them.",
        run="joblane doctor",
    )
    completed = partial(own_metric, prefix, "Completed", task_type=SWEEP, queue=sweep.queue.value)
    yield from silence("sweep", "the-sweep-does-not-run", completed, gap, monitoring.silence)


def silence(
    name: str, heading: str, completed: Callable[..., cloudwatch.Metric], gap: timedelta, times: Count
) -> Iterator[Alarm]:
    """An alarm that fires when the metric of completed runs is missing ``times`` in a row.

    ``completed``: returns the metric for a statistic and a period. ``gap``: the longest time between two runs, see
    :func:`longest_gap`. There is no alarm if the gap is more than a day, or ``times`` is ``off``.
    """
    if not isinstance(times, int) or gap > MAX_RANGE:
        return
    period = math.ceil(gap / FIVE) * FIVE
    periods = min(times, MAX_RANGE // period)
    yield Alarm(
        name=name,
        heading=heading,
        says=f"No {name.replace('-', ' ')} has completed for {in_words(periods * period)}.",
        run="joblane doctor",
        metrics={"completed": completed(statistic="Sum", period=period)},
        threshold=1,
        below=True,
        silence=Silence.FAULT,
        period=period,
        periods=periods,
        rings_after=periods,
    )


# --- Words ---------------------------------------------------------------------------------------------------------


def in_words(length: timedelta) -> str:
    """``1 h 30 min``, for people who read an alarm's mail."""
    minutes, seconds = divmod(int(length.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{number} {unit}" for number, unit in ((hours, "h"), (minutes, "min"), (seconds, "s")) if number]
    return " ".join(parts) or "0 s"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


# --- Metrics -------------------------------------------------------------------------------------------------------


def own_metric(
    prefix: str, name: str, *, statistic: str, period: timedelta = FIVE, **dimensions: str
) -> cloudwatch.Metric:
    """Return a metric that the stage's functions write."""
    return _metric(namespace(prefix), name, statistic, period, dimensions)


def function_metric(function: str, name: str, statistic: str = "Sum", period: timedelta = FIVE) -> cloudwatch.Metric:
    return _metric("AWS/Lambda", name, statistic, period, {"FunctionName": function})


def queue_metric(queue: str, name: str, statistic: str, period: timedelta = FIVE) -> cloudwatch.Metric:
    return _metric("AWS/SQS", name, statistic, period, {"QueueName": queue})


def _metric(
    space: str, name: str, statistic: str, period: timedelta, dimensions: Mapping[str, str]
) -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace=space,
        metric_name=name,
        statistic=statistic,
        period=Duration.seconds(int(period.total_seconds())),
        dimensions_map=dict(dimensions),
    )


MONDAY = datetime(2026, 6, 1, tzinfo=UTC)
"""Any Monday will do in whose week no clock changes."""


def longest_gap(task: Task[Any, Any]) -> timedelta | None:
    """Return the longest time between two ticks of a task within a week; None if the task has no schedule."""
    if not task.schedules:
        return None
    ends, moment, longest = MONDAY + timedelta(days=7), MONDAY, timedelta(0)
    while moment < ends:
        following = min(schedule.next_after(moment) for schedule in task.schedules)
        longest, moment = max(longest, following - moment), following
    return longest
