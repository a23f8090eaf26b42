"""Settings of the library, read from the environment when they are needed and never on import."""

from __future__ import annotations

import os


class MissingSettingError(LookupError):
    """A required environment variable is not set. It is a ``LookupError``, not a :class:`JobError`.

    Set the variable: the message has its purpose and an example.
    """

    name: str
    """Name of the variable."""

    def __init__(self, name: str, purpose: str, example: str) -> None:
        super().__init__(f"{name} is not set: {purpose}. Set it in the environment, for example {name}={example}")
        self.name = name


def required(name: str, purpose: str, example: str) -> str:
    """Return a setting's value. Raises :class:`MissingSettingError` if it is missing or empty."""
    value = os.environ.get(name, "").strip()
    if not value:
        raise MissingSettingError(name, purpose, example)
    return value


def prefix() -> str:
    """Return the stage's prefix: the start of the names of all queues and functions."""
    return os.environ.get("JOBLANE_PREFIX", "").strip() or "jobs"


def functions() -> str:
    """Return the package of the project's handlers."""
    return os.environ.get("JOBLANE_FUNCTIONS", "").strip() or "functions"


def migrations() -> str | None:
    """Return ``module:function`` of the project's own migrations, which run after the library's. None: none."""
    return os.environ.get("JOBLANE_MIGRATIONS", "").strip() or None


def project() -> str | None:
    """Return the project's name, which its database keeps. None: it has none."""
    return os.environ.get("JOBLANE_PROJECT", "").strip() or None


def schedules() -> str:
    """Return the times that replace declared ones, as :mod:`joblane.schedule_overrides` reads them. Empty: none."""
    return os.environ.get("JOBLANE_SCHEDULES", "").strip()


def database_url() -> str:
    return required(
        "DATABASE_URL",
        "the address of the PostgreSQL that has the task table",
        "postgresql://user:password@host:5432/database",
    )
