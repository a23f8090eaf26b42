"""Django over the database of a test. Its settings are those of the process and can be made once, so they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import django
from django.conf import settings
from django.db import connections

TASKS: dict[str, Any] = {
    "BACKEND": "joblane.django.JoblaneBackend",
    "QUEUES": ["default", "mail", "loose", "invoices", "receipts"],
    "OPTIONS": {"functions": "tests.integration.django_tasks.functions"},
}
"""The entry of `TASKS`."""


def database_of(url: str) -> dict[str, Any]:
    """Return an entry of `DATABASES`."""
    address = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": address.path[1:],
        "USER": address.username,
        "PASSWORD": unquote(address.password or ""),
        "HOST": address.hostname,
        "PORT": address.port,
        "CONN_MAX_AGE": None,
    }


def configure() -> None:
    """Make the settings of the process."""
    if not settings.configured:
        settings.configure(
            DATABASES={"default": database_of("postgresql://nobody@127.0.0.1:1/none")},
            INSTALLED_APPS=["joblane.django", "tests.integration.django_tasks.shop"],
            TASKS={"default": TASKS},
            SECRET_KEY="for tests",
            USE_TZ=True,
        )
        django.setup()


@contextmanager
def django_database(url: str) -> Iterator[Any]:
    """Connect Django's default database to ``url``, and yield its connection."""
    configure()
    close()
    connections.settings["default"].update(database_of(url))
    try:
        yield connections["default"]
    finally:
        close()


def close() -> None:
    """Close the connections of this thread."""
    for used in connections.all(initialized_only=True):
        used.close()
        del connections[used.alias]
