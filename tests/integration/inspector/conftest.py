"""An operator before the world: an inspector over its record and its queues."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from joblane.functions.jobs_bulk import handler as bulk_handler
from joblane.functions.jobs_bulk.handler import jobs_bulk
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.queues import Queue, dead_letter_name, front_door_name, lane_name
from joblane.record.database import Database
from tests.integration.inspector.bulks import Bulks
from tests.integration.jobs import samples
from tests.integration.jobs.conftest import (  # noqa: F401 - fixtures
    PREFIX,
    World,
    session,
    wait_until,
    world,
)

TASKS = {
    task.type: task
    for task in (
        samples.sample_one,
        samples.sample_batch,
        samples.sample_only,
        samples.sample_forgotten,
        samples.sample_tick,
        samples.sample_watched,
        samples.sample_alert,
        jobs_bulk,
    )
}
"""What is declared, in these tests."""


@pytest.fixture
def scope(world: World) -> Iterator[Scope]:  # noqa: F811
    """What the inspector works with, on a connection of its own; the operator is ``op``."""
    database = Database(world.url)
    yield Scope(database, world.sqs, PREFIX, TASKS, "op")
    database.drop()


@pytest.fixture
def inspector(scope: Scope) -> Inspector:
    return Inspector(scope)


@pytest.fixture
def as_operator(scope: Scope) -> Callable[[str], Inspector]:
    """An inspector of somebody else, on the same connection."""

    def of(who: str) -> Inspector:
        return Inspector(Scope(scope.database, scope.sqs, scope.prefix, scope.tasks, who))

    return of


@pytest.fixture
def deployed(world: World) -> World:  # noqa: F811
    """The world with every queue that a deploy makes: front doors, lanes, and their dead letters."""
    names = [front_door_name(PREFIX, queue) for queue in Queue]
    names += [lane_name(PREFIX, queue, task.type) for task in TASKS.values() for queue in task.lanes]
    for name in names:
        for queue in (name, dead_letter_name(name)):
            world.sqs.client.create_queue(QueueName=queue)
    return world


@pytest.fixture
def bulks(deployed: World, monkeypatch: pytest.MonkeyPatch) -> Bulks:
    """Bulk actions over these declarations."""
    monkeypatch.setattr(bulk_handler, "discover", lambda: TASKS)
    monkeypatch.setattr(bulk_handler, "Sqs", lambda: deployed.sqs)
    return Bulks(deployed)
