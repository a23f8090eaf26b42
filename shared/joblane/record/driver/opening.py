"""Connecting to the database that ``DATABASE_URL`` names, by any driver."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from pg8000.exceptions import DatabaseError

from joblane import telemetry
from joblane.errors import sqlstate, text_of
from joblane.record.driver.login import RDS_HOST, IamLogin, Login, LoginError, PasswordLogin, SecretLogin
from joblane.secret_values import SecretError, forget, text_of_secret

if TYPE_CHECKING:
    import ssl

    from joblane.record.driver.time_limits import TimeLimits

T = TypeVar("T")
VANISHED_CLIENT = {
    "client_connection_check_interval": "2000",
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
"""Parameters of each session, by which the server ends the session of a client that is gone, and releases its locks.

The kernel of a client that has died closes the socket. While a statement runs, the server checks every 2,000 ms.
A host that has vanished, or is frozen, closes nothing. After 90 s without an answer to keepalives (60 + 3 · 10) the
connection ends; with the defaults of RDS, after six minutes. Source: Aurora, *Dead connection handling in PostgreSQL*.

No keepalives are sent while data waits for an acknowledgement. The session of a client that vanishes at this moment
ends when the server's kernel stops to retransmit, by default after 15 minutes or more (Linux, *ip-sysctl*,
``tcp_retries2``). ``tcp_user_timeout`` would end it earlier, but Linux also applies it to a client that acknowledges
everything and reads nothing for a while, such as a ``COPY … TO STDOUT`` into a slow upload."""
STARTUP = {**VANISHED_CLIENT, "DateStyle": "ISO"}
"""Parameters of each session of pg8000, which reads times in ISO form only."""
IDLE_IN_TRANSACTION = timedelta(minutes=16)
"""A function's transaction may be idle for this long, for example while its handler calls a service: no invocation
lasts longer than 15 minutes (``MAX_FUNCTION_TIMEOUT``). The server ends a session that is idle for longer: its function
is gone, even if something still answers keepalives."""
CONNECT_TIMEOUT_SECONDS = 5
USER_TIMEOUT_MS = 10_000
"""The connection fails if the peer acknowledges nothing for this long (``TCP_USER_TIMEOUT``). Keepalive covers idle
connections."""
STARTUP_REFUSED = ("08P01", "0A000", "22023", "42704")
"""SQLSTATEs of a proxy, a pooler or a server that does not know or accept a parameter."""
RDS_CERTIFICATES = Path(__file__).parent / "certificates" / "rds.pem"
"""RDS's certificate authorities, which no system trusts by default. Source: RDS, *Using SSL/TLS to encrypt a
connection*."""
ENCODED = "a password with one of the characters / ? # @ : has to be percent-encoded"
QUERY = ("auth", "secret", "sslrootcert", "sslmode")
VERIFYING = ("require", "verify-ca", "verify-full")
LOGIN_REFUSED = "28"
"""SQLSTATE class *invalid authorization specification*."""
URL_FORM = "postgresql://user:password@host:port/database"


def connect_options(url: str, limits: TimeLimits | None) -> dict[str, Any]:
    """Return the options of :func:`connected`."""
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError:  # its text may have a part of the password
        raise ValueError(f"DATABASE_URL: {URL_FORM} is required; {ENCODED}") from None
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    of_session = {"startup": STARTUP | of_function() | (limits.startup if limits else {}), "limits": limits}
    ours = parts.scheme.split("+")[0] in ("postgresql", "postgres")
    if ours and not parts.netloc and query.keys() == {"secret"}:
        return {"url_secret": query["secret"], **of_session}
    if not ours or not parts.hostname:
        raise ValueError(f"DATABASE_URL: {URL_FORM} is required")
    if (
        parts.fragment or "@" in parts.path + parts.query or (query and not parts.path)
    ):  # the rest may be of the password
        raise ValueError(f"DATABASE_URL: {URL_FORM} is required; {ENCODED}")
    _check_query(query)
    host, user = parts.hostname, unquote(parts.username or "")
    password = unquote(parts.password) if parts.password else None
    return {
        "host": host,
        "port": port,
        "login": _login(host, port, user, password, query),
        "database": unquote(parts.path.lstrip("/")) or None,
        "ca_file": query.get("sslrootcert"),
        **of_session,
    }


def of_function() -> dict[str, str]:
    """Return the parameters of a session of a Lambda function. Other programs may have long transactions."""
    if not os.environ.get("AWS_LAMBDA_FUNCTION_NAME"):
        return {}
    return {"idle_in_transaction_session_timeout": str(round(IDLE_IN_TRANSACTION.total_seconds() * 1000))}


def _check_query(query: Mapping[str, str]) -> None:
    for name, value in query.items():
        if name not in QUERY:
            raise ValueError(f"DATABASE_URL: unknown parameter {name!r}; the parameters are {', '.join(QUERY)}")
        if name == "auth" and value != "iam":
            raise ValueError("DATABASE_URL: auth: must be 'iam'; leave it out to log in with a password")
        if name == "sslmode" and value not in VERIFYING:
            raise ValueError("DATABASE_URL: sslmode: the server is always verified; leave it out")


def _login(host: str, port: int, user: str, password: str | None, query: Mapping[str, str]) -> Login:
    if sum(map(bool, (password, query.get("auth"), query.get("secret")))) > 1:
        raise ValueError("DATABASE_URL: give one of a password, auth=iam and secret=NAME")
    if "secret" in query:
        return SecretLogin(query["secret"], user)
    if "auth" in query:
        if not user:
            raise ValueError("DATABASE_URL: auth=iam: the user is required, postgresql://user@host/database?auth=iam")
        return IamLogin(user, host, port)
    return PasswordLogin(user, password)


def connected(connect: Callable[..., T], *, url_secret: str | None = None, **options: Any) -> T:
    """Connect by ``connect``, a driver's function with the parameters of :func:`_connect`.

    ``url_secret``: the secret with the URL, which is read again if the server refuses its login.
    """
    if url_secret is None:
        return _logged_in(connect, **options)
    given = _options_in(url_secret)
    try:
        return _logged_in(connect, **given, **options)
    except LoginError:
        forget(url_secret)
    return _logged_in(connect, **_options_in(url_secret), **options)


def address_of(url: str, *, again: bool = False) -> dict[str, Any]:
    """Return host, port, login, database and ca_file of an address, for a driver that connects by itself.

    ``again``: read the secret of the address once more, after the server has refused its login. Raises ValueError, and
    :class:`LoginError` if a secret cannot be read.
    """
    options = connect_options(url, None)
    if "url_secret" not in options:
        del options["startup"], options["limits"]
        return options
    if again:
        forget(options["url_secret"])
    return _options_in(options["url_secret"])


def _options_in(secret: str) -> dict[str, Any]:
    """Return the options of :func:`_logged_in` for the URL in a secret. Raises :class:`LoginError`."""
    try:
        options = connect_options(text_of_secret(secret).strip(), None)
    except SecretError as error:
        raise LoginError(f"DATABASE_URL: {error}") from None
    except ValueError:  # its text may quote the URL
        options = {}
    if "login" not in options:
        forget(secret)
        raise LoginError(f"DATABASE_URL: secret {secret!r}: its text is not {URL_FORM}")
    del options["startup"], options["limits"]  # those of the process
    return options


def _logged_in(connect: Callable[..., T], *, login: Login, startup: dict[str, str], **options: Any) -> T:
    """Connect. If the server refuses outdated credentials or ``startup``, try once more with new ones, or without it.

    Raises :class:`LoginError` for a refused login. ``startup`` is emptied, for all connections of the process.
    """
    renewed = False
    while True:
        try:
            return connect(login, startup=startup, **options)
        except DatabaseError as error:
            code = sqlstate(error) or ""
            if startup and code in STARTUP_REFUSED:
                telemetry.logger().warning(
                    f"the server refuses {', '.join(startup)} as startup parameters; connecting without them, and "
                    "setting the timeouts by a statement",
                    extra={"error": text_of(error)},
                )
                startup.clear()
            elif not code.startswith(LOGIN_REFUSED):
                raise
            elif renewed or not login.renewed():
                raise LoginError(
                    f"the database at {options['host']} refuses the login: {text_of(error)}; {login.advice}"
                ) from error
            else:
                renewed = True


def keep_alive(connection: Any) -> None:
    """Set the options of a socket by which a lost peer is noticed."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 3),
        ("TCP_KEEPINTVL", 1),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_MS),
    ):
        if hasattr(socket, name):  # not every system has all of them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def verified(host: str, ca_file: str | None) -> ssl.SSLContext:
    """Return a context that verifies certificate and host name, which a driver by itself does not."""
    import ssl

    context = ssl.create_default_context(cafile=ca_file)
    if ca_file is None and RDS_HOST.search(host):
        context.load_verify_locations(RDS_CERTIFICATES)
    return context
