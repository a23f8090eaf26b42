"""Tasks whose handlers do what the test says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from shared.jobs import Payload, Queue, TaskContext, task

Behaviour = Callable[[Any, TaskContext], Any]
behaviours: dict[str, Behaviour] = {}
"""By the payload's ``do``; a test registers its own."""


class Sample(Payload):
    do: str = "nothing"
    number: int = 0


def behaviour(function: Behaviour) -> Behaviour:
    """Register a handler's doing under the function's name."""
    behaviours[function.__name__] = function
    return function


@behaviour
def nothing(payload: Sample, ctx: TaskContext) -> None:
    pass


@task("sample:one", max_retry=3, timeout=timedelta(seconds=20), retry_delay=timedelta(seconds=40))
def sample_one(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task(
    "sample:batch",
    also=[Queue.CRITICAL],
    max_retry=3,
    timeout=timedelta(seconds=20),
    batch_size=10,
    retry_delay=timedelta(seconds=40),
)
def sample_batch(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task("sample:forgotten", max_retry=1, retention=timedelta(0))
def sample_forgotten(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)
