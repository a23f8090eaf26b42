"""The platform's health check: its alarm, and what its runs cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from functions.system_health_check.handler import WHOLE
from infra.settings import PlatformStage
from joblane.cdk.costs import Extra
from joblane.cdk.watching.alarms import Alarm, longest_gap, own_metric, silence
from joblane.declaration import Task
from joblane.queues import Queue

TYPE = "system:health_check"
CHECKS = len(Queue) + 2
"""Front doors, database, sweep; a configured service is one more each."""
COSTS: Mapping[str, Extra] = {
    TYPE: Extra(
        metrics=2 * CHECKS + 1,  # passed and time of each, and one for the whole
        sqs_requests=2 * len(Queue),
    )
}


def health_alarms(stage: PlatformStage, tasks: Mapping[str, Task[Any, Any]]) -> Sequence[Alarm]:
    """An alarm for a health check that does not pass or does not run."""
    if TYPE not in tasks or stage.monitoring is None or (gap := longest_gap(tasks[TYPE])) is None:
        return ()
    passed = partial(own_metric, stage.prefix, "HealthCheckPassed", check=WHOLE)
    return [*silence("health-check", "unhealthy", passed, gap, stage.monitoring.silence)]
