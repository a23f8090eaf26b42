"""One PostgreSQL connection per process, shared by the job record and the handler's session.

``Database.get`` connects or returns the live connection; ``drop`` discards it, and the next ``get`` connects anew. The
SQLAlchemy engine sits on the same connection and is made on first touch: importing it costs more than a whole job.
"""

from __future__ import annotations

import json
import math
import socket
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from pg8000.converters import make_params
from pg8000.dbapi import Connection as DbapiConnection
from pg8000.exceptions import DatabaseError, InterfaceError
from pg8000.exceptions import Error as PostgresError

from shared.login import RDS_HOST, IamLogin, Login, PasswordLogin, SecretLogin

if TYPE_CHECKING:
    import ssl

    from sqlalchemy import Engine

CONNECT_TIMEOUT_SECONDS = 5
PING_AFTER_SECONDS = 30
"""A connection that was idle for longer is asked before it is used; a ping for every use would cost a round trip."""
USER_TIMEOUT_MS = 10_000
"""A peer that acknowledges nothing for this long is gone (``TCP_USER_TIMEOUT``); keepalive notices an idle one."""
CLIENT_CHECK_MS = 2_000
"""How soon the server ends a statement whose client has hung up, and lets its locks go."""
MAX_PREPARED = 100
JSON_OIDS = (114, 3802)
"""Of ``json`` and ``jsonb``. Source: PostgreSQL, ``pg_type.dat``."""
RESET = (
    "close all; reset session authorization; reset all; unlisten *; select pg_advisory_unlock_all();"
    " discard temp; discard sequences"
)
LOOPBACK = ("127.0.0.1", "::1", "localhost")
RDS_CERTIFICATES = Path(__file__).parent / "certificates" / "rds.pem"
"""Its own authorities, which no system knows. Source: RDS, *Using SSL/TLS to encrypt a connection*."""
QUERY = ("auth", "secret", "sslrootcert", "sslmode")
VERIFYING = ("require", "verify-ca", "verify-full")
LOGIN_REFUSED = ("28000", "28P01")

Row = list[Any]


def read_json(text: str) -> Any:
    """A value of type ``json`` or ``jsonb``, whatever it holds: a row that cannot be read would stop whoever meets it.

    PostgreSQL's numbers have up to 131,072 digits and its documents thousands of levels. What Python refuses comes as
    text, which no payload model takes for a number or an object.
    """
    try:
        return _DECODER.decode(text)
    except ValueError:  # ``sys.set_int_max_str_digits``
        return json.loads(text, parse_int=_int_or_text, parse_float=_float_or_text)
    except RecursionError:
        return text


