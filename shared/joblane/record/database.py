"""The process's single PostgreSQL connection, for Joblane's own statements and for the handler's session.

``Database.get`` returns the open connection, or connects. ``drop`` discards the connection, and the next ``get``
connects again. The SQLAlchemy engine uses the same connection. It is created on first use, because importing SQLAlchemy
takes longer than a whole job.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from pg8000.exceptions import DatabaseError
from pg8000.exceptions import Error as PostgresError

from joblane import telemetry
from joblane.errors import sqlstate, text_of
from joblane.forking import follow_forks
from joblane.record.connection import Connection, has_timed_out, is_unavailable
from joblane.record.login import RDS_HOST, IamLogin, Login, LoginError, PasswordLogin, SecretLogin
from joblane.record.stage import check_stage
from joblane.record.time_limits import OPERATOR, TimeLimits
from joblane.secret_values import SecretError, forget, text_of_secret

if TYPE_CHECKING:
    import ssl

    from sqlalchemy import Engine

P = ParamSpec("P")
T = TypeVar("T")
CONNECT_TIMEOUT_SECONDS = 5
USER_TIMEOUT_MS = 10_000
"""The connection fails if the peer acknowledges nothing for this long (``TCP_USER_TIMEOUT``). Keepalive covers idle
connections."""
STARTUP = {"client_connection_check_interval": "2000", "DateStyle": "ISO"}
"""Parameters of each session. The server checks every 2,000 ms whether the client of a running statement is still
connected. If not, it ends the statement and releases its locks. pg8000 reads times in ISO form only."""
STARTUP_REFUSED = ("08P01", "0A000", "22023", "42704")
"""SQLSTATEs of a proxy, a pooler or a server that does not know or accept a parameter."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
RDS_CERTIFICATES = Path(__file__).parent / "certificates" / "rds.pem"
"""RDS's certificate authorities, which no system trusts by default. Source: RDS, *Using SSL/TLS to encrypt a
connection*."""
QUERY = ("auth", "secret", "sslrootcert", "sslmode")
VERIFYING = ("require", "verify-ca", "verify-full")
LOGIN_REFUSED = "28"
"""SQLSTATE class *invalid authorization specification*."""
URL_FORM = "postgresql://user:password@host:port/database"


