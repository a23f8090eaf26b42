"""What tests of every kind may ask for: a PostgreSQL of their own."""

from __future__ import annotations

import itertools
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.cli.postgres import Postgres

TEMPLATE = "migrated"
_numbers = itertools.count(1)


def pytest_configure() -> None:
    """Let SIGTERM end the session as Ctrl-C does: what the fixtures have started stops with it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One server for the session; a test that stops or kills it starts it again (port and data stay)."""
    from shared.cli.postgres import Postgres  # imported here: a unit test should not pay for it

    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres: Postgres) -> str:
    """Name of a database that holds the newest schema and no row; never connect to it, or it cannot be cloned."""
    from shared.migrations import upgrade

    administer(postgres, f"create database {TEMPLATE}")
    upgrade(postgres.database_url(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(postgres: Postgres, migrated_template: str) -> Iterator[str]:
    """Address of a migrated, empty database for one test (`postgresql://…`, without a driver's name)."""
    name = f"test_{next(_numbers)}"
    administer(postgres, f"create database {name} template {migrated_template} strategy file_copy")
    yield postgres.database_url(name)
    postgres.start()  # where the test left it stopped
    administer(postgres, f"drop database if exists {name} with (force)")


def administer(server: Postgres, statement: str) -> None:
    """Run a statement that no transaction may hold, such as `create database`."""
    import pg8000.native
    from sqlalchemy.engine import make_url

    url = make_url(server.database_url("postgres"))
    connection = pg8000.native.Connection(
        url.username or "",
        password=url.password,
        host=url.host or "",
        port=url.port or 0,
        database=url.database,
        ssl_context=False,
    )
    try:
        connection.run(statement)
    finally:
        connection.close()
