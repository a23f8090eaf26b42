"""The fixtures of the integration tests: a world, and an operator for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from joblane import settings
from joblane.cli import connect as connecting
from joblane.cli import target
from joblane.functions.jobs_bulk import handler as bulk_handler
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.record import audit
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.task_types import LIMITS, declared_limits
from joblane.tasks.task import Task
from joblane.testing import JobTester
from joblane.worker.invocation import Invocation
from tests import fast_typer
from tests.builders import events
from tests.builders.handlers import Clock
from tests.bulks import TASKS, Bulks
from tests.integration.docs_page import WHO, Page
from tests.patience import PATIENCE_SECONDS
from tests.samples import LIMITED
from tests.world import PREFIX, World, mocked_aws

fast_typer.accelerate()


@pytest.fixture
def world(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("DATABASE_URL", database_url)
    with mocked_aws(monkeypatch), World.over(database_url) as world:
        yield world


@pytest.fixture(params=[settings.DEFAULT_SWEEP_MINUTES, settings.SHORT_MINUTES])
def each_sweep(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both modes of a stage: commits wake the sweep, which plans its runs; or its schedule alone starts it."""
    monkeypatch.setenv(settings.SWEEP_MINUTES, str(request.param))


class Standing(Invocation):
    """An invocation whose time does not pass."""

    def __init__(self, id_: str, seconds: float) -> None:
        self.id, self._seconds, self.is_shared = id_, seconds, False

    @property
    def ends(self) -> float:  # type: ignore[override]
        return time.monotonic() + self._seconds


@pytest.fixture
def standing_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler or a listener has all the time that its invocation had at first: a slow claim takes none of it."""
    monkeypatch.setattr(events, "Invocation", Standing)


@pytest.fixture
def effects(world: World) -> World:
    """A world with the table of ``tests.builders.handlers``."""
    world.run("create table effects (task_id text, what text)")
    return world


@pytest.fixture
def others(world: World) -> Iterator[Callable[[], Connection]]:
    """Connections of other processes."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Database(world.url)).get()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of handlers, which a test moves."""
    clock = Clock()
    monkeypatch.setattr("joblane.handler.context.time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Poll a condition."""

    def wait(condition: Callable[[], bool]) -> None:
        ends = time.monotonic() + PATIENCE_SECONDS
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
    """The scope of an inspector with its own connection. The operator is ``op``."""
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
    world.deploy(TASKS.values())
    return world


@pytest.fixture
def bulks(deployed: World, monkeypatch: pytest.MonkeyPatch) -> Bulks:
    """Bulk actions over these declarations."""
    monkeypatch.setattr(bulk_handler, "discover", lambda: TASKS)
    monkeypatch.setattr(bulk_handler, "Sqs", lambda: deployed.sqs)
    return Bulks(deployed)


@pytest.fixture
def limited(world: World) -> World:
    """A world with the limits of the samples."""
    world.run(LIMITS, json.dumps(declared_limits({task.type: task for task in LIMITED})))
    return world


@pytest.fixture
def docs_page(
    jobs: JobTester, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Page]]:
    """Return a page. Its commands are those of the operator ``ann@laptop``, at a terminal of 100 columns."""
    database, tasks = Database(jobs.url), dict[str, Task[Any, Any]]()
    operator = Inspector(Scope(database, jobs._queues, "jobs", tasks, WHO))
    monkeypatch.setattr(connecting, "connect", lambda **_: operator)
    monkeypatch.setattr(target, "program", lambda: "joblane")
    monkeypatch.setattr(audit, "user_of_process", lambda: WHO)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("JOBLANE_STAGE", raising=False)

    def read(name: str) -> Page:
        made = Page(name, jobs, capsys)
        made.tasks = tasks
        return made

    yield read
    database.drop()
