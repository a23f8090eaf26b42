"""Databases for tests: a template with the newest schema, and an empty clone of it for each test."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from pg8000.exceptions import Error as PostgresError

from joblane.errors import sqlstate, text_of
from joblane.local.errors import LocalError
from joblane.record.driver.connection import INSUFFICIENT_PRIVILEGE, Connection, is_unavailable
from joblane.record.driver.database import Database

PREFIX = "joblane_test"
END_CONNECTIONS = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '{name}'"


class Databases:
    """Clones of a template on one server.

    `url`: a database of the server, whose user may create databases. The kit connects to it and never writes to it.
    `migrations`: `module:function` that creates the project's own tables after the library's; None: there are none.
    """

    def __init__(self, url: str, *, migrations: str | None = None) -> None:
        self._url = url
        self._server = Database(url, limits=None)
        self._migrations = migrations
        self._name = f"{PREFIX}_{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self._has_template = False

    @contextmanager
    def clone(self) -> Iterator[str]:
        """Yield the URL of a migrated, empty database, and drop the database at the end.

        Raises: `LocalError` if the server cannot be reached or refuses to create it.
        """
        template = self._template()
        name = f"{self._name}_{next(self._numbers)}"
        self._run(f"create database {name} template {template} strategy file_copy")
        try:
            yield self._url_of(name)
        finally:
            self._run(f"drop database if exists {name} with (force)")

    def close(self) -> None:
        """Drop the template."""
        if self._has_template:
            self._has_template = False
            self._run(f"drop database if exists {self._name} with (force)")
        self._server.drop()

    def _template(self) -> str:
        """Return the name of the template, created on first use. PostgreSQL only clones it without open connections."""
        if not self._has_template:
            from joblane.record.migrate import upgrade_project
            from joblane.record.migrations import upgrade

            self._run(f"create database {self._name}")
            self._has_template = True
            upgrade(self._url_of(self._name))
            upgrade_project(self._url_of(self._name), self._migrations)
            self._run(END_CONNECTIONS.format(name=self._name))  # the pool of an engine of the project's migrations
        return self._name

    def _url_of(self, name: str) -> str:
        return urlsplit(self._url)._replace(path=f"/{name}").geturl()

    def _run(self, statement: str) -> None:
        try:
            self._server.call_again(Connection.run, statement)  # again if a test has restarted the server
        except (PostgresError, OSError) as error:
            self._server.drop()  # after an error, `close` may never be called
            parts = urlsplit(self._url)
            server = f"{parts.hostname}:{parts.port or 5432}"
            if is_unavailable(error):
                raise LocalError(f"PostgreSQL at {server} cannot be reached: {text_of(error)}") from error
            if sqlstate(error) == INSUFFICIENT_PRIVILEGE:
                raise LocalError(
                    f"The user {parts.username!r} may not create databases at {server}, and each test needs its own. "
                    f"Run `alter role {parts.username} createdb`, or leave the URL out."
                ) from error
            raise