def _int_or_text(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:
        return digits


def _float_or_text(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


_DECODER = json.JSONDecoder(parse_float=_float_or_text)


class Connection(DbapiConnection):  # type: ignore[misc]
    """pg8000's connection with one round trip per statement: prepared once, then bind and execute together.

    Unmodified, pg8000 takes three round trips for a statement with parameters and three for a commit.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._prepared: OrderedDict[tuple[str, tuple[int, ...]], tuple[bytes, Any, Any]] = OrderedDict()
        self._answered = True
        self._heard_at = 0.0
        super().__init__(*args, **options)
        for oid in JSON_OIDS:
            self.register_in_adapter(oid, read_json)

    @property
    def idle(self) -> bool:
        """No transaction is open."""
        return not self._in_transaction

    @property
    def usable(self) -> bool:
        """It is open, and the server has answered all that was sent.

        An interrupt in between leaves an answer on the wire, which the next statement would take for its own.
        """
        return self._sock is not None and self._answered

    def answers(self) -> bool:
        """Whether it can go on. One that was idle for a while is asked: the other end may be long gone."""
        if not self.usable:
            return False
        if self.idle and time.monotonic() - self._heard_at > PING_AFTER_SECONDS:
            with suppress(PostgresError, OSError):
                self.execute_simple("select 1")
                return True
            return False
        return True

    def _send_message(self, code: bytes, data: bytes) -> None:
        self._answered = False
        super()._send_message(code, data)

    def handle_READY_FOR_QUERY(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        super().handle_READY_FOR_QUERY(data, context)
        self._answered = True
        self._heard_at = time.monotonic()

    def run(self, sql: str, *parameters: Any) -> list[Row]:
        """Execute ``sql`` with ``$1``-style parameters and return its rows; in autocommit unless one is open."""
        return self.execute_unnamed(sql, parameters).rows or []

    def execute_unnamed(
        self, statement: str, vals: Sequence[Any] = (), oids: Sequence[int] = (), stream: Any = None
    ) -> Any:
        """What pg8000's cursor calls: here by a prepared statement, kept per text and parameter types."""
        if stream is not None:
            return super().execute_unnamed(statement, vals, oids, stream)
        key = (statement, tuple(oids))
        if key not in self._prepared:
            self._make_room()
            self._prepared[key] = self.prepare_statement(statement, oids)
        self._prepared.move_to_end(key)
        name, columns, input_functions = self._prepared[key]
        try:
            return self.execute_named(name, make_params(self.py_types, vals), columns, input_functions, statement)
        except DatabaseError as error:
            if sqlstate(error) in ("0A000", "26000"):  # the table changed under the plan, or the statement is gone
                del self._prepared[key]
            raise

    def commit(self) -> None:
        """One round trip. Raises :class:`DatabaseError` where the server rolled back instead."""
        if self._in_transaction:
            self.execute_simple("commit")

    def rollback(self) -> None:
        if self._in_transaction:
            self.execute_simple("rollback")

    def reset(self) -> None:
        """Put the session back to what it was when it began, but for its prepared statements. One round trip.

        It is what ``DISCARD ALL`` does without ``DEALLOCATE ALL``. Source: PostgreSQL, *DISCARD*.
        """
        self.execute_simple(RESET)

    def cut(self) -> None:
        """Close without a word to the server, whatever it is doing."""
        if self._usock is not None:
            with suppress(OSError):
                self._usock.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        """Close; nothing where it is closed."""
        if self._usock is not None:
            file = self._sock
            with suppress(OSError, InterfaceError, ValueError):
                super().close()
            with suppress(OSError, ValueError):
                file.close()  # or the socket stays open for as long as a traceback refers to it

    def handle_ERROR_RESPONSE(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """Drop what prints row values: DETAIL (D) and CONTEXT (W)."""
        super().handle_ERROR_RESPONSE(data, context)
        for field in ("D", "W"):
            context.error.args[0].pop(field, None)

    def _make_room(self) -> None:
        while len(self._prepared) >= MAX_PREPARED:
            _, (name, _, _) = self._prepared.popitem(last=False)
            self.close_prepared_statement(name)


class Database:
    """The process's connection, made on first use.

    ``url``: ``postgresql://user:password@host:port/database``. In place of a password: ``?auth=iam``, or for one in
    Secrets Manager ``?secret=NAME`` (:mod:`shared.login`). TLS is verified for every host but loopback, where the local
    stack runs without it: by the system's certificates, those of RDS for its hosts, or ``?sslrootcert=FILE``.
    """

    def __init__(self, url: str) -> None:
        self._options = _connect_options(url)
        self._connection: Connection | None = None

    def beside(self) -> Database:
        """Another connection to the same database, made on first use."""
        other = Database.__new__(Database)
        other._options, other._connection = self._options, None
        return other

    def get(self) -> Connection:
        """The live connection; a new one where the last was closed or interrupted.

        Raises what :func:`is_away` recognises where the server cannot be reached.
        """
        if self._connection is not None and not self._connection.answers():
            self.drop()
        if self._connection is None:
            self._connection = _logged_in(**self._options)
        return self._connection

    @property
    def usable(self) -> bool:
        """Whether there is a connection that can go on."""
        return self._connection is not None and self._connection.usable

    def drop(self) -> None:
        """Discard the connection, whatever state it is in, without a word to the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.cut()
        if "engine" in self.__dict__:
            self.engine.dispose()

    @cached_property
    def engine(self) -> Engine:
        """An SQLAlchemy engine on this one connection."""
        from sqlalchemy import create_engine, event
        from sqlalchemy.exc import DisconnectionError
        from sqlalchemy.pool import StaticPool

        def check(connection: Connection, *_: Any) -> None:
            """Before a transaction: after a long pause in a handler the other end may be gone."""
            if not connection.answers():
                raise DisconnectionError

        engine = create_engine("postgresql+pg8000://", creator=self.get, poolclass=StaticPool, hide_parameters=True)
        event.listen(engine, "checkout", check)
        return engine


def sqlstate(error: BaseException) -> str | None:
    """The server's five-character code in a pg8000 error, or in an SQLAlchemy error around one."""
    original = getattr(error, "orig", None) or error
    first = original.args[0] if original.args else None
    return first.get("C") if isinstance(first, dict) else None


AWAY_CLASSES = ("08", "28", "3D", "53", "57P")
READ_ONLY = "25006"
"""The connection reached a standby: a failover is under way."""


def is_away(error: BaseException) -> bool:
    """Whether ``error`` says that the database cannot be reached or is going away, rather than that a statement is bad.

    Source of the codes: PostgreSQL, appendix *Error Codes*: 08 connection, 28 login refused, 3D no such database, 53
    resources, 57P shutdown.
    """
    original = getattr(error, "orig", None) or error
    code = sqlstate(original)
    if code is not None:
        return code.startswith(AWAY_CLASSES) or code == READ_ONLY
    return isinstance(original, (InterfaceError, OSError))


# --- Connecting ----------------------------------------------------------------------------------------------------


def _connect_options(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme.split("+")[0] not in ("postgresql", "postgres") or not parts.hostname:
        raise ValueError("DATABASE_URL: postgresql://user:password@host:port/database is required")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    _check_query(query)
    host, port, user = parts.hostname, parts.port or 5432, unquote(parts.username or "")
    password = unquote(parts.password) if parts.password else None
    return {
        "host": host,
        "port": port,
        "login": _login(host, port, user, password, query),
        "database": unquote(parts.path.lstrip("/")) or None,
        "ca_file": query.get("sslrootcert"),
    }


def _check_query(query: Mapping[str, str]) -> None:
    for name, value in query.items():
        if name not in QUERY:
            raise ValueError(f"DATABASE_URL: no parameter {name!r} is known; there are {', '.join(QUERY)}")
        if name == "auth" and value != "iam":
            raise ValueError("DATABASE_URL: auth: 'iam' is the one there is; leave it out for a password")
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


def _logged_in(*, login: Login, **options: Any) -> Connection:
    """Connect; once more where what the server refused is out of date."""
    try:
        return _connect(login, **options)
    except DatabaseError as error:
        if sqlstate(error) not in LOGIN_REFUSED or not login.renewed():
            raise
    return _connect(login, **options)


def _connect(login: Login, *, host: str, port: int, ca_file: str | None, database: str | None) -> Connection:
    user, password = login.now()
    plain = socket.create_connection((host, port), CONNECT_TIMEOUT_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 3),
        ("TCP_KEEPINTVL", 1),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_MS),
    ):
        if hasattr(socket, name):  # not every system has them all
            plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    connection = Connection(
        host=host,
        sock=plain,
        user=user,
        password=password,
        database=database,
        ssl_context=False if host in LOOPBACK else _verified(host, ca_file),
        application_name="joblane",
        startup_params={"client_connection_check_interval": str(CLIENT_CHECK_MS)},
    )
    connection._usock.settimeout(None)
    return connection


def _verified(host: str, ca_file: str | None) -> ssl.SSLContext:
    """Certificate and host name are checked, which pg8000 on its own does not do."""
    import ssl

    context = ssl.create_default_context(cafile=ca_file)
    if ca_file is None and RDS_HOST.search(host):
        context.load_verify_locations(RDS_CERTIFICATES)
    return context
