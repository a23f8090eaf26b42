"""The pytest plugin `joblane`: the fixture `jobs`, a :class:`~joblane.testing.JobTester` on a database of its own.

The server is the one at `--joblane-database` or `DATABASE_URL`, on which databases are made and dropped and nothing
else is touched; without either, a PostgreSQL of the session's own. Loading the plugin imports pytest and
the project's settings, and no more. It puts the project's code on `sys.path`, as `joblane` does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from joblane.testing import JobTester
    from joblane.testing.databases import Databases

OPTION = "--joblane-database"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option to pytest's."""
    parser.getgroup("joblane").addoption(
        OPTION,
        metavar="URL",
        help="postgresql://… of a server that tests of jobs make their databases on "
        "(default: DATABASE_URL, else a server is started for the session)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let tests import the functions and the further code of the project, however pytest was started."""
    from joblane.project import Project, ProjectError

    try:
        Project.here(config.rootpath).add_to_path()
    except ProjectError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture(scope="session")
def joblane_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a database on the server for tests. A project that has a server of its own overrides this."""
    given = request.config.getoption(OPTION) or os.environ.get("DATABASE_URL", "").strip()
    if given:
        yield given
        return
    try:
        from joblane.testing.server_for_tests import server_for_tests
    except ModuleNotFoundError as error:
        raise pytest.UsageError(
            f"To start a PostgreSQL, the package {error.name!r} is missing: pip install 'joblane[test]', or name a "
            f"server by {OPTION} or DATABASE_URL."
        ) from error
    with server_for_tests() as server:
        yield server.url


@pytest.fixture(scope="session")
def joblane_databases(joblane_server: str, pytestconfig: pytest.Config) -> Iterator[Databases]:
    """Migrated databases on that server, as many as are wanted."""
    from joblane.project import Project
    from joblane.testing.databases import Databases

    project = Project.here(pytestconfig.rootpath)
    project.activate()
    databases = Databases(joblane_server, migrations=project.migrations)
    yield databases
    databases.close()


@pytest.fixture
def joblane_database(joblane_databases: Databases) -> Iterator[str]:
    """Address of a migrated, empty database for one test (`postgresql://…`, without a driver's name)."""
    with joblane_databases.clone() as url:
        yield url


@pytest.fixture
def jobs(joblane_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobTester]:
    """Jobs in a test: the record in a fresh database, the queues in memory, and the time in your hand.

    `DATABASE_URL` names that database meanwhile, for code that reads it. No metrics are written.
    """
    from joblane.testing import JobTester

    monkeypatch.setenv("DATABASE_URL", joblane_database)
    monkeypatch.setenv("POWERTOOLS_METRICS_DISABLED", "true")
    with JobTester(joblane_database) as tester:
        yield tester
