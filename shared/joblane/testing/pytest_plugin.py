"""The pytest plugin `joblane`: the fixture `jobs`, a :class:`~joblane.testing.JobTester` with its own database, and the
fixture `spans`.

The plugin creates and drops databases on the server at `--joblane-database` or `DATABASE_URL`, and changes nothing else
there. Without either, it starts a PostgreSQL for the session. Loading the plugin imports only pytest and the project's
settings. It puts the project's code on `sys.path`, as `joblane` does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from joblane.testing import JobTester
    from joblane.testing.databases import Databases

OPTION = "--joblane-database"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option to pytest's."""
    parser.getgroup("joblane").addoption(
        OPTION,
        metavar="URL",
        help="postgresql://… of a server on which tests of jobs create their databases "
        "(default: DATABASE_URL, or else a server is started for the session)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let tests import the project's functions and other code, independent of how pytest was started."""
    from joblane.project import Project, ProjectError

    try:
        Project.here(config.rootpath, trusted=True).add_to_path()  # pytest runs conftest.py of this folder
    except ProjectError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture(scope="session")
def joblane_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database on the server for tests. A project with its own server overrides this fixture."""
    given = request.config.getoption(OPTION) or os.environ.get("DATABASE_URL", "").strip()
    if given:
        yield given
        return
    try:
        from joblane.testing.server_for_tests import server_for_tests
    except ModuleNotFoundError as error:
        from joblane.installation import install

        raise pytest.UsageError(
            f"PostgreSQL cannot be started, because the package {error.name!r} is missing. Run "
            f"`{install('test')}`, or name a server by {OPTION} or DATABASE_URL."
        ) from error
    with server_for_tests() as server:
        yield server.url


@pytest.fixture(scope="session")
def joblane_databases(joblane_server: str, pytestconfig: pytest.Config) -> Iterator[Databases]:
    """The source of migrated databases on that server."""
    from joblane.project import Project
    from joblane.testing.databases import Databases

    project = Project.here(pytestconfig.rootpath, trusted=True)
    project.activate()
    databases = Databases(joblane_server, migrations=project.migrations)
    yield databases
    databases.close()


@pytest.fixture
def joblane_database(joblane_databases: Databases) -> Iterator[str]:
    """The URL of a migrated, empty database for one test (`postgresql://…`, without a driver's name)."""
    with joblane_databases.clone() as url:
        yield url


@pytest.fixture
def jobs(joblane_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobTester]:
    """A :class:`~joblane.testing.JobTester`: a new database, queues in memory, and time that the test controls.

    During the test `DATABASE_URL` names that database, for code that reads it. No metrics are written.
    """
    from joblane.telemetry import METRICS_DISABLED
    from joblane.testing import JobTester

    monkeypatch.setenv("DATABASE_URL", joblane_database)
    monkeypatch.setenv(METRICS_DISABLED, "true")
    with JobTester(joblane_database) as tester:
        yield tester


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """The spans of the test, of Joblane and of other code: the `InMemorySpanExporter` of OpenTelemetry's SDK.

    It needs the packages of `joblane[otel]`. A provider of the SDK that the program has set is used.
    """
    from joblane.testing.spans import recorded

    with recorded() as exporter:
        yield exporter
