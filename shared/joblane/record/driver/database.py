"""The process's single PostgreSQL connection, for Joblane's own statements and for the handler's session.

``Database.get`` returns the open connection, or connects. ``drop`` discards the connection, and the next ``get``
connects again. The SQLAlchemy engine uses the same connection. It is created on first use, because importing SQLAlchemy
takes longer than a whole job.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from pg8000.exceptions import Error as PostgresError

from joblane.errors import WrongStageError
from joblane.forking import follow_forks
from joblane.record.driver.connection import Connection, has_timed_out, is_unavailable
from joblane.record.driver.login import LOOPBACK, IamLogin, Login
from joblane.record.driver.opening import (
    CONNECT_TIMEOUT_SECONDS,
    connect_options,
    connected,
    keep_alive,
    verified,
)
from joblane.record.driver.stage import check_stage
from joblane.record.driver.time_limits import OPERATOR, TimeLimits

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from joblane.record.driver.async_database import AsyncDatabase

DATABASE_ERRORS = (PostgresError, OSError, WrongStageError)
"""The errors of a statement, and of a new connection."""
MIN_STEP_SECONDS = 0.1
"""A step of a login without time left gets this much, because zero means no limit."""
P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """The connection of this process, opened on first use.

    ``url``: ``postgresql://user:password@host:port/database``. Instead of a password, give ``?auth=iam``, or
    ``?secret=NAME`` for a secret in Secrets Manager (:mod:`joblane.record.driver.login`). TLS is verified for every
    host except loopback, where the local stack runs without TLS. It trusts the system's certificates, RDS's own for RDS
    hosts, or ``?sslrootcert=FILE``. ``postgresql:///?secret=NAME``, without a host: the text of the secret is the whole
    URL, which is read before the first connection.

    ``prefix``: the prefix of the stage that the database must serve, checked once per connection; None: any stage.
    ``limits``: the time limits of Joblane's own statements; None: none.
    """

    _until: float | None = None
    """See :meth:`opening_until`."""

    def __init__(self, url: str, *, prefix: str | None = None, limits: TimeLimits | None = OPERATOR) -> None:
        self._options = connect_options(url, limits)
        self._prefix = prefix
        self._connection: Connection | None = None
        follow_forks(self, Database._after_fork)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, also the asynchronous one."""
        self.drop()
        if "asynchronous" in self.__dict__:
            self.asynchronous.close()

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
        self.__dict__.pop("asynchronous", None)

    @cached_property
    def asynchronous(self) -> AsyncDatabase:
        """The process's asyncpg connection to the same database. Raises ImportError without `joblane[async]`."""
        from joblane.record.driver.async_database import AsyncDatabase

        return AsyncDatabase(self._options, self._prefix)

    def test(self) -> None:
        """Drop the connection if it does not answer now, however recently it was used."""
        if self._connection is not None and not self._connection.answers(at_once=True):
            self.drop()

    @contextmanager
    def opening_until(self, until: float | None) -> Iterator[None]:
        """Limit the time of a new connection inside the block. None: no further limit.

        ``until``: the time of :func:`time.monotonic` at which it has to answer, and its stage to be checked.
        """
        self._until = until
        try:
            yield
        finally:
            self._until = None

    def get(self) -> Connection:
        """Return the open connection, or a new one if the last one was closed or interrupted.

        Raises :class:`WrongStageError`, and an error that :func:`is_unavailable` recognises if the server cannot be
        reached.
        """
        if self._connection is not None and not self._connection.answers():
            self.drop()
        if self._connection is None:
            connection = connected(_connect, until=self._until, **self._options)
            if self._prefix is not None:
                try:
                    self._check_stage(connection, self._prefix)
                except BaseException:
                    connection.cut()
                    raise
            self._connection = connection
        return self._connection

    def _check_stage(self, connection: Connection, prefix: str) -> None:
        if self._until is None:
            check_stage(connection, prefix)
            return
        with connection.answering_within(_step_seconds(self._options["limits"], self._until)):
            check_stage(connection, prefix)

    def commit_joined(self, commit: Callable[[], object]) -> None:
        """Commit a transaction of another driver in which a run works. The testing kit causes faults here."""
        commit()

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

    def cut(self) -> None:
        """Close the connection in any state, without a message to the server."""
        if self._connection is not None:
            self._connection.cut()

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


def _step_seconds(limits: TimeLimits | None, until: float | None = None) -> float:
    """Return the limit for a step of a login. ``until``: see :meth:`Database.opening_until`."""
    seconds = limits.connect if limits else CONNECT_TIMEOUT_SECONDS
    return seconds if until is None else max(MIN_STEP_SECONDS, min(seconds, until - time.monotonic()))


def _connect(
    login: Login,
    *,
    host: str,
    port: int,
    ca_file: str | None,
    database: str | None,
    startup: dict[str, str],
    limits: TimeLimits | None,
    until: float | None = None,
) -> Connection:
    user, password = login.now()
    plain = socket.create_connection((host, port), _step_seconds(limits, until))
    keep_alive(plain)
    return Connection(
        host=host,
        sock=plain,
        user=user,
        password=password,
        database=database,
        ssl_context=False if host in LOOPBACK else verified(host, ca_file),
        application_name="joblane",
        startup_params=startup,
        limits=limits,
    )
