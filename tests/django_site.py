"""Django in the tests' process. Its settings are made once; each test has its own database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

TASKS = {
    "BACKEND": "joblane.django.JoblaneBackend",
    "QUEUES": ["default", "mail", "loose"],
    "OPTIONS": {"functions": "tests.integration.django_tasks.functions"},
}
"""The entry of `TASKS`."""


def database_of(url: str) -> dict[str, Any]:
    """Return an entry of `DATABASES`."""
    address = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": address.path[1:],
        "USER": unquote(address.username or ""),
        "PASSWORD": unquote(address.password or ""),
        "HOST": address.hostname,
        "PORT": address.port,
        "CONN_MAX_AGE": None,
    }


def configure() -> None:
    """Make the settings of the process."""
    import django
    from django.conf import settings

    if settings.configured:
        return
    settings.configure(
        DATABASES={"default": database_of("postgresql://nobody@127.0.0.1:1/none")},
        INSTALLED_APPS=["joblane.django", "tests.integration.django_tasks.shop"],
        TASKS={"default": TASKS},
        SECRET_KEY="for tests",
        USE_TZ=True,
    )
    django.setup()


@contextmanager
def using(url: str) -> Iterator[None]:
    """Connect Django to a database inside the block."""
    from django.db import connections

    configure()
    close()
    connections.settings["default"].update(database_of(url))
    try:
        yield
    finally:
        close()


def close() -> None:
    """Close the connections of this thread."""
    from django.db import connections

    for used in connections.all(initialized_only=True):
        used.close()
        del connections[used.alias]
