"""Names of the settings that the platform's services read, for a task's ``environment``, and functions to read them.

=========================  ============================================================================================
``EMAIL_PROVIDER``         ``smtp``, ``ses``, ``console`` or ``log``, which sends nothing; no default
``EMAIL_FROM_ADDRESS``     the sender, as ``no-reply@example.com`` or ``Acme <no-reply@example.com>``
``EMAIL_CONSOLE_DIR``      ``console``: a folder that gets each mail as a file; without it the mail is not kept
``SMTP_HOST``              ``smtp``: the server
``SMTP_PORT``              587 (default, STARTTLS), 465 (TLS from the start), or another with STARTTLS
``SMTP_USER``              user of the login; without it there is no login
``SMTP_PASSWORD``          password of the login
``INVITATION_BASE_URL``    the page that accepts an invitation; ``token`` is added to its query
``TENANT_INIT_SERVICES``   base addresses of the services that initialise a tenant, separated by commas
``TENANT_INIT_SECRET``     shared secret for these services, sent in ``X-Joblane-Secret``
``EXPORT_BUCKET``          bucket of exports and reports
``TENANT_GRACE_DAYS``      days for which a deleted tenant can be restored, 1 to 3650; default 30
``JOBLANE_STAGE``          ``local``: services may be on this machine
=========================  ============================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from joblane.settings import MissingSettingError
from saas.errors import SettingError

MAIL = (
    "EMAIL_PROVIDER",
    "EMAIL_FROM_ADDRESS",
    "EMAIL_CONSOLE_DIR",
    "SMTP_HOST",
    "SMTP_PORT",
    "SMTP_USER",
    "SMTP_PASSWORD",
)
INVITATION = ("INVITATION_BASE_URL",)
SERVICES = ("TENANT_INIT_SERVICES", "TENANT_INIT_SECRET", "JOBLANE_STAGE")
EXPORT = ("EXPORT_BUCKET",)
CLEANUP = ("TENANT_GRACE_DAYS",)

DEFAULT_GRACE = timedelta(days=30)

Settings = Mapping[str, str]
"""Values by name. A setting without a value is missing."""


def require(settings: Settings, name: str, purpose: str, example: str) -> str:
    """Return a setting's value. Raises :class:`~joblane.settings.MissingSettingError` if it is missing or empty."""
    value = settings.get(name, "").strip()
    if not value:
        raise MissingSettingError(name, purpose, example)
    return value


def grace(settings: Settings) -> timedelta:
    """Return ``TENANT_GRACE_DAYS``. Raises :class:`~saas.errors.SettingError`."""
    value = settings.get("TENANT_GRACE_DAYS", "").strip()
    if not value:
        return DEFAULT_GRACE
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:9]) <= 3650:
        raise SettingError("TENANT_GRACE_DAYS", "a whole number of days from 1 to 3650 is required")
    return timedelta(days=int(value))
