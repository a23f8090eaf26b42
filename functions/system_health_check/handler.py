"""Checks that database, queues and configured services answer, and reports it in metrics, a log line and the result.

While the database is unavailable, the task cannot be claimed and writes no metric. An alarm must treat missing data as
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
"""Name of the check that combines all others. An alarm watches its ``HealthCheckPassed``; missing data is a fault.

Source: CloudWatch, *Configuring how CloudWatch alarms treat missing data*: ``breaching``.
"""


class SystemHealthCheck(Payload):
    pass


class HealthResult(BaseModel):
    """``problems``: description by name of the check."""

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
    from joblane.names import SWEEP, front_door_name
    from joblane.settings import prefix
    from joblane.tasks.discovery import load
    from saas import health

    front_doors = [front_door_name(prefix(), queue) for queue in Queue]
    checks = [
        *health.check_services(ctx.settings),
        *health.check_queues(health.sqs(), front_doors),
        health.check_database(ctx.session),
        *(health.check_sweep(ctx.session, schedule.previous) for schedule in load(SWEEP).schedules),
    ]
    problems = {check.name: check.problem for check in checks if check.problem is not None}
    _measure(checks)
    log = ctx.logger.error if problems else ctx.logger.info
    log("unhealthy" if problems else "healthy", checks=len(checks), problems=problems)
    return HealthResult(healthy=not problems, checks=len(checks), problems=problems)


def _measure(checks: Sequence[Check]) -> None:
    """Write ``HealthCheckPassed`` or ``HealthCheckFailed`` and ``HealthCheckTime`` per check, and the result of all."""
    from joblane.telemetry import Tally

    tally = Tally()
    for check in checks:
        tally.count("HealthCheckPassed" if check.healthy else "HealthCheckFailed")
        tally.time("HealthCheckTime", check.milliseconds)
        tally.flush(check=check.name)
    tally.count("HealthCheckPassed" if all(check.healthy for check in checks) else "HealthCheckFailed")
    tally.flush(check=WHOLE)