class Database:
    """The connection of this process, opened on first use.

    ``url``: ``postgresql://user:password@host:port/database``. Instead of a password, give ``?auth=iam``, or
    ``?secret=NAME`` for a secret in Secrets Manager (:mod:`joblane.record.login`). TLS is verified for every host
    except loopback, where the local stack runs without TLS. It trusts the system's certificates, RDS's own for RDS
    hosts, or ``?sslrootcert=FILE``. ``postgresql:///?secret=NAME``, without a host: the text of the secret is the whole
    URL, which is read before the first connection.

    ``prefix``: the prefix of the stage that the database must serve, checked once per connection; None: any stage.
    ``limits``: the time limits of Joblane's own statements; None: none.
    """

    def __init__(self, url: str, *, prefix: str | None = None, limits: TimeLimits | None = OPERATOR) -> None:
        self._options = _connect_options(url, limits)
        self._prefix = prefix
        self._connection: Connection | None = None
        follow_forks(self, Database._after_fork)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def another(self) -> Database:
        """Return a second connection to the same database, opened on first use."""
        other = Database.__new__(Database)
        other._options, other._prefix, other._connection = self._options, None, None  # the stage was checked here
        follow_forks(other, Database._after_fork)
        return other

    def _after_fork(self) -> None:
        """Leave the connection to the process that has opened it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        if "engine" in self.__dict__:
            self.engine.dispose(close=False)

    def get(self) -> Connection:
        """Return the open connection, or a new one if the last one was closed or interrupted.

        Raises :class:`WrongStageError`, and an error that :func:`is_unavailable` recognises if the server cannot be
        reached.
        """
        if self._connection is not None and not self._connection.answers():
            self.drop()
        if self._connection is None:
            connection = _connected(**self._options)
            if self._prefix is not None:
                try:
                    check_stage(connection, self._prefix)
                except BaseException:
                    connection.cut()
                    raise
            self._connection = connection
        return self._connection

    def call(self, statement: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return ``statement(connection, …)``, for a statement that commits by itself.

        If a transaction is still open, its connection is dropped first. An error that leaves the connection unusable
        drops it.
        """
        try:
            return statement(self._idle(), *args, **kwargs)
        except (PostgresError, OSError) as error:
            self._forget_broken(error)
            raise

    def call_again(self, statement: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Like :meth:`call`, and once more on a new connection if the old one has failed since its last use.

        A statement that has timed out is not repeated. Only for a statement that may be repeated after its answer was
        lost.
        """
        before, connection = self._connection, None
        try:
            connection = self._idle()
            return statement(connection, *args, **kwargs)
        except (PostgresError, OSError) as error:
            self._forget_broken(error)
            if connection is None or connection is not before or not is_unavailable(error) or has_timed_out(error):
                raise
        return self.call(statement, *args, **kwargs)

    def _idle(self) -> Connection:
        connection = self.get()
        if not connection.idle:
            self.drop()
            connection = self.get()
        return connection

    def _forget_broken(self, error: Exception) -> None:
        """Drop the connection, unless the error came from the server and left the connection usable."""
        if is_unavailable(error) or not self.usable:
            self.drop()

    @property
    def by_iam(self) -> bool:
        """True if the login is by IAM."""
        return isinstance(self._options.get("login"), IamLogin)

    @property
    def usable(self) -> bool:
        """True if a connection exists and can be used."""
        return self._connection is not None and self._connection.usable

    @property
    def in_transaction(self) -> bool:
        """True if a transaction is open, as far as this process knows. The server is not asked."""
        return self._connection is not None and not self._connection.idle

    @property
    def open(self) -> bool:
        """True if a connection exists, in any state."""
        return self._connection is not None

    def reset(self) -> None:
        """Reset the session; drop the connection if that fails."""
        if self._connection is not None and self._connection.usable:
            try:
                self._connection.reset()
            except (PostgresError, OSError):
                self.drop()

    def drop(self) -> None:
        """Discard the connection in any state, without a message to the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.cut()
        if "engine" in self.__dict__:
            self.engine.dispose()

    @cached_property
    def engine(self) -> Engine:
        """The SQLAlchemy engine on this connection."""
        from sqlalchemy import create_engine, event
        from sqlalchemy.exc import DisconnectionError
        from sqlalchemy.pool import StaticPool

        def check(connection: Connection, *_: Any) -> None:
            """Test the connection before a transaction: it may have failed during a long pause in a handler."""
            if not connection.answers():
                raise DisconnectionError

        engine = create_engine("postgresql+pg8000://", creator=self.get, poolclass=StaticPool, hide_parameters=True)
        event.listen(engine, "checkout", check)
        return engine


def _connect_options(url: str, limits: TimeLimits | None) -> dict[str, Any]:
    """Return the arguments of :func:`_connected`."""
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    of_session = {"startup": STARTUP | (limits.startup if limits else {}), "limits": limits}
    ours = parts.scheme.split("+")[0] in ("postgresql", "postgres")
    if ours and not parts.netloc and query.keys() == {"secret"}:
        return {"url_secret": query["secret"], **of_session}
    if not ours or not parts.hostname:
        raise ValueError(f"DATABASE_URL: {URL_FORM} is required")
    _check_query(query)
    host, port, user = parts.hostname, parts.port or 5432, unquote(parts.username or "")
    password = unquote(parts.password) if parts.password else None
    return {
        "host": host,
        "port": port,
        "login": _login(host, port, user, password, query),
        "database": unquote(parts.path.lstrip("/")) or None,
        "ca_file": query.get("sslrootcert"),
        **of_session,
    }


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


def _connected(*, url_secret: str | None = None, **options: Any) -> Connection:
    """Connect. ``url_secret``: the secret with the URL, which is read again if the server refuses its login."""
    if url_secret is None:
        return _logged_in(**options)
    given = _options_in(url_secret)
    try:
        return _logged_in(**given, **options)
    except LoginError:
        forget(url_secret)
    return _logged_in(**_options_in(url_secret), **options)


def _options_in(secret: str) -> dict[str, Any]:
    """Return the arguments of :func:`_logged_in` for the URL in a secret. Raises :class:`LoginError`."""
    try:
        options = _connect_options(text_of_secret(secret).strip(), None)
    except SecretError as error:
        raise LoginError(f"DATABASE_URL: {error}") from None
    except ValueError:  # its text may quote the URL
        options = {}
    if "login" not in options:
        forget(secret)
        raise LoginError(f"DATABASE_URL: secret {secret!r}: its text is not {URL_FORM}")
    del options["startup"], options["limits"]  # those of the process
    return options


def _logged_in(*, login: Login, startup: dict[str, str], **options: Any) -> Connection:
    """Connect. If the server refuses outdated credentials or ``startup``, try once more with new ones, or without it.

    Raises :class:`LoginError` for a refused login. ``startup`` is emptied, for all connections of the process.
    """
    renewed = False
    while True:
        try:
            return _connect(login, startup=startup, **options)
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


def _connect(
    login: Login,
    *,
    host: str,
    port: int,
    ca_file: str | None,
    database: str | None,
    startup: dict[str, str],
    limits: TimeLimits | None,
) -> Connection:
    user, password = login.now()
    plain = socket.create_connection((host, port), limits.connect if limits else CONNECT_TIMEOUT_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 3),
        ("TCP_KEEPINTVL", 1),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_MS),
    ):
        if hasattr(socket, name):  # not every system has all of them
            plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Connection(
        host=host,
        sock=plain,
        user=user,
        password=password,
        database=database,
        ssl_context=False if host in LOOPBACK else _verified(host, ca_file),
        application_name="joblane",
        startup_params=startup,
        limits=limits,
    )


def _verified(host: str, ca_file: str | None) -> ssl.SSLContext:
    """Return a context that verifies certificate and host name, which pg8000 by itself does not."""
    import ssl

    context = ssl.create_default_context(cafile=ca_file)
    if ca_file is None and RDS_HOST.search(host):
        context.load_verify_locations(RDS_CERTIFICATES)
    return context


def address_of(url: str, *, again: bool = False) -> dict[str, Any]:
    """Return host, port, login, database and ca_file of an address, for another driver.

    ``again``: read the secret of the address once more, after the server has refused its login. Raises ValueError, and
    :class:`LoginError` if a secret cannot be read.
    """
    options = _connect_options(url, None)
    if "url_secret" not in options:
        del options["startup"], options["limits"]
        return options
    if again:
        forget(options["url_secret"])
    return _options_in(options["url_secret"])
