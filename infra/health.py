"""The platform's health check: its alarm, and the costs of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from functions.system_health_check.handler import WHOLE
from infra.settings import PlatformStage
from joblane.cdk.templates import Extra
from joblane.cdk.watching.alarms import Alarm, longest_gap, own_metric, silence
from joblane.names import Queue
from joblane.tasks.task import Task

TYPE = "system:health_check"
CHECKS = len(Queue) + 2
"""Checks of the front doors, the database and the sweep. Each configured service is another check."""
COSTS: Mapping[str, Extra] = {
    TYPE: Extra(
        metrics=2 * CHECKS + 1,  # result and time of each check, and the result of all
        sqs_requests=2 * len(Queue),
    )
}


def health_alarms(stage: PlatformStage, tasks: Mapping[str, Task[Any, Any]]) -> Sequence[Alarm]:
    """Return an alarm for a health check that does not pass or does not run."""
    if TYPE not in tasks or stage.monitoring is None or (gap := longest_gap(tasks[TYPE])) is None:
        return ()
    passed = partial(own_metric, stage.prefix, "HealthCheckPassed", check=WHOLE)
    return [*silence("health-check", "unhealthy", passed, gap, stage.monitoring.silence)]
