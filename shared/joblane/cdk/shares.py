"""The share of each lane in a stage's ``concurrency_budget``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from joblane.declaration import Task
from joblane.limits import share_concurrency
from joblane.queues import Queue, lane_name


def shares(prefix: str, budget: int, tasks: Iterable[Task[Any, Any]]) -> dict[str, int]:
    """Return lane → ``MaximumConcurrency``, computed by :func:`~joblane.limits.share_concurrency`."""
    return share_concurrency(sharing_lanes(prefix, tasks), budget)


def sharing_lanes(prefix: str, tasks: Iterable[Task[Any, Any]]) -> list[tuple[str, Queue, int | None]]:
    """Return name, queue and declared ``max_concurrency`` of each lane that has a share. Lanes of aliases have none."""
    return [
        (lane_name(prefix, queue, task.type), queue, task.max_concurrency) for task in tasks for queue in task.lanes
    ]
