"""The share of each lane in a stage's ``concurrency_budget``."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

from joblane.names import Queue, lane_name
from joblane.quotas import MIN_CONCURRENCY, share_concurrency
from joblane.tasks.task import Task

Lanes = Sequence[tuple[str, Queue, int | None]]
"""Lanes that share a budget, as in :func:`~joblane.quotas.share_concurrency`."""


def shares(prefix: str, budget: int, tasks: Iterable[Task[Any, Any]]) -> dict[str, int]:
    """Return lane → ``MaximumConcurrency``, computed by :func:`~joblane.quotas.share_concurrency`."""
    return share_concurrency(sharing_lanes(prefix, tasks), budget)


def sharing_lanes(prefix: str, tasks: Iterable[Task[Any, Any]]) -> list[tuple[str, Queue, int | None]]:
    """Return name, queue and declared ``max_concurrency`` of each lane that has a share. Former lanes have none."""
    lanes = (
        (lane_name(prefix, queue, task.type), queue, task.max_concurrency) for task in tasks for queue in task.lanes
    )
    return list(dict.fromkeys(lanes))  # the types of a place share a lane


def slots_with(lanes: Lanes, slots: int, budget: int, other: int) -> int:
    """Return ``slots``, the sum of all mappings, as it is if ``other`` replaces the ``concurrency_budget``."""
    now, then = (sum(share_concurrency(lanes, each).values()) for each in (budget, other))
    return slots - now + then


def fitting_budget(lanes: Lanes, slots: int, budget: int, free: int) -> int | None:
    """Return the largest ``concurrency_budget`` below ``budget`` with which the slots fit; None if none does."""
    # a larger budget gives no lane less
    fitting = bisect_right(
        range(MIN_CONCURRENCY, budget), free, key=lambda other: slots_with(lanes, slots, budget, other)
    )
    return MIN_CONCURRENCY + fitting - 1 if fitting else None
