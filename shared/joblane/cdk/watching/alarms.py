"""An alarm as data, and the metrics that alarms and graphs read.

CloudWatch bills the metrics that alarms read, and an alarm reads at most ten, so one alarm for ten lanes costs as much
as ten alarms. A ``SEARCH`` expression could read all lanes, but an alarm does not accept one.
Sources: CloudWatch, *Using metric math*; its pricing, whose unit is an "alarm metric".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch

from joblane.cdk.settings.apis import Count
from joblane.inspector.durations import written
from joblane.names import Queue
from joblane.tasks.task import Task
from joblane.telemetry import namespace

RUNBOOK = "docs/how-to/operate.md"
"""The page with a section for each alarm, in the documentation of the library."""
MAX_DESCRIPTION = 1024
"""Characters of an alarm's description. Source: PutMetricAlarm, CloudWatch API reference."""
MAX_NAMES = 350
"""Characters of the names of types or functions in a description."""
MAX_METRICS = 10
"""Metrics that one alarm reads. Source: CloudWatch quotas, *Metric Math alarms*."""
LONGEST_RANGE = timedelta(days=7)
"""All evaluated periods of an alarm together, if each is an hour. Source: PutMetricAlarm, CloudWatch API reference."""
VISIBLE = "ApproximateNumberOfMessagesVisible"
FIVE, QUARTER, HOUR = timedelta(minutes=5), timedelta(minutes=15), timedelta(hours=1)
MAX_PERIODS = 30
"""Periods of an alarm about silence. With fewer and longer ones it would fire later: a period with a run counts until
it has left the evaluated range, which is some periods longer. Source: CloudWatch, *Configuring how CloudWatch alarms
treat missing data*."""

Metrics = Mapping[str, cloudwatch.IMetric]
T = TypeVar("T")


class Silence(StrEnum):
    """The meaning of missing data, as the alarm's description says it."""

    FINE = "No data means that nothing ran, or that there was no problem."
    FAULT = "No data means that no run has completed. A new stage has no data until its first run."


class Topic(StrEnum):
    """The SNS topics: each alarm publishes to one of them."""

    URGENT = "urgent"
    """Wake somebody."""
    LATER = "later"
    """Look at it during working hours."""


@dataclass(frozen=True)
class Links:
    """The addresses in the texts of a stage's alarms and on its dashboard.

    ``stage``: its name. ``runbook``: address of a copy of :data:`RUNBOOK`; None: there is none. ``page``: address of
    the stage's page; None: it has none.
    """

    stage: str
    runbook: str | None = None
    page: str | None = None

    def command(self, words: str) -> str:
        return f"joblane --stage {self.stage} {words}"

    def section(self, heading: str) -> str:
        return f"{self.runbook or RUNBOOK}#{heading}"


NO_END = "This alarm ends by itself, without a mail."


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """``name``: without the stage's prefix. ``says``: the problem in plain words. ``run``: the first command, without
    ``joblane``. ``heading``: the section of :data:`RUNBOOK`. ``path``: the view of the stage's page.

    ``is_state``: True for a state, whose end is worth a mail. False for events: the alarm ends by itself when no
    further event follows, and its end does not mean that anything was repaired.

    The alarm fires when ``expression`` over ``metrics`` (the one metric itself if the expression is empty) reaches
    ``threshold`` in ``rings_after`` of the last ``periods`` periods. With ``below`` it fires below ``threshold``.
    A stage has no alarm whose threshold is ``off``.
    """

    name: str
    heading: str
    says: str
    metrics: Metrics
    threshold: Count | float
    run: str = "doctor"
    topic: Topic = Topic.LATER
    is_state: bool = False
    path: str = "/"
    silence: Silence = Silence.FINE
    expression: str = ""
    period: timedelta = FIVE
    periods: int = 2  # CloudWatch reads metrics from the log: those of the last five minutes may be late
    rings_after: int = 1
    below: bool = False

    def description(self, links: Links) -> str:
        """Return the text of its mails: the problem, the command, the addresses, each on a line of its own."""
        page = [f"Page: {links.page}{self.path}"] if links.page else []
        end = "" if self.is_state else f" {NO_END}"
        lines = [f"Run: {links.command(self.run)}", *page, f"Runbook: {links.section(self.heading)}"]
        return "\n".join([self.says, *lines, f"{self.silence}{end}"])


