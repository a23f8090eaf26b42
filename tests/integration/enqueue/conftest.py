"""A client whose sends are recorded, and other clients like those of other processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from joblane import JobClient, Payload, TaskContext, task
from joblane.client.client import client_within
from joblane.record.driver.database import Database
from joblane.testing.faults import Hook, HookedDatabase
from tests.samples import sample_batch, sample_latest, sample_one, sample_only
from tests.sends import Sends
from tests.transports import ALL, Transport, sends_of
from tests.world import PREFIX, World

Another = Callable[..., JobClient]


class Loose(Payload):
    """Accepts any value, so that the checks after it must refuse it."""

    value: Any = None
    number: float = 0


@task("sample:loose")
def sample_loose(payload: Loose, ctx: TaskContext) -> None:
    pass


@pytest.fixture
def sends(world: World) -> Sends:
    """The sends of the world's client. There is a table for the caller's work."""
    return sends_of(world)


@pytest.fixture(params=ALL)
def transport(world: World, sends: Sends, request: pytest.FixtureRequest) -> Iterator[Transport]:
    with ExitStack() as stack:
        yield request.param(world, stack)


@pytest.fixture
def client(world: World) -> JobClient:
    """The world's client, with the lanes of samples."""
    for one in (sample_one, sample_batch, sample_only, sample_latest):
        world.lane(one)
    world.client._producer.sqs = world.sqs
    return world.client


@pytest.fixture
def another(world: World) -> Iterator[Another]:
    """Make a client with a connection of its own, like that of another process. ``hook``: around its statements."""
    with ExitStack() as stack:

        def make(hook: Hook | None = None) -> JobClient:
            database = HookedDatabase(world.url, hook) if hook else Database(world.url)
            return client_within(stack.enter_context(database), world.sqs, PREFIX)

        yield make
