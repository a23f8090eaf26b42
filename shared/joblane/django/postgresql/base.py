"""The connection of Django to the database of a ``DATABASE_URL``. Django imports it by the ``ENGINE`` of the entry."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.postgresql import base

from joblane.django.database import IN_SECRET, URL
from joblane.record.driver.login import LOOPBACK, RDS_HOST
from joblane.record.driver.opening import (
    CONNECT_TIMEOUT_SECONDS,
    LOGIN_REFUSED,
    RDS_CERTIFICATES,
    USER_TIMEOUT_MS,
    address_of,
)


class DatabaseWrapper(base.DatabaseWrapper):  # type: ignore[misc]
    """Django's connection to PostgreSQL, with a login that is read when it connects."""

    _address: dict[str, Any] | None = None

    def get_connection_params(self) -> dict[str, Any]:
        """Return the parameters of the connection, with the current user and password."""
        if URL not in self.settings_dict:
            raise ImproperlyConfigured(
                "DATABASES: this ENGINE needs the address: use joblane.django.database() as the entry"
            )
        parameters: dict[str, Any] = super().get_connection_params()
        if self._address is None:
            self._address = address_of(self.settings_dict[URL])
        host, database, user = self._address["host"], self._address["database"], self._address["login"].now()
        if self.settings_dict["NAME"] == IN_SECRET:
            parameters["dbname"] = database
        parameters |= {name: value for name, value in zip(("user", "password"), user, strict=True) if value}
        parameters |= {"host": host, "port": self._address["port"]}
        parameters.setdefault("connect_timeout", CONNECT_TIMEOUT_SECONDS)
        parameters.setdefault("tcp_user_timeout", USER_TIMEOUT_MS)
        if host not in LOOPBACK:
            authorities = RDS_CERTIFICATES if RDS_HOST.search(host) else "system"
            parameters |= {"sslmode": "verify-full", "sslrootcert": str(self._address["ca_file"] or authorities)}
        return parameters

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect. If the server refuses the login, read it again, for example after a rotation."""
        try:
            return super().get_new_connection(conn_params)
        except self.Database.OperationalError as error:
            if self._address is None or not _is_refused(error):
                raise
            if not self._address["login"].renewed():
                self._address = address_of(self.settings_dict[URL], again=True)
        return super().get_new_connection(self.get_connection_params())


def _is_refused(error: Exception) -> bool:
    """True if the server refused the login. libpq reports a failed connection without a code, in the server's words."""
    code = getattr(error, "sqlstate", None)
    return code.startswith(LOGIN_REFUSED) if code else "authentication failed" in str(error)
