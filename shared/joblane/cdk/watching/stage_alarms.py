"""The alarms of the whole stage: refused messages, the findings of the sweep and its silence, and events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from aws_cdk import aws_cloudwatch as cloudwatch

from joblane.cdk.settings.apis import Count, Monitoring
from joblane.cdk.watching.alarms import (
    QUARTER,
    VISIBLE,
    Alarm,
    Topic,
    account_metric,
    archived,
    function_metric,
    in_seconds,
    in_use,
    longest_gap,
    own_metric,
    queue_metric,
    rule_metric,
    silence,
)
from joblane.cdk.watching.lane_alarms import throttles
from joblane.inspector.durations import written
from joblane.names import (
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
from joblane.tasks.task import Task

UNREAD = timedelta(minutes=30)
"""Age of a message in the lane of the sweep. That of a planned sweep is delayed by 15 minutes at most, then replaced.
"""


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
            *(() if monitoring.is_stage else throttles("shared", functions, monitoring)),
            _of_dead_letters(prefix, monitoring),
            *(_of_sweep(tasks[SWEEP], prefix, monitoring, has_critical=has_critical) if SWEEP in tasks else ()),
            *([_refused(webhook_bus, prefix, monitoring)] if sends and webhook_bus else ()),
            *(_of_events(prefix, monitoring) if sends else ()),
        ]
    )


def _instead_of_lanes(monitoring: Monitoring, prefix: str) -> list[Alarm]:
    """A metric of the whole stage in place of a metric for every type. The alarms name no type and no function."""
    return [
        Alarm(
            name="archived",
            heading="archived",
            says=f"All types together: {archived(monitoring.archived)}",
            run="dead --newer 1h --sort last",
            path="/dead",
            topic=Topic.LATER,
            is_state=False,
            metrics={"archived": own_metric(prefix, "Archived", statistic="Sum", period=QUARTER)},
            threshold=monitoring.archived,
            period=QUARTER,
        ),
        Alarm(
            name="throttles",
            heading="throttles",
            says="Lambda throttled a function of this account in this region, which may belong to another stage or "
            "application.",
            run="doctor",
            topic=Topic.LATER,
            is_state=False,
            metrics={"throttles": account_metric("Throttles", "Sum")},
            threshold=monitoring.throttles,
        ),
    ]


def _of_dead_letters(prefix: str, monitoring: Monitoring) -> Alarm:
    """The dead-letter queues of front doors and schedules. Those of lanes have alarms of their own."""
    queues = [*(front_door_name(prefix, queue) for queue in Queue), cron_group_name(prefix)]
    metrics = {f"q{n}": queue_metric(dead_letter_name(name), VISIBLE, "Maximum") for n, name in enumerate(queues)}
    return Alarm(
        name="refused",
        heading="refused",
        says="A front door refused messages, or EventBridge could not send ticks. They are in one of these dead-letter "
        f"queues: {', '.join(map(dead_letter_name, queues))}.",
        run="dead",
        path="/dead",
        topic=Topic.LATER,
        is_state=False,
        metrics=metrics,
        expression=" + ".join(metrics),
        threshold=monitoring.refused,
    )


def _reported(prefix: str, name: str, metric: str, threshold: Count, **fields: Any) -> Alarm:
    """An alarm on a metric that the sweep writes."""
    metrics = {"found": own_metric(prefix, metric, statistic="Maximum", task_type=SWEEP)}
    return Alarm(name=name, metrics=metrics, threshold=threshold, **fields)


def _of_sweep(sweep: Task[Any, Any], prefix: str, monitoring: Monitoring, *, has_critical: bool) -> Iterator[Alarm]:
    reported = partial(_reported, prefix)
    late = "tasks are due for longer than the target_wait of their type and have not started. The sweep's log names the"
    snapshot = monitoring.old_snapshot_minutes
    yield reported(
        "moved-by-sqs",
        "DeadLettersMovedBySqs",
        monitoring.moved_by_sqs,
        heading="dead-letters-that-sqs-moved",
        says="SQS itself moved messages to a dead-letter queue: a function crashes at its start, or the database was "
        "unavailable for a day. The sweep's log names the queue.",
        run="dead --sort last",
        path="/dead",
        topic=Topic.URGENT,
        is_state=False,
    )
    yield reported(
        "waiting",
        "WaitingTooLong",
        1 if monitoring.waiting else "off",
        heading="waiting-too-long",
        says=f"Some {late} types.",
        run="doctor",
        topic=Topic.LATER,
        is_state=True,
    )
    yield reported(
        "waiting-critical",
        "CriticalWaitingTooLong",
        1 if monitoring.waiting and has_critical else "off",
        heading="waiting-too-long",
        says=f"Critical {late} types.",
        run="doctor",
        topic=Topic.URGENT,
        is_state=True,
    )
    yield reported(
        "missed-tick",
        "MissedTick",
        monitoring.missed_ticks,
        heading="a-missed-tick",
        says="A schedule should have fired, and there is no task of its tick. The sweep's log names the schedule.",
        run="schedules",
        path="/schedules",
        topic=Topic.URGENT,
        is_state=False,
    )
    yield reported(
        "stuck-lease",
        "StuckLeases",
        monitoring.stuck_leases,
        heading="a-stuck-lease",
        says="Runs have stopped without a result: their leases ended more than ten minutes ago, and no sweep has sent "
        "their tasks again.",
        run="ls --lease-over",
        path="/tasks?lease_over=yes",
        topic=Topic.URGENT,
        is_state=True,
    )
    yield reported(
        "old-snapshot",
        "OldestSnapshotSeconds",
        in_seconds(snapshot),
        heading="an-old-snapshot",
        says=f"A transaction, a standby or a replication slot has kept dead rows for {snapshot} minutes, so tasks with "
        "limits start more slowly. The sweep's log names it.",
        run="doctor",
        topic=Topic.LATER,
        is_state=True,
    )
    completed = partial(own_metric, prefix, "Completed", task_type=SWEEP, queue=sweep.queue.value)
    if isinstance(monitoring.silence, int):
        yield _failing_sweeps(prefix, completed(statistic="Sum", period=QUARTER))
        lane = lane_name(prefix, sweep.queue, SWEEP)
        yield Alarm(
            name="sweep-lane",
            heading="the-sweep-does-not-run",
            says=f"A message has waited in {lane} for {written(UNREAD)}: the sweep's function does not take it.",
            run="doctor",
            topic=Topic.URGENT,
            is_state=True,
            metrics={"age": queue_metric(lane, "ApproximateAgeOfOldestMessage", "Maximum")},
            threshold=UNREAD.total_seconds(),
        )
    if gap := longest_gap(sweep):
        yield from silence("sweep", "the-sweep-does-not-run", completed, gap, monitoring.silence)


def _failing_sweeps(prefix: str, completed: cloudwatch.Metric) -> Alarm:
    """Sweeps that fail, which neither silence nor the lane shows: their messages are received repeatedly. Also duties
    that fail while their sweep completes.

    A missing metric counts as 0 in a sum. SQS leaves messages that were received three times out of the age of the
    oldest. Sources: CloudWatch, *Using metric math*; SQS, *Available CloudWatch metrics*.
    """
    failed = own_metric(prefix, "SweepFailures", statistic="Sum", period=QUARTER, task_type=SWEEP)
    errors = function_metric(function_name(prefix, SWEEP), "Errors", period=QUARTER)  # also counts killed sweeps
    duties = own_metric(prefix, "FailedDuties", statistic="Sum", period=QUARTER, task_type=SWEEP)
    sweeps, all_failed = "failed + errors", "failed + errors + duties"
    return Alarm(
        name="sweep-fails",
        heading="the-sweep-does-not-run",
        says=f"Sweeps have failed for {written(2 * QUARTER)}, and none has completed: the database may be unavailable. "
        "Or duties of the sweep have failed: its log names them.",
        run="doctor",
        topic=Topic.URGENT,
        is_state=True,
        metrics={"failed": failed, "errors": errors, "duties": duties, "completed": completed},
        expression=f"IF({all_failed} > 0, IF({all_failed} + completed > {sweeps} + completed, 1,"
        f" IF({all_failed} + completed > {all_failed}, 0, 1)), 0)",
        threshold=1,
        period=QUARTER,
        rings_after=2,
    )


def _of_events(prefix: str, monitoring: Monitoring) -> list[Alarm]:
    minutes, reported = monitoring.events_late_minutes, partial(_reported, prefix, heading="events-that-wait")
    return [
        reported(
            "events-late",
            "EventsOldestSeconds",
            in_seconds(minutes),
            says=f"Events have waited for {minutes} minutes to be sent to the event bus. Their tasks have ended as "
            "usual. The sweep's log has the error.",
            run="doctor",
            topic=Topic.LATER,
            is_state=True,
        ),
        reported(
            "events-dropped",
            "EventsDropped",
            monitoring.events_dropped,
            says="Events were deleted unsent, so no target gets them. The sweep's log has the reason.",
            run="doctor",
            topic=Topic.LATER,
            is_state=False,
        ),
    ]


def _refused(bus: str, prefix: str, monitoring: Monitoring) -> Alarm:
    """Events that EventBridge could not deliver to the webhook, whether the dead-letter queue has them or not."""
    queue = dead_letter_name(event_bus_name(prefix))
    return Alarm(
        name="events-refused",
        heading="an-event-target-that-refuses",
        says=f"The webhook refused events, or did not accept them within 24 hours. They are in {queue}, and nothing "
        "sends them again.",
        run="doctor",
        topic=Topic.LATER,
        is_state=False,
        metrics={
            "kept": queue_metric(queue, VISIBLE, "Maximum"),
            "failed": rule_metric(bus, webhook_name(prefix), "FailedInvocations", "Sum"),
        },
        # EventBridge writes its metric only if it is not 0
        expression="FILL(kept, 0) + FILL(failed, 0)",
        threshold=monitoring.events_refused,
    )
