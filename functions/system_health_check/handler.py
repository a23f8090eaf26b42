"""Asks whether database, queues and configured services answer, and tells it in a metric, a log line and the result.

With the database away the task itself cannot be claimed, so neither metric comes: an alarm has to take missing data for
unhealthy.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from pydantic import BaseModel

from joblane import Payload, Queue, TaskContext, every, task
from saas import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saas.health import Check

WHOLE = "all"
"""The check that stands for all of them: an alarm watches its ``HealthCheckPassed``, and takes its absence for a fault.

Source: CloudWatch, *Configuring how CloudWatch alarms treat missing data*: ``breaching``.
"""


class SystemHealthCheck(Payload):
    pass


class HealthResult(BaseModel):
    """``problems``: what is wrong, by check."""

    healthy: bool
    checks: int
    problems: dict[str, str]


@task(
    "system:health_check",
    queue=Queue.DEFAULT,
    max_retry=0,
    timeout=timedelta(seconds=30),
    schedule=every(minutes=15),
    environment=settings.SERVICES,
)
def system_health_check(payload: SystemHealthCheck, ctx: TaskContext) -> HealthResult:
    from joblane.discovery import load
    from joblane.enqueue.wake import SWEEP
    from joblane.queues import front_door_name
    from joblane.settings import prefix
    from saas import health

    doors = [front_door_name(prefix(), queue) for queue in Queue]
    checks = [
        *health.check_services(ctx.settings),
        *health.check_queues(health.sqs(), doors),
        health.check_database(ctx.session),
        *(health.check_sweep(ctx.session, schedule.previous) for schedule in load(SWEEP).schedules),
    ]
    problems = {check.name: check.problem for check in checks if check.problem is not None}
    _measure(checks)
    log = ctx.logger.error if problems else ctx.logger.info
    log("unhealthy" if problems else "healthy", checks=len(checks), problems=problems)
    return HealthResult(healthy=not problems, checks=len(checks), problems=problems)


def _measure(checks: Sequence[Check]) -> None:
    """``HealthCheckPassed`` or ``HealthCheckFailed`` and ``HealthCheckTime`` per check, and one for the whole."""
    from joblane.telemetry import Tally

    tally = Tally()
    for check in checks:
        tally.count("HealthCheckPassed" if check.healthy else "HealthCheckFailed")
        tally.time("HealthCheckTime", check.milliseconds)
        tally.flush(check=check.name)
    tally.count("HealthCheckPassed" if all(check.healthy for check in checks) else "HealthCheckFailed")
    tally.flush(check=WHOLE)
