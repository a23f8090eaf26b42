"""The fixtures of all tests: a PostgreSQL server for the session, and a database for each test."""

from __future__ import annotations

import functools
import gc
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import joblane
from joblane import forking, settings
from joblane.enqueue import wake
from joblane.sqs.client import Sqs
from joblane.tasks.event_kinds import AROUND, ENQUEUEING, LISTENERS, OBSERVERS
from tests.golden import Mode, add_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from joblane.local.postgres import Postgres
    from joblane.testing.databases import Databases
    from tests.databases import ReusedDatabases

ROOT = Path(__file__).parents[1]
TOGETHER, ON_THEIR_OWN = (
    ("tests/e2e/", "tests/infra/"),
    ("/test_demo.py", "/test_adopter.py", "/test_dev_stage.py"),
)
"""Folders whose tests, but for three files, share what takes long to make: a stack, the CDK and its templates."""
FIRST = ("tests/infra/", "tests/e2e/test_dev_stage.py", "tests/e2e/adopter/", "tests/e2e/", "tests/unit/test_site.py")
"""Folders and files that take longest, so that no worker runs one of them alone at the end."""


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Load the plugin also where this checkout is not installed; refuse to test another checkout's code."""
    help_ = "count the CPU seconds of each folder, which has a bound; write: these are the new numbers"
    parser.addoption("--seconds", nargs="?", const="check", choices=("check", "write"), help=help_)
    add_option(parser)
    if not Path(joblane.__file__ or "").is_relative_to(ROOT):
        raise pytest.UsageError(f"these tests would run {joblane.__file__}: start them by `python -m pytest` in {ROOT}")
    if not pluginmanager.has_plugin("joblane"):
        from joblane.testing import pytest_plugin

        pluginmanager.register(pytest_plugin, "joblane")


def pytest_configure(config: pytest.Config) -> None:
    """Let SIGTERM end the session as Ctrl-C does, so that fixtures stop the processes that they have started.

    Compute the 4,096 hashes of a login by password once for each password, since a test logs in several times.
    """
    from scramp import core

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    hashed = functools.cache(core.hi)
    core.hi = lambda function, password, salt, iterations: hashed(function, password, salt, int(iterations))
    Mode.writes = config.option.golden == "write"
    if config.option.seconds:
        from tests.seconds import Seconds

        config.pluginmanager.register(Seconds(config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of :data:`FIRST` first, each folder in its order."""
    items.sort(key=lambda item: next((n for n, start in enumerate(FIRST) if item.nodeid.startswith(start)), len(FIRST)))


def pytest_collection_finish() -> None:
    """Keep the half million objects of the imports out of the search for garbage: it takes a tenth of the time.

    From Python 3.14 on, Hypothesis takes its frozen source of random numbers for one that nothing refers to.
    """
    if sys.version_info < (3, 14):
        gc.collect()
        gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadfile``, run each file in one worker, and each folder of :data:`TOGETHER` too."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Folders(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return next((one for one in TOGETHER if file.startswith(one) and not file.endswith(ON_THEIR_OWN)), file)

    return Folders(config, log)


@pytest.fixture(autouse=True)
def own_listeners() -> Iterator[None]:
    """The listeners and hooks that a test declares are not called in other tests, nor at the end of the session."""
    before = [(registry, list(registry)) for registry in (LISTENERS, AROUND, ENQUEUEING, OBSERVERS)]
    ends = dict(forking._ends)
    yield
    forking._ends.clear()
    forking._ends.update(ends)
    for registry, items in before:
        registry[:] = items


@pytest.fixture(autouse=True)
def no_wake_up_before() -> Iterator[None]:
    """The sweep is as in a stage by default: the first commit of each test wakes it.

    A wake-up that SQS has refused is not tried again after the test. Not the fixture ``monkeypatch``, whose changes
    would then last until after all other fixtures.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(settings.SWEEP_MINUTES, raising=False)
        patch.setattr(Sqs, "covered", {})
        patch.setattr(wake, "_waker", waker := wake._Waker())
        yield
        waker.cover = lambda *_: True  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server of the session. A test that stops or kills it starts it again, with the same port and data."""
    from joblane.testing.server_for_tests import server_for_tests  # imported here: a unit test should not pay for it

    with server_for_tests() as server:
        yield server


@pytest.fixture(scope="session")
def joblane_server(postgres: Postgres) -> str:
    """The plugin's databases are on this server, whatever the environment says."""
    return postgres.url


@pytest.fixture(scope="session")
def reused_databases(joblane_databases: Databases) -> Iterator[ReusedDatabases]:
    """The source of the databases for one test."""
    from tests.databases import ReusedDatabases

    databases = ReusedDatabases(joblane_databases)
    yield databases
    databases.drop()


@pytest.fixture
def database_url(postgres: Postgres, reused_databases: ReusedDatabases) -> Iterator[str]:
    """Address of a migrated, empty database for one test (`postgresql://…`, without a driver's name)."""
    with reused_databases.lend() as url:
        yield url
        postgres.start()  # where the test left it stopped


@pytest.fixture
def joblane_database(database_url: str) -> str:
    """The database of the fixture `jobs`."""
    return database_url


def administer(server: Postgres, statement: str) -> None:
    """Run a statement that PostgreSQL refuses in a transaction, such as `create database`."""
    from tests.databases import administer

    administer(server.database_url("postgres"), statement)
