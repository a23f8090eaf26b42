"""The problems of a backend's settings, for Django's system checks: ``manage.py check``."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any, Protocol

from django.core.checks import CheckMessage, Error
from django.db import connections
from django.tasks.exceptions import InvalidTask
from django.utils.connection import ConnectionDoesNotExist

from joblane import settings
from joblane.django.payload import type_of
from joblane.errors import DeclarationError
from joblane.installation import install


class Backend(Protocol):
    """The attributes of a backend that the checks read."""

    alias: str
    database: str
    functions: str | None
    queues: Collection[str]
    registered: Any

    def declared(self, queue_name: str) -> Any:
        """Return the declaration of a queue. Raises ``InvalidTask``."""


def check_backend(backend: Backend) -> list[CheckMessage]:
    """Return the problems of a backend, each with the change that solves it."""
    found = [*_database(backend), *_modules(backend)]
    for queue_name in sorted(backend.queues):
        try:
            type_of(queue_name)
            if _has_handlers(backend):
                backend.declared(queue_name)
        except (DeclarationError, InvalidTask) as error:
            found.append(_error(backend, "E003", f"QUEUES: {error}"))
    return found


def _database(backend: Backend) -> list[CheckMessage]:
    where = f"DATABASES[{backend.database!r}]"
    try:
        connection = connections[backend.database]
    except ConnectionDoesNotExist:
        return [_error(backend, "E001", f"OPTIONS['database']: there is no {where}")]
    if connection.vendor != "postgresql" or connection.Database.__name__ != "psycopg":
        return [_error(backend, "E001", f"{where}: PostgreSQL and psycopg 3 are required: {install('django')}")]
    return []


def _modules(backend: Backend) -> list[CheckMessage]:
    """Import the modules with tasks, as a worker does at its start."""
    try:
        _ = backend.registered
    except ImportError as error:
        return [_error(backend, "E002", f"a module with tasks cannot be imported: {error}")]
    return []


def _has_handlers(backend: Backend) -> bool:
    """True if the package of the handlers can be imported here."""
    try:
        importlib.import_module(backend.functions or settings.functions())
    except ImportError:
        return False
    return True


def _error(backend: Backend, number: str, problem: str) -> CheckMessage:
    return Error(f"TASKS[{backend.alias!r}]: {problem}", id=f"joblane.{number}", obj=backend.alias)
