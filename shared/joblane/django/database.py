"""An entry of Django's ``DATABASES`` for the database of ``DATABASE_URL``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from joblane import settings

ENGINE = "joblane.django.postgresql"
URL = "JOBLANE_SECRET_URL"
"""The key of the entry with the address. Django's pages for errors hide the value of a key that contains SECRET."""
IN_SECRET = "in the secret"  # noqa: S105 - no password
"""The name of a database whose whole address is in a secret, until Django connects."""


def database(url: str | None = None, **changes: Any) -> dict[str, Any]:
    """Return an entry of ``DATABASES``: ``DATABASES = {"default": database()}``.

    Connections stay open between tasks, and are tested before the first query of a task.

    Args:
        url: The address, in any form of ``DATABASE_URL``: with a password, ``?auth=iam``, or ``?secret=NAME``. The
            login is read when Django connects. None: the address in ``DATABASE_URL``.
        changes: Further keys of the entry, and other values of its keys.

    Raises:
        MissingSettingError: ``DATABASE_URL`` is not set.
    """
    address = urlsplit(url := url or settings.database_url())
    return {
        "ENGINE": ENGINE,
        URL: url,
        "NAME": address.path.lstrip("/") or IN_SECRET,
        "USER": unquote(address.username or ""),
        "PASSWORD": unquote(address.password or ""),
        "HOST": address.hostname or "",
        "PORT": address.port or "",
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
        **changes,
    }


def url_of(entry: Mapping[str, Any]) -> str:
    """Return the address of an entry of ``DATABASES``. Raises ValueError if it is no PostgreSQL."""
    if URL in entry and entry["NAME"] in (IN_SECRET, urlsplit(entry[URL]).path.lstrip("/")):
        return str(entry[URL])
    if "postg" not in entry["ENGINE"]:
        raise ValueError(f"DATABASES: {entry['ENGINE']} is not PostgreSQL; set DATABASE_URL")
    user, password, name = (quote(str(entry.get(key) or ""), safe="") for key in ("USER", "PASSWORD", "NAME"))
    login = f"{user}:{password}@" if password else f"{user}@" if user else ""
    return f"postgresql://{login}{entry.get('HOST') or 'localhost'}:{entry.get('PORT') or 5432}/{name}"
