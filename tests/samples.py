"""Sample tasks whose handlers have the behaviour that the test names."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from joblane import ArchivedTask, Grants, Lambda, Payload, Queue, TaskContext, task
from joblane.tasks.limit import Limit, Rate

Behaviour = Callable[[Any, TaskContext], Any]
behaviours: dict[str, Behaviour] = {}
"""The payload's ``do`` → the behaviour. A test registers its own."""


class Sample(Payload):
    do: str = "nothing"
    number: int = 0


def behaviour(function: Behaviour) -> Behaviour:
    """Register a handler's behaviour under the function's name, which no other test module may use."""
    other = behaviours.get(function.__name__, function).__module__
    assert other == function.__module__, f"{function.__name__!r} is a behaviour of {other}"
    behaviours[function.__name__] = function
    return function


@behaviour
def nothing(payload: Sample, ctx: TaskContext) -> None:
    pass


@behaviour
async def nothing_async(payload: Sample, ctx: TaskContext) -> None:
    pass


@task(
    "sample:one",
    max_retry=3,
    timeout=timedelta(seconds=20),
    retry_delay=timedelta(seconds=40),
    grants=Grants(enqueue=("sample:single",)),
)
def sample_one(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task(
    "sample:async",
    max_retry=3,
    timeout=timedelta(seconds=20),
    retry_delay=timedelta(seconds=40),
    grants=Grants(enqueue=("sample:one",)),
)
async def sample_async(payload: Sample, ctx: TaskContext) -> Any:
    return await behaviours[payload.do](payload, ctx)


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


# --- One live task per key -----------------------------------------------------------------------------------------


@task("sample:only", max_retry=1, retry_delay=timedelta(seconds=40), unique_for=timedelta(hours=1))
def sample_only(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task("sample:latest", max_retry=1, unique_for=timedelta(hours=1), unique_until="start")
def sample_latest(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task("sample:tick", schedule=["0 * * * *", "30 * * * *"])
def sample_tick(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task("sample:overlap", schedule="0 * * * *", overlap="allow")
def sample_overlap(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


# --- Archived ------------------------------------------------------------------------------------------------------


@task("sample:alert")
def sample_alert(payload: ArchivedTask, ctx: TaskContext) -> Any:
    return behaviours["alert"](payload, ctx)


@task("sample:watched", max_retry=1, retry_delay=timedelta(0), on_archived=sample_alert)
def sample_watched(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


# --- Limits --------------------------------------------------------------------------------------------------------

SHARED = Limit("shared", total=2)


@task("sample:keyed", max_retry=3, retry_delay=timedelta(seconds=40), key="number", max_per_key=1)
def sample_keyed(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task("sample:single", max_retry=3, retry_delay=timedelta(seconds=40), max_total=1)
def sample_single(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task("sample:tree", max_retry=3, batch_size=4, key="number", max_per_key=2, max_total=3, limit=SHARED)
def sample_tree(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task("sample:sharing", max_retry=3, limit=SHARED)
def sample_sharing(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task("sample:ordered", max_retry=3, retry_delay=timedelta(seconds=40), key="tenant,number", order="first-due")
def sample_ordered(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task("sample:rated", max_retry=3, rate=Rate(10, per=timedelta(seconds=10), burst=2))
def sample_rated(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


LIMITED = (sample_keyed, sample_single, sample_tree, sample_sharing, sample_ordered, sample_rated)


# --- A place -------------------------------------------------------------------------------------------------------

PLACE = Lambda("place", batch_size=10)


@task("place:one", max_retry=3, retry_delay=timedelta(seconds=40), runs_on=PLACE)
def place_one(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task("place:two", aliases=["place:former"], runs_on=PLACE)
def place_two(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task("place:shares", runs_on=PLACE, limit=SHARED)
def place_shares(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task("place:shares_too", runs_on=PLACE, limit=SHARED)
def place_shares_too(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)
