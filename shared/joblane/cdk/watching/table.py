"""The alarms of a stage, as a table: for the whole stage, the sweep and events, and for each part and lane.

Throttles and runs near their timeout have an alarm for the types of one part, or several if an alarm cannot read them
all. Their cause is shared, or nobody has to be woken, so an alarm for each type would only send more mails. A new or
renamed type changes the alarms of its part alone, see :mod:`joblane.cdk.constructs.nested_stacks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import Any

from aws_cdk import aws_cloudwatch as cloudwatch

from joblane.cdk.settings.apis import Count, Monitoring, Percent
from joblane.cdk.watching.alarms import (
    MAX_METRICS,
    QUARTER,
    VISIBLE,
    Alarm,
    T,
    Topic,
    Watched,
    archived,
    in_groups,
    in_use,
    lambda_metric,
    listed,
    longest_gap,
    metric,
    own_metric,
    queue_metric,
    silence,
)
from joblane.inspector.durations import written
from joblane.names import (
    DEFAULT_BUS,
    SWEEP,
    Queue,
    cron_group_name,
    dead_letter_name,
    event_bus_name,
    front_door_name,
    function_name,
    lane_name,
    webhook_name,
)
from joblane.tasks.place import Lambda
from joblane.tasks.task import Task

WORST_WAIT, WORST_TIME = "p95", "p99"
"""Percentiles. With few runs a single slow run decides; with many runs several have to be slow."""
UNREAD = timedelta(minutes=30)
"""Age of a message in the lane of the sweep. That of a planned sweep is delayed by 15 minutes at most, then replaced.
"""
NO_SWEEPS = "the-sweep-does-not-run"


def alarms_of_stage(
    monitoring: Monitoring,
    tasks: Mapping[str, Task[Any, Any]],
    *,
    prefix: str,
    functions: Sequence[str],
    webhook_bus: str | None = None,
) -> list[Alarm]:
    """Return the alarms that no single task type has.

    ``functions``: the names of the Lambda functions that are not those of a task type. ``webhook_bus``: the name of the
    bus whose events a webhook gets; None: the stage has no webhook.
    """
    sends = any(task.events for task in tasks.values())
    has_critical = any(task.queue is Queue.CRITICAL for task in tasks.values())
    return in_use(
        [
            *(_instead_of_lanes(monitoring, prefix) if monitoring.is_stage else ()),
            *(() if monitoring.is_stage else _throttles("shared", functions, monitoring)),
            _of_dead_letters(prefix, monitoring),
            *(_of_sweep(tasks[SWEEP], prefix, monitoring, has_critical=has_critical) if SWEEP in tasks else ()),
            *([_refused(webhook_bus, prefix, monitoring)] if sends and webhook_bus else ()),
            *(_of_events(prefix, monitoring) if sends else ()),
        ]
    )


def alarms_of_part(
    part: int,
    tasks: Sequence[Task[Any, Any]],
    monitoring: Monitoring,
    prefix: str,
    places: Mapping[Lambda, Sequence[Task[Any, Any]]] = MappingProxyType({}),
) -> list[Alarm]:
    """Return the alarms of ``tasks``, which are all types of ``part``.

    ``places``: the places whose functions are in this part, each with its tasks, which can be in other parts.
    """
    lanes = [Watched(task, queue, prefix) for task in tasks for queue in task.lanes]
    functions = [function_name(prefix, each.type) for each in tasks if each.place is None]
    functions += [function_name(prefix, members[0].type) for members in places.values()]
    alarms = [alarm for lane in lanes for alarm in _of_lane(lane, monitoring)]
    alarms += [_killed(place, members, prefix, monitoring) for place, members in places.items()]
    alarms += [*_near_timeout(f"{part:02}", lanes, monitoring), *_throttles(f"{part:02}", functions, monitoring)]
    return in_use(alarms)


def _instead_of_lanes(monitoring: Monitoring, prefix: str) -> list[Alarm]:
    """A metric of the whole stage in place of a metric for every type. The alarms name no type and no function."""
    return [
        Alarm(
            name="archived",
            heading="archived",
            says=f"All types together: {archived(monitoring.archived)}",
            run="dead --newer 1h",
            path="/errors?within=1h",
            metrics={"archived": own_metric(prefix, "Archived", statistic="Sum", period=QUARTER)},
            threshold=monitoring.archived,
            period=QUARTER,
        ),
        Alarm(
            name="throttles",
            heading="throttles",
            says="Lambda throttled a function of this account in this region, which may belong to another stage or "
            "application.",
            metrics={"throttles": lambda_metric("Throttles")},
            threshold=monitoring.throttles,
        ),
    ]


def _of_dead_letters(prefix: str, monitoring: Monitoring) -> Alarm:
    """The dead-letter queues of front doors and schedules. Those of lanes have alarms of their own."""
    names = [*(front_door_name(prefix, queue) for queue in Queue), cron_group_name(prefix)]
    queues = [dead_letter_name(name) for name in names]
    metrics = {f"q{n}": queue_metric(VISIBLE, "Maximum", QueueName=name) for n, name in enumerate(queues)}
    return Alarm(
        name="refused",
        heading="refused",
        says="A front door refused messages, or EventBridge could not send ticks. They are in one of these dead-letter "
        f"queues: {', '.join(queues)}.",
        run="dead",
        path="/errors/messages",
        metrics=metrics,
        expression=" + ".join(metrics),
        threshold=monitoring.refused,
    )


# --- The sweep and events ------------------------------------------------------------------------------------------


def _reported(prefix: str, name: str, metric: str, threshold: Count, **fields: Any) -> Alarm:
    """An alarm on a metric that the sweep writes."""
    metrics = {"found": own_metric(prefix, metric, statistic="Maximum", task_type=SWEEP)}
    return Alarm(name=name, metrics=metrics, threshold=threshold, **fields)


def _in_seconds(minutes: Count) -> Count:
    return minutes if minutes == "off" else minutes * 60


def _of_sweep(sweep: Task[Any, Any], prefix: str, monitoring: Monitoring, *, has_critical: bool) -> list[Alarm]:
    reported, waiting = partial(_reported, prefix), partial(_reported, prefix, heading="waiting-too-long")
    late = "tasks are due for longer than the target_wait of their type and have not started. The sweep's log names the"
    snapshot, gap = monitoring.old_snapshot_minutes, longest_gap(sweep)
    completed = partial(own_metric, prefix, "Completed", task_type=SWEEP, queue=sweep.queue.value)
    return [
        reported(
            "moved-by-sqs",
            "DeadLettersMovedBySqs",
            monitoring.moved_by_sqs,
            heading="dead-letters-that-sqs-moved",
            says="SQS itself moved messages to a dead-letter queue: a function crashes at its start, or the database "
            "was unavailable for a day. The sweep's log names the queue.",
            run="dead --sort last",
            path="/errors/messages",
            topic=Topic.URGENT,
        ),
        waiting(
            "waiting",
            "WaitingTooLong",
            1 if monitoring.waiting else "off",
            says=f"Some {late} types.",
            is_state=True,
        ),
        waiting(
            "waiting-critical",
            "CriticalWaitingTooLong",
            1 if monitoring.waiting and has_critical else "off",
            says=f"Critical {late} types.",
            topic=Topic.URGENT,
            is_state=True,
        ),
        reported(
            "missed-tick",
            "MissedTick",
            monitoring.missed_ticks,
            heading="a-missed-tick",
            says="A schedule should have fired, and there is no task of its tick. The sweep's log names the schedule.",
            run="schedules",
            path="/schedules",
            topic=Topic.URGENT,
        ),
        reported(
            "lowered-limit",
            "LoweredLimits",
            monitoring.lowered_limits,
            heading="a-lowered-limit",
            says="Tasks wait for a limit that an operator has lowered, possibly to 0. The sweep's log names it.",
            path="/",
            topic=Topic.URGENT,
            is_state=True,
        ),
        reported(
            "stuck-lease",
            "StuckLeases",
            monitoring.stuck_leases,
            heading="a-stuck-lease",
            says="Runs have stopped without a result: their leases ended more than ten minutes ago, and no sweep has "
            "sent their tasks again.",
            run="ls --lease-over",
            path="/tasks?lease_over=yes",
            topic=Topic.URGENT,
            is_state=True,
        ),
        reported(
            "old-snapshot",
            "OldestSnapshotSeconds",
            _in_seconds(snapshot),
            heading="an-old-snapshot",
            says=f"A transaction, a standby or a replication slot has kept dead rows for {snapshot} minutes, so tasks "
            "with limits start more slowly. The sweep's log names it.",
            is_state=True,
        ),
        *(
            []
            if monitoring.silence == "off"
            else _without_sweeps(prefix, lane_name(prefix, sweep.queue, SWEEP), completed)
        ),
        *(silence("sweep", NO_SWEEPS, completed, gap, monitoring.silence) if gap else ()),
    ]


def _without_sweeps(prefix: str, lane: str, completed: Callable[..., cloudwatch.Metric]) -> list[Alarm]:
    """Sweeps that fail, which neither silence nor the lane shows: their messages are received repeatedly. Also duties
    that fail while their sweep completes. And a lane that nothing reads.

    A missing metric counts as 0 in a sum. SQS leaves messages that were received three times out of the age of the
    oldest. Sources: CloudWatch, *Using metric math*; SQS, *Available CloudWatch metrics*.
    """
    own = partial(own_metric, prefix, statistic="Sum", period=QUARTER, task_type=SWEEP)
    sweeps, all_failed = "failed + errors", "failed + errors + duties"
    return [
        Alarm(
            name="sweep-fails",
            heading=NO_SWEEPS,
            says=f"Sweeps have failed for {written(2 * QUARTER)}, and none has completed: the database may be "
            "unavailable. Or duties of the sweep have failed: its log names them.",
            topic=Topic.URGENT,
            is_state=True,
            metrics={
                "failed": own("SweepFailures"),
                # it also counts killed sweeps
                "errors": lambda_metric("Errors", period=QUARTER, FunctionName=function_name(prefix, SWEEP)),
                "duties": own("FailedDuties"),
                "completed": completed(statistic="Sum", period=QUARTER),
            },
            expression=f"IF({all_failed} > 0, IF({all_failed} + completed > {sweeps} + completed, 1,"
            f" IF({all_failed} + completed > {all_failed}, 0, 1)), 0)",
            threshold=1,
            period=QUARTER,
            rings_after=2,
        ),
        Alarm(
            name="sweep-lane",
            heading=NO_SWEEPS,
            says=f"A message has waited in {lane} for {written(UNREAD)}: the sweep's function does not take it.",
            topic=Topic.URGENT,
            is_state=True,
            metrics={"age": queue_metric("ApproximateAgeOfOldestMessage", "Maximum", QueueName=lane)},
            threshold=UNREAD.total_seconds(),
        ),
    ]


def _of_events(prefix: str, monitoring: Monitoring) -> list[Alarm]:
    minutes, reported = monitoring.events_late_minutes, partial(_reported, prefix, heading="events-that-wait")
    return [
        reported(
            "events-late",
            "EventsOldestSeconds",
            _in_seconds(minutes),
            says=f"Events have waited for {minutes} minutes to be sent to the event bus. Their tasks have ended as "
            "usual. The sweep's log has the error.",
            is_state=True,
        ),
        reported(
            "events-dropped",
            "EventsDropped",
            monitoring.events_dropped,
            says="Events were deleted unsent, so no target gets them. The sweep's log has the reason.",
        ),
    ]


def _refused(bus: str, prefix: str, monitoring: Monitoring) -> Alarm:
    """Events that EventBridge could not deliver to the webhook, whether the dead-letter queue has them or not."""
    queue = dead_letter_name(event_bus_name(prefix))
    # rules of the account's default bus have no dimension for it. Source: EventBridge, *Monitoring Amazon EventBridge*
    rule: dict[str, Any] = {"RuleName": webhook_name(prefix), **({} if bus == DEFAULT_BUS else {"EventBusName": bus})}
    return Alarm(
        name="events-refused",
        heading="an-event-target-that-refuses",
        says=f"The webhook refused events, or did not accept them within 24 hours. They are in {queue}, and nothing "
        "sends them again.",
        metrics={
            "kept": queue_metric(VISIBLE, "Maximum", QueueName=queue),
            "failed": metric("AWS/Events", "FailedInvocations", **rule),
        },
        # EventBridge writes its metric only if it is not 0
        expression="FILL(kept, 0) + FILL(failed, 0)",
        threshold=monitoring.events_refused,
    )


# --- Parts and lanes -----------------------------------------------------------------------------------------------


def _of_lane(lane: Watched, monitoring: Monitoring) -> list[Alarm]:
    type_, target = lane.task.type, lane.task.target_wait
    return [
        Alarm(
            name=f"archived-{lane.name}",
            heading="archived",
            says=f"{type_}: {archived(monitoring.archived)}",
            run=f"dead --newer 1h --type {type_}",
            path=f"/errors?within=1h&type={type_}",
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
            run=f"why {type_}",
            path=f"/runs/why?type={type_}",
            topic=Topic.URGENT if lane.queue is Queue.CRITICAL else Topic.LATER,
            is_state=True,
            metrics={"wait": lane.metric("WaitMs", WORST_WAIT)},
            threshold=target / timedelta(milliseconds=1) if monitoring.waiting else "off",
        ),
    ]


def _failing(lane: Watched, percent: Percent, runs: int) -> Alarm:
    """Runs that were killed write no metric, so Lambda's own errors are counted in addition. The errors of a place have
    an alarm of their own, because Lambda does not know the type.

    A missing metric counts as 0 in a sum. Source: CloudWatch, *Using metric math*, basic arithmetic functions.
    """
    metrics = {name: lane.metric(name.capitalize(), period=QUARTER) for name in ("started", "retried", "archived")}
    expression = f"IF(started >= {runs}, 100 * (retried + archived) / started, 0)"
    if lane.task.place is None:
        function = function_name(lane.prefix, lane.task.type)
        metrics["errors"] = lambda_metric("Errors", period=QUARTER, FunctionName=function)
        expression = f"IF(started + errors >= {runs}, 100 * (retried + archived + errors) / (started + errors), 0)"
    return Alarm(
        name=f"failing-{lane.name}",
        heading="failing",
        says=f"{lane.task.type}: at least {percent} % of the runs failed in {written(QUARTER)}, with {runs} runs or "
        "more. They are tried again.",
        run=f"errors --within 1h --type {lane.task.type}",
        path=f"/errors?within=1h&type={lane.task.type}",
        is_state=True,
        metrics=metrics,
        expression=expression,
        threshold=percent,
        period=QUARTER,
    )


def _killed(place: Lambda, tasks: Sequence[Task[Any, Any]], prefix: str, monitoring: Monitoring) -> Alarm:
    """Killed invocations of the function of a place. Their number counts, and not their share: a type that is killed
    each time can be a small part of all invocations.
    """
    function, runs = function_name(prefix, tasks[0].type), monitoring.failing_runs
    return Alarm(
        name=f"failing-{place.name}",
        heading="failing",
        says=f"Function {function}: at least {runs} invocations were killed in {written(QUARTER)}, or failed at their "
        f"start. Their tasks are tried again. The function runs {listed([task.type for task in tasks])}.",
        run="runs --within 1h",
        path="/runs",
        is_state=True,
        metrics={"errors": lambda_metric("Errors", period=QUARTER, FunctionName=function)},
        threshold="off" if monitoring.failing_percent == "off" else runs,
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
            run="runs --timeouts --within 1h",
            path="/statistics?within=1h&sort=longest-of-timeout&desc=yes",
            metrics={f"d{n}": lane.metric("DurationMs", WORST_TIME, QUARTER) for n, lane in enumerate(some)},
            expression=f"MAX([{', '.join(shares)}])" if len(shares) > 1 else shares[0],
            threshold=monitoring.near_timeout_percent,
            period=QUARTER,
        )


def _throttles(group: str, functions: Sequence[str], monitoring: Monitoring) -> Iterator[Alarm]:
    """Yield the alarms ``throttles-GROUP`` for ``functions``."""
    for name, some in _in_tens(group, functions):
        metrics = {f"t{n}": lambda_metric("Throttles", FunctionName=function) for n, function in enumerate(some)}
        yield Alarm(
            name=f"throttles-{name}",
            heading="throttles",
            says=f"Lambda throttled one of these functions: {listed(some)}.",
            metrics=metrics,
            expression=" + ".join(metrics) if len(metrics) > 1 else "",
            threshold=monitoring.throttles,
        )


def _in_tens(group: str, things: Sequence[T]) -> Iterator[tuple[str, Sequence[T]]]:
    """Yield as many things as one alarm can read, with a name: ``GROUP``, ``GROUP-2``, ``GROUP-3``."""
    for number, some in enumerate(in_groups(things, MAX_METRICS), start=1):
        yield (f"{group}-{number}" if number > 1 else group), some