def in_use(alarms: Iterable[Alarm]) -> list[Alarm]:
    """Leave out the alarms that are off."""
    return [alarm for alarm in alarms if alarm.threshold != "off"]


def silence(
    name: str, heading: str, completed: Callable[..., cloudwatch.Metric], gap: timedelta, times: Count
) -> Iterator[Alarm]:
    """An alarm that fires when the metric of completed runs is missing ``times`` in a row, or an hour after the first.

    ``completed``: returns the metric for a statistic and a period. ``gap``: the longest time between two runs, see
    :func:`longest_gap`. There is no alarm if the gap is more than six days, or ``times`` is ``off``.
    """
    if not isinstance(times, int):
        return
    gap = math.ceil(gap / FIVE) * FIVE
    silent = gap + min((times - 1) * gap, HOUR)
    period = next((each for each in (FIVE, QUARTER, HOUR) if silent <= MAX_PERIODS * each), HOUR)
    periods = math.ceil(silent / period)
    if periods * period > LONGEST_RANGE:
        return
    yield Alarm(
        name=name,
        heading=heading,
        says=f"No {name.replace('-', ' ')} has completed for {written(periods * period)}.",
        topic=Topic.URGENT,
        is_state=True,
        metrics={"completed": completed(statistic="Sum", period=period)},
        threshold=1,
        below=True,
        silence=Silence.FAULT,
        period=period,
        periods=periods,
        rings_after=periods,
    )


def archived(tasks: Count) -> str:
    """Return what ``tasks`` archived tasks within :data:`QUARTER` mean."""
    many = "1 task was" if tasks == 1 else f"{tasks} tasks were"
    return (
        f"at least {many} archived in {written(QUARTER)}: all attempts failed, or the handler raised SkipRetry. "
        "Archived tasks are kept, and do not run again by themselves."
    )


def listed(names: Sequence[str]) -> str:
    """Return the names, or as many as fit into a description, and the number of the others."""
    shown = list(names)
    while len(", ".join(shown)) > MAX_NAMES:
        shown.pop()
    left = len(names) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")


def in_groups(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield ``things`` in groups of at most ``size``, in their order, for alarms, widgets and queries."""
    return (things[start : start + size] for start in range(0, len(things), size))


# --- Metrics -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched:
    """A task type in one queue, and its metrics."""

    task: Task[Any, Any]
    queue: Queue
    prefix: str

    @property
    def name(self) -> str:
        return f"{self.queue}-{self.task.slug}"

    def metric(
        self, name: str, statistic: str = "Sum", period: timedelta = FIVE, label: str | None = None
    ) -> cloudwatch.Metric:
        """Return a metric that :mod:`joblane.worker.run_log` writes."""
        return own_metric(
            self.prefix,
            name,
            statistic=statistic,
            period=period,
            label=label,
            task_type=self.task.type,
            queue=self.queue.value,
        )


def own_metric(
    prefix: str, name: str, *, statistic: str, period: timedelta = FIVE, label: str | None = None, **dimensions: str
) -> cloudwatch.Metric:
    """Return a metric that the stage's functions write. Without dimensions: of the whole stage."""
    return metric(namespace(prefix), name, statistic, period=period, label=label, **dimensions)


def metric(
    space: str,
    name: str,
    statistic: str = "Sum",
    *,
    period: timedelta = FIVE,
    label: str | None = None,
    **dimensions: str,
) -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace=space,
        metric_name=name,
        statistic=statistic,
        period=Duration.seconds(int(period.total_seconds())),
        dimensions_map=dict(dimensions),
        label=label,
    )


lambda_metric, queue_metric = partial(metric, "AWS/Lambda"), partial(metric, "AWS/SQS")
"""A metric of the function ``FunctionName``, or of the queue ``QueueName``. Without a dimension: over all functions of
the account in the region. Source: the CDK's ``Function.metric_all_throttles``."""
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
