"""The alarms of task types: three for each lane, and two for each part of the stage.

Throttles and runs near their timeout have an alarm for the types of one part, or several if an alarm cannot read them
all. Their cause is shared, or nobody has to be woken, so an alarm for each type would only send more mails. A new or
renamed type changes the alarms of its part alone, see :mod:`joblane.cdk.constructs.nested_stacks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from joblane.cdk.settings.apis import Monitoring, Percent
from joblane.cdk.watching.alarms import (
    MAX_METRICS,
    QUARTER,
    Alarm,
    T,
    Topic,
    Watched,
    archived,
    function_metric,
    in_groups,
    in_use,
    listed,
)
from joblane.inspector.durations import written
from joblane.names import Queue, function_name
from joblane.tasks.task import Task

WORST_WAIT, WORST_TIME = "p95", "p99"
"""Percentiles. With few runs a single slow run decides; with many runs several have to be slow."""


def alarms_of_part(part: int, tasks: Sequence[Task[Any, Any]], monitoring: Monitoring, prefix: str) -> list[Alarm]:
    """Return the alarms of ``tasks``, which are all types of ``part``."""
    lanes = [Watched(task, queue, prefix) for task in tasks for queue in task.lanes]
    functions = [function_name(prefix, task.type) for task in tasks]
    alarms = [alarm for lane in lanes for alarm in _of_lane(lane, monitoring)]
    alarms += [*_near_timeout(f"{part:02}", lanes, monitoring), *throttles(f"{part:02}", functions, monitoring)]
    return in_use(alarms)


def _of_lane(lane: Watched, monitoring: Monitoring) -> list[Alarm]:
    type_, target = lane.task.type, lane.task.target_wait
    return [
        Alarm(
            name=f"archived-{lane.name}",
            heading="archived",
            says=f"{type_}: {archived(monitoring.archived)}",
            run=f"dead --newer 1h --type {type_}",
            path="/dead",
            topic=Topic.LATER,
            is_state=False,
            metrics={"archived": lane.metric("Archived", period=QUARTER)},
            threshold=monitoring.archived,
            period=QUARTER,
        ),
        _failing(lane, monitoring.failing_percent, monitoring.failing_runs),
        Alarm(
            name=f"waiting-{lane.name}",
            heading="waiting-too-long",
            says=f"{type_}: tasks of queue {lane.queue} started more than {written(target)} (its target_wait) after "
            "they were due.",
            run=f"why slow {type_}",
            path=f"/runs/why?type={type_}",
            topic=Topic.URGENT if lane.queue is Queue.CRITICAL else Topic.LATER,
            is_state=True,
            metrics={"wait": lane.metric("WaitMs", WORST_WAIT)},
            threshold=target / timedelta(milliseconds=1) if monitoring.waiting else "off",
        ),
    ]


def _failing(lane: Watched, percent: Percent, runs: int) -> Alarm:
    """Runs that were killed write no metric, so Lambda's own errors are counted in addition.

    A missing metric counts as 0 in a sum. Source: CloudWatch, *Using metric math*, basic arithmetic functions.
    """
    metrics = {name: lane.metric(name.capitalize(), period=QUARTER) for name in ("started", "retried", "archived")}
    metrics["errors"] = function_metric(function_name(lane.prefix, lane.task.type), "Errors", period=QUARTER)
    return Alarm(
        name=f"failing-{lane.name}",
        heading="failing",
        says=f"{lane.task.type}: at least {percent} % of the runs failed in {written(QUARTER)}, with {runs} runs or "
        "more. They are tried again.",
        run=f"runs {lane.task.type}",
        path=f"/runs?type={lane.task.type}",
        topic=Topic.LATER,
        is_state=True,
        metrics=metrics,
        expression=(f"IF(started + errors >= {runs}, 100 * (retried + archived + errors) / (started + errors), 0)"),
        threshold=percent,
        period=QUARTER,
    )


def _near_timeout(group: str, lanes: Sequence[Watched], monitoring: Monitoring) -> Iterator[Alarm]:
    """The longest runs, in percent of their types' timeouts.

    A resumable task is left out: it uses each invocation to its end and continues in the next one.
    """
    for name, some in _in_tens(group, [lane for lane in lanes if not lane.task.resumable]):
        shares = [f"100 * d{n} / {lane.task.timeout // timedelta(milliseconds=1)}" for n, lane in enumerate(some)]
        yield Alarm(
            name=f"near-timeout-{name}",
            heading="near-the-timeout",
            says=(
                f"Runs took {monitoring.near_timeout_percent} % of their timeout or more. One of these types: "
                f"{listed([lane.task.type for lane in some])}."
            ),
            run="stats --within 1d",
            path="/statistics",
            topic=Topic.LATER,
            is_state=False,
            metrics={f"d{n}": lane.metric("DurationMs", WORST_TIME, QUARTER) for n, lane in enumerate(some)},
            expression=f"MAX([{', '.join(shares)}])" if len(shares) > 1 else shares[0],
            threshold=monitoring.near_timeout_percent,
            period=QUARTER,
        )


def throttles(group: str, functions: Sequence[str], monitoring: Monitoring) -> Iterator[Alarm]:
    """Yield the alarms ``throttles-GROUP`` for ``functions``."""
    for name, some in _in_tens(group, functions):
        metrics = {f"t{n}": function_metric(function, "Throttles") for n, function in enumerate(some)}
        yield Alarm(
            name=f"throttles-{name}",
            heading="throttles",
            says=f"Lambda throttled one of these functions: {listed(some)}.",
            run="doctor",
            topic=Topic.LATER,
            is_state=False,
            metrics=metrics,
            expression=" + ".join(metrics) if len(metrics) > 1 else "",
            threshold=monitoring.throttles,
        )


def _in_tens(group: str, things: Sequence[T]) -> Iterator[tuple[str, Sequence[T]]]:
    """Yield as many things as one alarm can read, with a name: ``GROUP``, ``GROUP-2``, ``GROUP-3``."""
    for number, some in enumerate(in_groups(things, MAX_METRICS), start=1):
        yield (f"{group}-{number}" if number > 1 else group), some
