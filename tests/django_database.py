"""Django over the database of a test. Its settings are those of the process and can be made once, so they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.db import connections


@contextmanager
def django_database(url: str) -> Iterator[Any]:
    """Connect Django's default database to ``url``, and yield its connection."""
    address = urlsplit(url)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": address.path[1:],
        "USER": address.username,
        "PASSWORD": address.password,
        "HOST": address.hostname,
        "PORT": address.port,
    }
    if not settings.configured:
        settings.configure(DATABASES={"default": database})
        django.setup()
    connections.settings["default"].update(database)
    try:
        yield connections["default"]
    finally:
        connections.close_all()
        del connections["default"]
