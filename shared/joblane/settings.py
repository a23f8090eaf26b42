"""Settings of the library, read from the environment when they are needed and never on import."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping

from joblane.errors import DeclarationError
from joblane.secret_values import SecretError, text_of_secret

SECRETS = "JOBLANE_SECRETS"
"""Variable with the settings whose values are in Secrets Manager, as JSON: name → ``secret`` and ``field``."""
MAIL_FROM = "JOBLANE_MAIL_FROM"
"""Variable of functions that may send mail by Amazon SES: the only address from which they may send."""

SWEEP_MINUTES = "JOBLANE_SWEEP_MINUTES"
"""Variable with the minutes between two scheduled sweeps of the stage, from its setting ``sweep``."""
DEFAULT_SWEEP_MINUTES = 360
SHORT_MINUTES = 5
"""A sweep that runs this often finds everything itself: it plans no run, and no process wakes it after a commit."""
SCHEDULES = "JOBLANE_SCHEDULES"
EVENT_BUS = "JOBLANE_EVENT_BUS"
"""Variable with the name or the ARN of the EventBridge bus. The functions of all tasks with ``events=``, and of the
sweep, need it, with ``events:PutEvents`` on the bus. Without it no event is sent, and the sweep deletes them."""
NO_IPV4 = "JOBLANE_NO_IPV4"
"""Variable of functions whose network has no way out by IPv4: a connect timeout is then explained."""
VERSION = "JOBLANE_VERSION"
"""Variable of functions that run a container image: the version of joblane that has deployed them."""
DEPLOY = "JOBLANE_DEPLOY"
"""Variable of the sweep's function: the version that the deploy has recorded."""
SIGNAL_KEYS = "JOBLANE_SIGNAL_KEYS"
"""Setting with the secret keys of the addresses of signals, separated by spaces. The first signs, all are accepted."""
SIGNAL_BASE_URL = "JOBLANE_SIGNAL_BASE_URL"
"""Setting with the address at which third parties reach the route of signals, without ``/signals``."""
SENDER = "JOBLANE_SENDER"
"""Variable that leaves the sends of messages to boto3 if it is ``boto3``."""

OTEL = "JOBLANE_OTEL"
"""Variable that turns spans and metrics by OpenTelemetry on if it is ``1``."""
SENTRY = "JOBLANE_SENTRY"
"""Variable that turns reports to Sentry on if it is ``1``."""
SENTRY_PAYLOAD = "JOBLANE_SENTRY_PAYLOAD"
"""Variable that adds the payload, without redacted values, to the errors in Sentry if it is ``1``."""


class MissingSettingError(LookupError):
    """A required environment variable is not set. It is a ``LookupError``, not a :class:`JobError`.

    Set the variable: the message has its purpose and an example.
    """

    name: str
    """Name of the variable."""

    def __init__(self, name: str, purpose: str, example: str) -> None:
        super().__init__(f"{name} is not set: {purpose}. Set it in the environment, for example {name}={example}")
        self.name = name


class Settings(Mapping[str, str]):
    """Settings by name. Settings without a value are left out.

    A value is a variable of the environment. If the stage has a reference to Secrets Manager, the value is read there
    when it is used, and kept for five minutes: a function that does not use it makes no call.

    Raises:
        SecretError: the secret cannot be read, or has no such field. The message names the setting.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)

    def __getitem__(self, name: str) -> str:
        if name not in self:
            declared = "it has no value here; set the variable, or `settings` of the stage"
            missing = f"declare it by environment=[{name!r}] on the task"
            raise KeyError(f"{name}: {declared if name in self._names else missing}")
        if name in os.environ:
            return os.environ[name]
        try:
            return text_of_secret(**_references()[name])
        except SecretError as error:
            raise SecretError(f"{name}: {error}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._names and (name in os.environ or name in _references())

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._names if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _references() -> Mapping[str, Mapping[str, str]]:
    found: Mapping[str, Mapping[str, str]] = json.loads(os.environ.get(SECRETS) or "{}")
    return found


def required(name: str, purpose: str, example: str) -> str:
    """Return a setting's value. Raises :class:`MissingSettingError` if it is missing or empty."""
    value = os.environ.get(name, "").strip()
    if not value:
        raise MissingSettingError(name, purpose, example)
    return value


def is_on(name: str) -> bool:
    """True for ``1``, False for ``0`` and without a value. Raises :class:`DeclarationError` for any other value."""
    value = os.environ.get(name, "").strip()
    if value not in ("", "0", "1"):
        raise DeclarationError(f"{name}: 1 or 0 is required, not {value!r}")
    return value == "1"


def prefix() -> str:
    """Return the stage's prefix: the start of the names of all queues and functions."""
    return os.environ.get("JOBLANE_PREFIX", "").strip() or "jobs"


def event_bus() -> str | None:
    """Return the name or the ARN of the stage's EventBridge bus. None: it has none."""
    return os.environ.get(EVENT_BUS, "").strip() or None


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
    """Return the times that replace declared ones, for :mod:`joblane.tasks.schedule_overrides`. Empty: none."""
    return os.environ.get(SCHEDULES, "").strip()


def sweep_minutes() -> int:
    """Return the minutes between two scheduled sweeps. 360 if the variable is not set, or not a number from 1."""
    text = os.environ.get(SWEEP_MINUTES, "").strip()
    return int(text) if text.isascii() and text.isdigit() and int(text) else DEFAULT_SWEEP_MINUTES


def sweep_plans() -> bool:
    """True if the sweep plans its runs between the scheduled ones, and each commit wakes it."""
    return sweep_minutes() > SHORT_MINUTES


def database_url() -> str:
    return required(
        "DATABASE_URL",
        "the address of the PostgreSQL that has the task table. For a running `joblane dev`: set -a; . .joblane/env; "
        "set +a",
        "postgresql://user:password@host:5432/database",
    )
