"""Databases for tests: one with the newest schema as a template, and an empty clone of it for each test."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from pg8000.exceptions import Error as PostgresError

from joblane.errors import sqlstate, text_of
from joblane.local.errors import LocalError
from joblane.record.connection import is_unavailable
from joblane.record.database import Database

PREFIX = "joblane_test"
INSUFFICIENT_PRIVILEGE = "42501"


class Databases:
    """Clones of a template on one server.

    `url`: a database of the server whose user may create others. It is connected to and never written to.
    `migrations`: `module:function` that makes the project's own tables after the library's; None where it has none.
    """

    def __init__(self, url: str, *, migrations: str | None = None) -> None:
        self._url = url
        self._migrations = migrations
        self._name = f"{PREFIX}_{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self._made = False

    @contextmanager
    def clone(self) -> Iterator[str]:
        """Yield the address of a migrated, empty database, and drop it at the end.

        Raises: `LocalError` where the server cannot be reached or refuses to create it.
        """
        template = self._template()
        name = f"{self._name}_{next(self._numbers)}"
        self._run(f"create database {name} template {template} strategy file_copy")
        try:
            yield self._address(name)
        finally:
            self._run(f"drop database if exists {name} with (force)")

    def close(self) -> None:
        """Drop the template."""
        if self._made:
            self._made = False
            self._run(f"drop database if exists {self._name} with (force)")

    def _template(self) -> str:
        """The template's name; made on first use. Nobody connects to it later, or it could not be cloned."""
        if not self._made:
            from joblane.record.migrate import upgrade_project
            from joblane.record.migrations import upgrade

            self._run(f"create database {self._name}")
            self._made = True
            upgrade(self._address(self._name))
            upgrade_project(self._address(self._name), self._migrations)
        return self._name

    def _address(self, name: str) -> str:
        return urlsplit(self._url)._replace(path=f"/{name}").geturl()

    def _run(self, statement: str) -> None:
        try:
            administer(self._url, statement)
        except (PostgresError, OSError) as error:
            where = urlsplit(self._url)
            what = f"{where.hostname}:{where.port or 5432}"
            if is_unavailable(error):
                raise LocalError(f"PostgreSQL at {what} cannot be reached: {text_of(error)}") from error
            if sqlstate(error) == INSUFFICIENT_PRIVILEGE:
                raise LocalError(
                    f"The user {where.username!r} may not create databases at {what}, and each test gets one of its "
                    f"own: `alter role {where.username} createdb`, or leave the address out."
                ) from error
            raise


def administer(url: str, statement: str) -> None:
    """Run a statement that no transaction may hold, such as `create database`."""
    with Database(url) as database:
        database.get().run(statement)
