"""The alarms of a stage, as a list that follows from its tasks: what each watches, from when, and what silence means.

How many there are: three for each lane, six or so for the stage, and one for each ten lanes or functions where the
cause is shared or nobody is woken. CloudWatch bills the metrics that alarms read, and an alarm reads ten at most, so
alarms put together cost as much as single ones: they are where a mail for each would say the same, and the dashboard
names the culprit. A query by ``SEARCH`` could watch them all, and no alarm takes one.
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
"""That one alarm reads. Source: CloudWatch quotas, *Metric Math alarms*."""
MAX_RANGE = timedelta(days=1)
"""Periods that are looked at, together. Source: PutMetricAlarm, CloudWatch API reference."""
FIVE, QUARTER = timedelta(minutes=5), timedelta(minutes=15)
WORST_WAIT, WORST_TIME = "p95", "p99"
"""One run that is out of line is looked at; where there are many, they have to be several."""

T = TypeVar("T")
Metrics = Mapping[str, cloudwatch.IMetric]


class Silence(StrEnum):
    """What an alarm takes missing data for, with the words its description has for it."""

    FINE = "No data: nothing ran, or nothing was wrong."
    FAULT = "No data: it does not run, which is what this alarm is for."


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """``name``: without the stage's prefix. ``heading``: of :data:`PAGE`, where it says what to do.

    It rings when ``expression`` over ``metrics`` (the one metric itself where it is empty) reaches ``threshold``, or
    falls short of it where ``below``, in ``rings_after`` of the last ``periods`` periods.
    """

    name: str
    heading: str
    says: str
    metrics: Metrics
    threshold: float
    silence: Silence = Silence.FINE
    expression: str = ""
    period: timedelta = FIVE
    periods: int = 2  # CloudWatch reads metrics out of the log, and may have the last five minutes late
    rings_after: int = 1
    below: bool = False

    @property
    def description(self) -> str:
        return f"{self.says} What to do: {PAGE}#{self.heading}. {self.silence}"


def alarms(
    monitoring: Monitoring, tasks: Mapping[str, Task[Any, Any]], *, prefix: str, functions: Sequence[str]
) -> list[Alarm]:
    """All alarms of a stage. ``functions``: the names of its Lambdas."""
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
        """One of those that :mod:`joblane.worker.run_log` writes."""
        return own_metric(
            self.prefix, name, statistic=statistic, period=period, task_type=self.task.type, queue=self.queue.value
        )


def _of_lane(lane: Watched, monitoring: Monitoring) -> Iterator[Alarm]:
    type_ = lane.task.type
    if isinstance(monitoring.archived, int):
        yield Alarm(
            name=f"archived-{lane.name}",
            heading="given-up",
            says=f"{type_}: tasks were given up, {monitoring.archived} or more in 15 minutes.",
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
            says=f"{type_}: tasks started later than its target_wait of {target} after they were due.",
            metrics={"wait": lane.metric("WaitMs", WORST_WAIT)},
            threshold=target / timedelta(milliseconds=1),
        )


def _failing(lane: Watched, percent: int, runs: int) -> Alarm:
    """Runs that were killed write no metric, so Lambda's own errors are counted beside them.

    What is missing counts as 0 in a sum. Source: CloudWatch, *Using metric math*, basic arithmetic functions.
    """
    metrics = {name: lane.metric(name.capitalize(), period=QUARTER) for name in ("started", "retried", "archived")}
    metrics["errors"] = function_metric(function_name(lane.prefix, lane.task.type), "Errors", period=QUARTER)
    return Alarm(
        name=f"failing-{lane.name}",
        heading="failing",
        says=f"{lane.task.type}: {percent} % or more of at least {runs} runs failed in 15 minutes.",
        metrics=metrics,
        expression=(f"IF(started + errors >= {runs}, 100 * (retried + archived + errors) / (started + errors), 0)"),
        threshold=percent,
        period=QUARTER,
    )


# --- For ten at once -----------------------------------------------------------------------------------------------


def _near_timeout(lanes: Sequence[Watched], monitoring: Monitoring) -> Iterator[Alarm]:
    """The longest runs, as percents of their types' timeouts.

    A resumable task is left out: it fills each invocation as it is meant to, and goes on in the next.
    """
    if not isinstance(monitoring.near_timeout_percent, int):
        return
    for number, some in _in_tens([lane for lane in lanes if not lane.task.resumable]):
        shares = [f"100 * d{n} / {lane.task.timeout // timedelta(milliseconds=1)}" for n, lane in enumerate(some)]
        yield Alarm(
            name=f"near-timeout-{number}",
            heading="near-the-timeout",
            says=(
                f"Runs took {monitoring.near_timeout_percent} % or more of their timeout, of one of: "
                f"{', '.join(lane.task.type for lane in some)}."
            ),
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
            says=f"Lambda had no room for invocations of one of: {', '.join(some)}.",
            metrics=metrics,
            expression=" + ".join(metrics) if len(metrics) > 1 else "",
            threshold=monitoring.throttles,
        )


def _in_tens(things: Sequence[T]) -> Iterator[tuple[int, Sequence[T]]]:
    """As many as one alarm takes at once, numbered from 1."""
    starts = range(0, len(things), MAX_METRICS)
    return ((number, things[start : start + MAX_METRICS]) for number, start in enumerate(starts, start=1))


# --- For the stage -------------------------------------------------------------------------------------------------


def _of_dead_letters(prefix: str, monitoring: Monitoring) -> Iterator[Alarm]:
    """Of front doors and schedules: the letters of lanes are tasks that were given up, or such as SQS moved."""
    if not isinstance(monitoring.refused, int):
        return
    doors = [*(front_door_name(prefix, queue) for queue in Queue), cron_group_name(prefix)]
    metrics = {
        f"q{n}": queue_metric(dead_letter_name(name), "ApproximateNumberOfMessagesVisible", "Maximum")
        for n, name in enumerate(doors)
    }
    yield Alarm(
        name="refused",
        heading="refused",
        says="Messages were refused at a front door, or ticks could not be sent; they are in one of the DLQs: "
        f"{', '.join(map(dead_letter_name, doors))}.",
        metrics=metrics,
        expression=" + ".join(metrics),
        threshold=monitoring.refused,
    )


def _of_sweep(sweep: Task[Any, Any], prefix: str, monitoring: Monitoring) -> Iterator[Alarm]:
    gap = longest_gap(sweep)
    if gap is None:  # it is off: what it would tell is missing for a reason
        return

    def reported(name: str, metric: str, heading: str, says: str, threshold: Count) -> Iterator[Alarm]:
        if isinstance(threshold, int):
            metrics = {"found": own_metric(prefix, metric, statistic="Maximum", period=FIVE, task_type=SWEEP)}
            yield Alarm(name=name, heading=heading, says=says, metrics=metrics, threshold=threshold)

    yield from reported(
        "moved-by-sqs",
        "DeadLettersMovedBySqs",
        "dead-letters-that-sqs-moved",
        "SQS itself moved messages to a dead-letter queue: the code did not get to say why.",
        monitoring.moved_by_sqs,
    )
    yield from reported(
        "waiting",
        "WaitingTooLong",
        "waiting-too-long",
        "Tasks have not started yet and are due for longer than their types' target_wait; the sweep's log names them.",
        1 if monitoring.waiting else "off",
    )
    yield from reported(
        "missed-tick",
        "MissedTick",
        "a-missed-tick",
        "A schedule should have fired, and no tick of it was seen; the sweep's log names it.",
        monitoring.missed_ticks,
    )
    yield from reported(
        "stuck-lease",
        "StuckLeases",
        "a-stuck-lease",
        "Runs ended without a word ten minutes ago, and nobody has found them.",
        monitoring.stuck_leases,
    )
    well = partial(own_metric, prefix, "Succeeded", task_type=SWEEP, queue=sweep.queue.value)
    yield from silence("sweep", "the-sweep-does-not-run", well, gap, monitoring.silence)


def silence(
    name: str, heading: str, well: Callable[..., cloudwatch.Metric], gap: timedelta, times: Count
) -> Iterator[Alarm]:
    """Rings when a metric that is written after each good run was missed ``times`` in a row.

    ``well``: the metric, of a statistic and a period. ``gap``: the longest time between two runs, see
    :func:`longest_gap`. No alarm where that is more than a day, or ``times`` is ``off``.
    """
    if not isinstance(times, int) or gap > MAX_RANGE:
        return
    period = math.ceil(gap / FIVE) * FIVE
    periods = min(times, MAX_RANGE // period)
    yield Alarm(
        name=name,
        heading=heading,
        says=f"No {name.replace('-', ' ')} has ended well for {periods * period}.",
        metrics={"well": well(statistic="Sum", period=period)},
        threshold=1,
        below=True,
        silence=Silence.FAULT,
        period=period,
        periods=periods,
        rings_after=periods,
    )


# --- Metrics -------------------------------------------------------------------------------------------------------


def own_metric(
    prefix: str, name: str, *, statistic: str, period: timedelta = FIVE, **dimensions: str
) -> cloudwatch.Metric:
    """One that the stage's functions write."""
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
"""Any: no clock changes in its week."""


def longest_gap(task: Task[Any, Any]) -> timedelta | None:
    """The longest time between two ticks of a task within a week; None where it has no schedule."""
    if not task.schedules:
        return None
    ends, moment, longest = MONDAY + timedelta(days=7), MONDAY, timedelta(0)
    while moment < ends:
        following = min(schedule.next_after(moment) for schedule in task.schedules)
        longest, moment = max(longest, following - moment), following
    return longest
