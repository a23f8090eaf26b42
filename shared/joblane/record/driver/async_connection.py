"""An asyncpg connection with those methods of :class:`~joblane.record.driver.connection.Connection` that a run needs.

The methods are called in a greenlet of SQLAlchemy's, and raise pg8000's errors, so that the code of a run is the same
for both drivers.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import asyncpg
from pg8000.exceptions import DatabaseError, InterfaceError
from pg8000.exceptions import Error as PostgresError
from sqlalchemy.util import await_only

from joblane.errors import JobError
from joblane.record.driver.connection import PING_AFTER_SECONDS, PING_SECONDS, Row

if TYPE_CHECKING:
    from joblane.record.driver.transaction_guard import TransactionGuard

CONVERTERS: dict[str, Callable[[str], Any]] = {
    "bool": "true".__eq__,
    "int2": int,
    "int4": int,
    "int8": int,
    "float8": float,
}
"""The library's statements have texts as parameters. asyncpg takes a value of the type that the server infers."""
IN_USE = (
    "ctx.async_session is in use by another asyncio task. Its connection runs one statement at a time: await every task"
    " that uses it, for example in an asyncio.TaskGroup, before the handler continues"
)


class AsyncConnection:
    """``answer``: the time in which the server must answer, inside :meth:`bounded`; None: no limit."""

    def __init__(self, driver_connection: asyncpg.Connection, answer: float | None) -> None:
        self.driver_connection = driver_connection
        self._answer = answer
        self._seconds: float | None = None
        self._broken = False
        self.guard: TransactionGuard | None = None
        """Keeps the transaction of a run's session. None: there is none."""
        self._prepared: dict[str, tuple[Any, list[Callable[[str], Any] | None]]] = {}
        self._heard_at = (time.monotonic(), time.time())
        self._socket = driver_connection._transport.get_extra_info("socket")

    @property
    def idle(self) -> bool:
        """True if no transaction is open."""
        return not self.driver_connection.is_in_transaction()

    @property
    def usable(self) -> bool:
        """True if the connection is open, and none of the library's statements was cancelled on it."""
        return not self._broken and not self.driver_connection.is_closed()

    def answers(self) -> bool:
        """True if the connection can be used. After a long idle time this costs a round trip."""
        if self.usable and self.idle and self._silent_seconds() > PING_AFTER_SECONDS:
            with suppress(PostgresError, OSError, JobError), self._answering_within(PING_SECONDS):
                self.run("select 1")
                return True
            self.terminate()
        self._hear()
        return self.usable

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Limit the time of answers inside the block. A server that does not answer in time is an OSError."""
        with self._answering_within(self._answer):
            yield

    @contextmanager
    def _answering_within(self, seconds: float | None) -> Iterator[None]:
        before, self._seconds = self._seconds, seconds
        try:
            yield
        finally:
            self._seconds = before

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Limit the time of a statement that SQLAlchemy runs, inside :meth:`bounded`."""
        limit = asyncio.timeout(self._seconds)
        await_only(limit.__aenter__())
        try:
            yield
        except BaseException:
            if limit.expired():
                self.terminate()
            await_only(limit.__aexit__(*sys.exc_info()))  # raises TimeoutError in the place of the cancellation
            raise
        await_only(limit.__aexit__(None, None, None))

    def run(self, sql: str, *parameters: Any) -> list[Row]:
        """Execute ``sql`` with ``$1``-style parameters and return its rows."""
        return await_only(self._translated(self._fetch(sql, parameters)))

    def reset(self, statements: str) -> None:
        """Run statements without parameters, in one round trip."""
        self.guard = None
        await_only(self._translated(self.driver_connection.execute(statements)))

    def terminate(self) -> None:
        """Close the socket without waiting, in any state and on any loop."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # the transport closes it when the loop runs again
        with suppress(Exception):
            self.driver_connection.terminate()

    def abandon(self) -> None:
        """Close this process's copy of the socket. The process that has forked this one continues to use the other."""
        with suppress(OSError):
            os.close(self._socket.fileno())

    async def _fetch(self, sql: str, parameters: tuple[Any, ...]) -> list[Row]:
        if sql not in self._prepared:
            statement = await self.driver_connection.prepare(sql)
            self._prepared[sql] = statement, [CONVERTERS.get(type_.name) for type_ in statement.get_parameters()]
        statement, converters = self._prepared[sql]
        values = [
            convert(value) if convert is not None and isinstance(value, str) else value
            for convert, value in zip(converters, parameters, strict=True)
        ]
        return [list(row) for row in await statement.fetch(*values)]

    async def _translated(self, statement: Any) -> Any:
        """Await a statement within the time limit, and raise pg8000's errors."""
        try:
            async with asyncio.timeout(self._seconds):
                answer = await statement
        except asyncpg.PostgresError as error:
            raise translated(error) from None  # its text can contain values of rows
        except asyncpg.InterfaceError as error:
            if self.driver_connection.is_closed():
                raise InterfaceError(str(error)) from None
            raise JobError(IN_USE) from error
        except BaseException as error:  # the answer may still come
            self._broken = True
            if isinstance(error, TimeoutError):
                raise TimeoutError(f"the server did not answer within {self._seconds or 0:g} s") from error
            raise
        self._hear()
        return answer

    def _hear(self) -> None:
        self._heard_at = (time.monotonic(), time.time())

    def _silent_seconds(self) -> float:
        return max(time.monotonic() - self._heard_at[0], time.time() - self._heard_at[1])


def translated(error: asyncpg.PostgresError) -> DatabaseError:
    """Return pg8000's error in the place of asyncpg's, without the details, which can contain values."""
    return DatabaseError({"C": error.sqlstate or "", "M": str(error.args[0]) if error.args else ""})
