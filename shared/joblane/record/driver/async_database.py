"""The process's asyncpg connection, for the sessions of ``async def`` handlers.

Like :class:`~joblane.record.driver.database.Database`, with SQLAlchemy's asynchronous engine. Methods that talk to the
server are called in a greenlet. Transactions have no time limits, so the connection has none either: the library's own
statements on it run inside :meth:`AsyncConnection.bounded`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import asyncpg
from pg8000.exceptions import Error as PostgresError
from pg8000.exceptions import InterfaceError
from sqlalchemy.util import await_only, greenlet_spawn

from joblane.errors import JobError
from joblane.record.driver.async_connection import AsyncConnection, translated
from joblane.record.driver.connection import RESET
from joblane.record.driver.event_loop import process_loop
from joblane.record.driver.login import LOOPBACK, Login
from joblane.record.driver.opening import (
    CONNECT_TIMEOUT_SECONDS,
    VANISHED_CLIENT,
    connected,
    keep_alive,
    of_function,
    verified,
)
from joblane.record.driver.stage import NOT_MIGRATED, STAGE, match_stage
from joblane.record.driver.values import read_json

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from joblane.record.driver.time_limits import TimeLimits


class AsyncDatabase:
    """``options``: see :func:`~joblane.record.driver.opening.connected`. ``prefix``: of the stage, or None."""

    def __init__(self, options: dict[str, Any], prefix: str | None) -> None:
        self._options = options | {"startup": VANISHED_CLIENT | of_function()}
        self._prefix = prefix
        self._connection: AsyncConnection | None = None

    @cached_property
    def engine(self) -> AsyncEngine:
        """The SQLAlchemy engine on this connection."""
        from sqlalchemy import event
        from sqlalchemy.exc import DisconnectionError
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqlalchemy.pool import StaticPool

        def check(*_: Any) -> None:
            """Test the connection before a transaction, as the synchronous engine does."""
            if self._connection is None or not self._connection.answers():
                raise DisconnectionError

        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._open,
            poolclass=StaticPool,
            hide_parameters=True,
            json_deserializer=read_json,
        )
        event.listen(engine.sync_engine, "checkout", check)
        dialect: Any = engine.sync_engine.dialect
        dialect.do_begin = _begin
        dialect.do_execute = self._execute
        for name in ("commit", "rollback"):
            setattr(dialect, f"do_{name}", self._limited(name, getattr(dialect, f"do_{name}")))
        return engine

    def _limited(self, name: str, statement: Callable[[Any], None]) -> Callable[[Any], None]:
        def run(used: Any) -> None:
            if name == "commit":
                self._check(name)
            with nullcontext() if self._connection is None else self._connection.limited():
                statement(used)

        return run

    def _execute(self, cursor: Any, statement: str, parameters: Any, _context: object = None) -> None:
        self._check(statement)
        cursor.execute(statement, parameters)

    def _check(self, statement: str) -> None:
        if self._connection is not None and self._connection.guard is not None:
            self._connection.guard.check(statement)

    def get(self) -> AsyncConnection:
        """Return the open connection, or a new one."""
        if self._connection is None or not self._connection.answers():
            self.drop()
            self.engine.sync_engine.connect().close()
        assert self._connection is not None
        return self._connection

    @property
    def usable(self) -> bool:
        """True if a connection exists and can be used."""
        return self._connection is not None and self._connection.usable

    @property
    def in_transaction(self) -> bool:
        """True if a transaction is open on a usable connection."""
        return self._connection is not None and self._connection.usable and not self._connection.idle

    def reset(self) -> None:
        """Reset the session; drop the connection if that fails."""
        if self._connection is not None and self._connection.usable:
            try:
                with self._connection.bounded():
                    self._connection.reset(RESET)
            except (PostgresError, OSError, JobError):
                self.drop()

    def cut(self) -> None:
        """Close the connection in any state, without waiting for the server."""
        if self._connection is not None:
            self._connection.terminate()

    def drop(self) -> None:
        """Discard the connection in any state. The next transaction makes a new one. No session may hold it."""
        self.cut()
        self._connection = None
        if "engine" in self.__dict__:
            self.engine.sync_engine.dispose(close=False)

    def close(self) -> None:
        """Close the connection. Not from a coroutine, which awaits :meth:`aclose`."""
        if self._connection is not None:
            process_loop.run(self.aclose)

    async def aclose(self) -> None:
        self.drop()
        await asyncio.sleep(0)  # the transport closes its socket

    async def _open(self) -> asyncpg.Connection:
        connection = await greenlet_spawn(self.connect)
        return connection.driver_connection

    def connect(self) -> AsyncConnection:
        """Return a new connection, which transactions use from now on. Only in a greenlet."""
        made = connected(_connect, **self._options)
        limits: TimeLimits | None = self._options["limits"]
        connection = AsyncConnection(made, limits.answer if limits else None)
        try:
            if self._prefix is not None:
                self._check_stage(connection)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        process_loop.closes(connection)
        return connection

    def _check_stage(self, connection: AsyncConnection) -> None:
        """Raises :class:`WrongStageError`."""
        with connection.bounded():
            try:
                rows = connection.run(STAGE)
            except PostgresError as error:
                if error.args[0]["C"] not in NOT_MIGRATED:
                    raise
                return
        assert self._prefix is not None
        match_stage(rows, self._prefix)


def _begin(used: Any) -> None:
    """Begin the transaction at once, for handlers that take asyncpg's connection from the session.

    SQLAlchemy would begin it with its own first statement, and each statement before that would commit by itself.
    """
    await_only(used._start_transaction())


def _connect(
    login: Login,
    *,
    host: str,
    port: int,
    ca_file: str | None,
    database: str | None,
    startup: dict[str, str],
    limits: TimeLimits | None,
) -> asyncpg.Connection:
    """Connect by asyncpg. Its own settings in the environment, and password files, have no effect."""
    user, password = login.now()
    try:
        made = await_only(
            asyncpg.connect(
                host=host,
                port=port,
                user=user,
                password=password or "",
                database=database or user,
                ssl=False if host in LOOPBACK else verified(host, ca_file),
                timeout=limits.connect if limits else CONNECT_TIMEOUT_SECONDS,
                server_settings={"application_name": "joblane", **startup},
            )
        )
    except asyncpg.PostgresError as error:
        raise translated(error) from None
    except asyncpg.InterfaceError as error:
        raise InterfaceError(str(error)) from None
    keep_alive(made._transport.get_extra_info("socket"))
    return made
