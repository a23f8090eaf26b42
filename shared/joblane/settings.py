"""Settings of the library, read from the environment when they are needed and never on import."""

from __future__ import annotations

import os


class MissingSettingError(LookupError):
    """A setting is not in the environment. ``name`` is its variable."""

    def __init__(self, name: str, purpose: str, example: str) -> None:
        super().__init__(f"{name} is not set: {purpose}. Set it in the environment, for example {name}={example}")
        self.name = name


def required(name: str, purpose: str, example: str) -> str:
    """A setting's value. Raises :class:`MissingSettingError` where it is missing or empty."""
    value = os.environ.get(name, "").strip()
    if not value:
        raise MissingSettingError(name, purpose, example)
    return value


def prefix() -> str:
    """What the names of all queues and functions start with."""
    return os.environ.get("JOBLANE_PREFIX", "").strip() or "jobs"


def functions() -> str:
    """The package of the project's handlers."""
    return os.environ.get("JOBLANE_FUNCTIONS", "").strip() or "functions"


def migrations() -> str | None:
    """``module:function`` that makes the project's own tables, run after the library's migrations; None without."""
    return os.environ.get("JOBLANE_MIGRATIONS", "").strip() or None


def project() -> str | None:
    """The project's name, which its database keeps; None where it has none."""
    return os.environ.get("JOBLANE_PROJECT", "").strip() or None


def schedules() -> str:
    """Times in place of declared ones, as :mod:`joblane.schedule_overrides` reads them; empty where there are none."""
    return os.environ.get("JOBLANE_SCHEDULES", "").strip()


def database_url() -> str:
    return required(
        "DATABASE_URL",
        "the address of the PostgreSQL that keeps the record of tasks",
        "postgresql://user:password@host:5432/database",
    )
