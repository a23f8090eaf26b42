"""The alarms of events: waiting events, deleted events, and events that the webhook refused."""

from __future__ import annotations

from collections.abc import Iterator

from joblane.cdk.settings.apis import Count, Monitoring
from joblane.cdk.watching.alarms import Alarm, Topic, own_metric, queue_metric, rule_metric
from joblane.names import SWEEP, dead_letter_name, event_bus_name, webhook_name


def alarms_of_events(monitoring: Monitoring, *, prefix: str, webhook_bus: str | None) -> Iterator[Alarm]:
    """Yield the alarms of a stage whose tasks send events.

    ``webhook_bus``: the name of the bus whose events a webhook gets; None: the stage has no webhook.
    """
    if webhook_bus and isinstance(monitoring.events_refused, int):
        yield _refused(webhook_bus, prefix, monitoring.events_refused)
    minutes = monitoring.events_late_minutes
    yield from _found(
        prefix,
        "events-late",
        "EventsOldestSeconds",
        minutes * 60 if isinstance(minutes, int) else "off",
        says=f"Events have waited for {minutes} minutes to be sent to the event bus. Their tasks have ended as usual. "
        "The sweep's log has the error.",
        is_state=True,
    )
    yield from _found(
        prefix,
        "events-dropped",
        "EventsDropped",
        monitoring.events_dropped,
        says="Events were deleted unsent, so no target gets them. The sweep's log has the reason.",
        is_state=False,
    )


def _found(prefix: str, name: str, metric: str, threshold: Count, *, says: str, is_state: bool) -> Iterator[Alarm]:
    """An alarm on a metric that the sweep writes if it is not 0."""
    if isinstance(threshold, int):
        yield Alarm(
            name=name,
            heading="events-that-wait",
            says=says,
            run="doctor",
            topic=Topic.LATER,
            is_state=is_state,
            metrics={"found": own_metric(prefix, metric, statistic="Maximum", task_type=SWEEP)},
            threshold=threshold,
        )


def _refused(bus: str, prefix: str, threshold: int) -> Alarm:
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
            "kept": queue_metric(queue, "ApproximateNumberOfMessagesVisible", "Maximum"),
            "failed": rule_metric(bus, webhook_name(prefix), "FailedInvocations", "Sum"),
        },
        # EventBridge writes its metric only if it is not 0
        expression="FILL(kept, 0) + FILL(failed, 0)",
        threshold=threshold,
    )
