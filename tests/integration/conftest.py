"""What the tests of every room share: a world, and an operator before it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from moto import mock_aws
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from joblane.client import JobClient
from joblane.functions.jobs_bulk import handler as bulk_handler
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.queues import Queue, dead_letter_name, front_door_name, lane_name
from joblane.record.database import Database
from joblane.sqs.client import Sqs
from tests.bulks import TASKS, Bulks
from tests.world import PREFIX, World


@pytest.fixture
def world(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        made = World(database_url, Sqs(), Database(database_url), JobClient(), Database(database_url))
        yield made
        made.database.drop()
        made._looker.drop()
        made.client.close()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Poll a condition for up to 20 seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        ends = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < ends, "the condition did not come true"
            time.sleep(0.01)

    return wait


@pytest.fixture
def session(world: World) -> Iterator[Session]:
    """A caller's own, on an engine of its own."""
    engine = create_engine(world.url.replace("postgresql://", "postgresql+pg8000://"))
    with Session(engine) as made:
        yield made
    engine.dispose()


@pytest.fixture
def scope(world: World) -> Iterator[Scope]:
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
def deployed(world: World) -> World:
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
