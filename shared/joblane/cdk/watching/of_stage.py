"""The alarms of the whole stage: refused messages, the findings of the sweep, and the silence of the sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from joblane.cdk.settings.apis import Count, Monitoring
from joblane.cdk.watching.alarms import (
    FIVE,
    QUARTER,
    Alarm,
    Topic,
    account_metric,
    archived,
    longest_gap,
    own_metric,
    queue_metric,
    rule_metric,
    silence,
)
from joblane.cdk.watching.of_lanes import throttles
from joblane.declaration import Task
from joblane.enqueue.wake import SWEEP
from joblane.queues import (
    Queue,
    cron_group_name,
    dead_letter_name,
    event_bus_name,
    front_door_name,
    webhook_name,
)


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
    has_critical = any(task.queue is Queue.CRITICAL for task in tasks.values())
    return [
        *(_instead_of_lanes(monitoring, prefix) if monitoring.is_stage else throttles("shared", functions, monitoring)),
        *_of_dead_letters(prefix, monitoring),
        *(_of_webhook(webhook_bus, prefix, monitoring) if webhook_bus else ()),
        *(_of_sweep(tasks, prefix, monitoring, has_critical=has_critical) if SWEEP in tasks else ()),
    ]


def _instead_of_lanes(monitoring: Monitoring, prefix: str) -> Iterator[Alarm]:
    """A metric of the whole stage in place of a metric for every type. The alarms name no type and no function."""
    if isinstance(monitoring.archived, int):
        yield Alarm(
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
        )
    if isinstance(monitoring.throttles, int):
        yield Alarm(
            name="throttles",
            heading="throttles",
            says="Lambda throttled a function of this account in this region, which may belong to another stage or "
            "application.",
            run="doctor",
            topic=Topic.LATER,
            is_state=False,
            metrics={"throttles": account_metric("Throttles", "Sum")},
            threshold=monitoring.throttles,
        )


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
        run="dead",
        path="/dead",
        topic=Topic.LATER,
        is_state=False,
        metrics=metrics,
        expression=" + ".join(metrics),
        threshold=monitoring.refused,
    )


def _of_webhook(bus: str, prefix: str, monitoring: Monitoring) -> Iterator[Alarm]:
    """Events that EventBridge could not deliver to the webhook, whether the dead-letter queue has them or not."""
    if not isinstance(monitoring.events_refused, int):
        return
    queue = dead_letter_name(event_bus_name(prefix))
    yield Alarm(
        name="events-refused",
        heading="an-event-target-that-refuses",
        says=f"The webhook refused events, or did not accept them within 24 hours. They are in {queue}, and nothing "
        "sends them again.",
        run="doctor",
        topic=Topic.LATER,
        is_state=False,
        metrics={
            "kept": queue_metric(queue, "ApproximateNumberOfMessagesVisible", "Maximum"),
            "failed": rule_metric(bus, webhook_name(prefix), "FailedInvocations", "Sum"),
        },
        # EventBridge writes its metric only if it is not 0
        expression="FILL(kept, 0) + FILL(failed, 0)",
        threshold=monitoring.events_refused,
    )


def _of_sweep(
    tasks: Mapping[str, Task[Any, Any]], prefix: str, monitoring: Monitoring, *, has_critical: bool
) -> Iterator[Alarm]:
    sweep = tasks[SWEEP]
    gap = longest_gap(sweep)
    if gap is None:  # the stage has switched the sweep off, so its metrics are missing on purpose
        return

    def reported(name: str, metric: str, threshold: Count, **text: Any) -> Iterator[Alarm]:
        if isinstance(threshold, int):
            metrics = {"found": own_metric(prefix, metric, statistic="Maximum", period=FIVE, task_type=SWEEP)}
            yield Alarm(name=name, metrics=metrics, threshold=threshold, **text)

    yield from reported(
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
    late = "tasks are due for longer than the target_wait of their type and have not started. The sweep's log names the"
    yield from reported(
        "waiting",
        "WaitingTooLong",
        1 if monitoring.waiting else "off",
        heading="waiting-too-long",
        says=f"Some {late} types.",
        run="doctor",
        topic=Topic.LATER,
        is_state=True,
    )
    yield from reported(
        "waiting-critical",
        "CriticalWaitingTooLong",
        1 if monitoring.waiting and has_critical else "off",
        heading="waiting-too-long",
        says=f"Critical {late} types.",
        run="doctor",
        topic=Topic.URGENT,
        is_state=True,
    )
    yield from reported(
        "missed-tick",
        "MissedTick",
        monitoring.missed_ticks,
        heading="a-missed-tick",
        says="A schedule should have fired, and its tick has not arrived. The sweep's log names the schedule.",
        run="schedules",
        path="/schedules",
        topic=Topic.URGENT,
        is_state=False,
    )
    yield from reported(
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
    minutes = monitoring.old_snapshot_minutes
    yield from reported(
        "old-snapshot",
        "OldestSnapshotSeconds",
        minutes * 60 if isinstance(minutes, int) else "off",
        heading="an-old-snapshot",
        says=f"A transaction, a standby or a replication slot has kept dead rows for {minutes} minutes, so tasks with "
        "limits start more slowly. The sweep's log names it.",
        run="doctor",
        topic=Topic.LATER,
        is_state=True,
    )
    if any(task.events for task in tasks.values()):
        minutes = monitoring.events_late_minutes
        yield from reported(
            "events-late",
            "EventsOldestSeconds",
            minutes * 60 if isinstance(minutes, int) else "off",
            heading="events-that-wait",
            says=f"Events have waited for {minutes} minutes to be sent to the event bus. Their tasks have ended as "
            "usual. The sweep's log has the error.",
            run="doctor",
            topic=Topic.LATER,
            is_state=True,
        )
        yield from reported(
            "events-dropped",
            "EventsDropped",
            monitoring.events_dropped,
            heading="events-that-wait",
            says="Events were deleted unsent, so no target gets them. The sweep's log has the reason.",
            run="doctor",
            topic=Topic.LATER,
            is_state=False,
        )
    completed = partial(own_metric, prefix, "Completed", task_type=SWEEP, queue=sweep.queue.value)
    yield from silence("sweep", "the-sweep-does-not-run", completed, gap, monitoring.silence)
