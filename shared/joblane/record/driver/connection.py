"""A PostgreSQL connection on pg8000 with one round trip per statement, and the meaning of its errors."""

from __future__ import annotations

import os
import socket
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from struct import pack
from typing import TYPE_CHECKING, Any

from pg8000.converters import TIMESTAMPTZ, make_params
from pg8000.core import BIND, EXECUTE_MSG, IDLE, NULL_BYTE, SYNC_MSG, Context
from pg8000.dbapi import Connection as DbapiConnection
from pg8000.exceptions import DatabaseError, InterfaceError
from pg8000.exceptions import Error as PostgresError

from joblane.errors import UNDEFINED_FUNCTION, sqlstate
from joblane.record.driver.login import LoginError
from joblane.record.driver.time_limits import NO_LIMITS, UNLIMITED, TimeLimits
from joblane.record.driver.values import JSON_OIDS, read_json, read_time

if TYPE_CHECKING:
    from joblane.record.driver.transaction_guard import TransactionGuard

REFUSED_CLASSES = ("22", "54")
"""SQLSTATE classes of values that the database cannot store: data exceptions and program limits."""
SHUT_DOWN = "57P"
"""SQLSTATEs of a server that shuts down."""
UNAVAILABLE_CLASSES = ("08", "28", "3D", "53", SHUT_DOWN)
"""SQLSTATE classes: connection, login refused, no such database, resources, shutdown. Source: PostgreSQL, *Error
Codes*."""
READ_ONLY = "25006"
"""The connection reached a standby: a failover is under way."""
TIMED_OUT = "57014"
"""A statement exceeded ``statement_timeout``."""
LOCK_NOT_AVAILABLE, UNIQUE_VIOLATION, PROGRAM_LIMIT_EXCEEDED = "55P03", "23505", "54000"
"""SQLSTATEs of a lock timeout, of a unique key that is taken, and of what exceeds a bound."""
ROLLED_BACK = "40"
"""SQLSTATE class of a transaction that another one has made impossible: a deadlock, or a strict isolation level. It may
succeed if it is repeated."""
INSUFFICIENT_PRIVILEGE, NO_SCHEMA, UNDEFINED_TABLE = "42501", "3F000", "42P01"
"""SQLSTATEs of a missing right, a missing schema and a missing table."""
ADVICE = {
    UNDEFINED_FUNCTION: "run `joblane migrate`; ",
    LOCK_NOT_AVAILABLE: "a table is locked (pg_blocking_pids() finds the holder); ",
    NO_SCHEMA: "run `joblane migrate`; ",
    INSUFFICIENT_PRIVILEGE: "run `joblane migrate`, which grants the rights; ",
}
"""SQLSTATE → what an operator can do."""
PING_AFTER_SECONDS = 30
"""A connection is tested before use after it was idle for this long. A test before every use would cost a round
trip."""
PING_SECONDS = 1
"""The time in which a connection must answer the test."""
BEGIN = "begin transaction"
"""pg8000's statement before the first statement of a caller's transaction."""
MAX_PREPARED = 100
PASSWORD_REQUESTS = (3, 5, 10)
"""Requests for a password: clear text, MD5, SASL. Source: PostgreSQL, *Message Formats*, ``Authentication…``."""
RESET = (
    "close all; reset session authorization; reset all; unlisten *; select pg_advisory_unlock_all();"
    " discard temp; discard sequences"
)

BEGINNING = tuple((each, (), ()) for each in (BEGIN, *UNLIMITED.split("; ")))
"""The statements that begin a caller's transaction, as for :meth:`Connection._execute`."""
NULL_FIELD = pack("!i", -1)
"""The length of a parameter that is null. Source: PostgreSQL, *Message Formats*, Bind."""

Row = list[Any]


class Connection(DbapiConnection):  # type: ignore[misc]
    """pg8000's connection with one round trip per statement: it prepares once, then sends bind and execute together.

    Unmodified, pg8000 takes three round trips for a statement with parameters and three for a commit.

    ``limits``: the time limits of the session, even if ``startup_params`` lack them; None: no limits. A transaction
    that begins through a cursor, as SQLAlchemy's do, has no limits, except inside :meth:`bounded`.
    """

    _usock: Any
    _sock: Any

    def __init__(self, *args: Any, limits: TimeLimits | None = None, **options: Any) -> None:
        self._limits = self._session_limits = limits
        self._by_statement = limits is not None and not limits.startup.keys() <= options["startup_params"].keys()
        self._is_callers = False
        self._begins = False
        """A caller's transaction begins with the next statement."""
        self._last: tuple[str, Sequence[str | None], list[Row]] | None = None
        """The statement that goes with the next commit, and the list for its rows."""
        self._autocommit = False
        self._prepared: OrderedDict[tuple[str, tuple[int, ...]], tuple[bytes, Any, Any]] = OrderedDict()
        self._answered = True
        self.idle = True
        """True if no transaction is open."""
        self.guard: TransactionGuard | None = None
        """Keeps the transaction of a run's session. None: there is none."""
        self._heard_at = (0.0, 0.0)
        super().__init__(*args, **options)
        for oid in JSON_OIDS:
            self.register_in_adapter(oid, read_json)
        self.register_in_adapter(TIMESTAMPTZ, read_time)
        self._usock.settimeout(self._answer_seconds)
        if self._by_statement:
            self.limit(limits)

    @property
    def driver_connection(self) -> DbapiConnection:
        """The driver's connection, as SQLAlchemy names it."""
        return self

    @property
    def usable(self) -> bool:
        """True if the connection is open and the server has answered every message.

        An interrupt may leave an unread answer on the wire. The next statement would read it as its own.
        """
        return self._sock is not None and self._answered

    def answers(self, *, at_once: bool = False) -> bool:
        """True if the connection can be used. After :data:`PING_AFTER_SECONDS` of idle time this costs a round trip.

        ``at_once``: test it even if it was just used.
        """
        if not self.usable:
            return False
        if self.idle and (at_once or self._silent_seconds() > PING_AFTER_SECONDS):
            with suppress(PostgresError, OSError), self.answering_within(PING_SECONDS):
                self.execute_simple("select 1")
                return True
            return False
        return True

    def limit(self, limits: TimeLimits | None) -> None:
        """Set the time limits of the session until its :meth:`reset`, in one round trip. None: no limits."""
        self._session_limits = limits
        self._usock.settimeout(self._answer_seconds)
        self.execute_simple(NO_LIMITS if limits is None else limits.sql)

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Limit the time of answers inside the block, even in a transaction without limits.

        A server that does not answer in time is an OSError, and the connection is then not :attr:`usable`.
        """
        with self.answering_within(None if self._limits is None else self._limits.answer):
            yield

    @contextmanager
    def answering_within(self, seconds: float | None) -> Iterator[None]:
        """Limit the time of each answer inside the block."""
        if self._usock is not None:
            self._usock.settimeout(seconds)
        try:
            yield
        finally:
            if self._usock is not None:
                self._usock.settimeout(self._answer_seconds)

    @property
    def _answer_seconds(self) -> float | None:
        """The time in which the server must answer the next statement. None: no limit."""
        return None if self._is_callers or self._session_limits is None else self._session_limits.answer

    @property
    def autocommit(self) -> bool:
        """True if each statement of a cursor commits by itself. Such statements have no time limits either."""
        return self._autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        if value != self._autocommit and self._limits is not None:
            self.limit(None if value else self._limits)
        self._autocommit = value

    def _silent_seconds(self) -> float:
        """By two clocks, because no page says which of them runs on while Lambda freezes an environment."""
        return max(time.monotonic() - self._heard_at[0], time.time() - self._heard_at[1])

    def _send_message(self, code: bytes, data: bytes) -> None:
        self._answered = False
        super()._send_message(code, data)

    def handle_READY_FOR_QUERY(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        super().handle_READY_FOR_QUERY(data, context)
        self._answered = True
        self.idle = data == IDLE
        self._heard_at = (time.monotonic(), time.time())
        if self._is_callers and self.idle:
            self._is_callers = False
            self._usock.settimeout(self._answer_seconds)
            if self.guard is not None:
                self.guard.end()

    def execute_simple(self, statement: str) -> Any:
        """Run statements without parameters. pg8000 also calls this method to begin a caller's transaction."""
        # between pages none is open; the first statement of a cursor goes with the begin
        if self.guard is not None and statement != BEGIN and (self._begins or not self.idle):
            self.guard.check(statement)
        if statement == BEGIN and self._limits is not None:  # a cursor's, which sends its first statement next
            self._begins = True
            return Context(statement)
        if self._begins:
            self._note_begin()
            super().execute_simple(f"{BEGIN}; {UNLIMITED}")
        return super().execute_simple(statement)

    def _note_begin(self) -> None:
        self._begins, self._is_callers = False, True
        self._usock.settimeout(None)

    def handle_messages(self, context: Any) -> None:
        try:
            super().handle_messages(context)
        except (TimeoutError, InterfaceError) as error:
            if not has_timed_out(error):
                raise
            raise TimeoutError(f"the server did not answer within {self._usock.gettimeout():g} s") from error

    def run(self, sql: str, *parameters: Any) -> list[Row]:
        """Execute ``sql`` with ``$1``-style parameters and return its rows.

        It commits at once if no transaction is open.
        """
        self._begins = False  # a cursor could not send its first statement
        return self.execute_unnamed(sql, parameters).rows or []

    def run_each(self, sql: str, *documents: str) -> list[Row]:
        """Execute ``sql`` once for each document, its parameter ``$1``, and return the rows of all."""
        return [row for document in documents for row in self.run(sql, document)]

    def execute_unnamed(
        self, statement: str, vals: Sequence[Any] = (), oids: Sequence[int] = (), stream: Any = None
    ) -> Any:
        """Run a prepared statement, kept per text and parameter types. pg8000's cursor calls this method."""
        if self.guard is not None:
            self.guard.check(statement)
        if stream is not None:
            if self._begins:
                self.execute_simple("select")
            return super().execute_unnamed(statement, vals, oids, stream)
        begins, self._begins = self._begins, False
        main = (statement, tuple(oids), make_params(self.py_types, vals))
        return self._execute([*BEGINNING, main] if begins else [main], statement)

    def _prepare(self, statement: str, oids: tuple[int, ...]) -> tuple[bytes, Any, Any]:
        key = (statement, oids)
        if key not in self._prepared:
            self._make_room()
            self._prepared[key] = self.prepare_statement(statement, oids)
        self._prepared.move_to_end(key)
        return self._prepared[key]

    def _execute(self, statements: Sequence[tuple[str, tuple[int, ...], Sequence[str | None]]], main: str) -> Any:
        """Run prepared statements in one round trip; after one that fails, the others do not run.

        Only ``main`` may return rows. pg8000 lets the server answer each message of a statement; here it answers them
        all at once.
        """
        prepared = {sql: self._prepare(sql, oids) for sql, oids, _ in statements}
        _, columns, input_functions = prepared[main]
        context = Context(columns=columns, input_funcs=input_functions, statement=main)
        messages = []
        for sql, _, parameters in statements:
            values = [None if value is None else value.encode(self._client_encoding) for value in parameters]
            fields = b"".join(NULL_FIELD if value is None else pack("!i", len(value)) + value for value in values)
            head = NULL_BYTE + prepared[sql][0] + pack("!HH", 0, len(values))
            messages.append(head + fields + pack("!H", 0))
        if statements[0][0] == BEGIN:
            self._note_begin()  # after the answers to the preparations, which do not end this transaction
        for message in messages:
            self._send_message(BIND, message)
            self._sock.write(EXECUTE_MSG)
        self._sock.write(SYNC_MSG)
        try:
            self._sock.flush()
        except OSError as error:
            raise InterfaceError("network error") from error
        try:
            self.handle_messages(context)
        except DatabaseError as error:
            if sqlstate(error) in ("0A000", "26000"):  # the table changed since, or a statement no longer exists
                self._prepared.clear()
            raise
        return context

    @contextmanager
    def before_commit(self, sql: str, *parameters: str | None) -> Iterator[list[Row]]:
        """Send ``sql`` together with the commit inside the block. If it fails, nothing is committed.

        Yields the list that gets its rows.
        """
        rows: list[Row] = []
        self._last = sql, parameters, rows
        try:
            yield rows
        finally:
            self._last = None

    def commit(self) -> None:
        """Commit, in one round trip. Raises :class:`DatabaseError` if the server rolled back instead."""
        self._begins = False
        if self.idle:
            return
        if self._last is None:
            self.execute_simple("commit")
        else:
            sql, parameters, rows = self._last
            rows += self.commit_after(sql, parameters).rows

    def commit_after(self, sql: str, parameters: Sequence[str | None]) -> Any:
        """Execute ``sql`` and commit, in one round trip. Return what pg8000 returns for ``sql``."""
        return self._execute([(sql, (), parameters), ("commit", (), ())], sql)

    def rollback(self) -> None:
        self._begins = False
        if self.idle:
            return
        guard, self.guard = self.guard, None
        try:
            self.execute_simple("rollback")
        finally:
            self.guard = guard
        if guard is not None:
            guard.roll_back()

    def reset(self) -> None:
        """Reset the session, except for its prepared statements, in one round trip.

        Does the same as ``DISCARD ALL`` without ``DEALLOCATE ALL``. Source: PostgreSQL, *DISCARD*.
        """
        self._session_limits, self._begins, self.guard = self._limits, False, None
        self._usock.settimeout(self._answer_seconds)
        self.execute_simple(f"{RESET}; {self._limits.sql}" if self._limits and self._by_statement else RESET)

    def cut(self) -> None:
        """Close the socket without a message to the server, even if a statement is running."""
        if self._usock is not None:
            with suppress(OSError):
                self._usock.shutdown(socket.SHUT_RDWR)
        self.close()

    def abandon(self) -> None:
        """Close this process's copy of the socket. The process that has forked this one continues to use the other."""
        if self._usock is not None:
            os.close(self._usock.detach())
            self._sock = self._usock = None

    def close(self) -> None:
        """Close the connection. Closing it twice is harmless, even in two threads at once."""
        if self._usock is not None:
            file = self._sock
            with suppress(OSError, InterfaceError, ValueError, AttributeError):  # the last: another thread was faster
                super().close()
            with suppress(OSError, ValueError, AttributeError):
                file.close()  # otherwise the socket stays open while a traceback refers to it

    def handle_AUTHENTICATION_REQUEST(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """Raises :class:`LoginError` if the server asks for a password and none is configured."""
        if self.password is None and int.from_bytes(data[:4]) in PASSWORD_REQUESTS:
            raise LoginError("DATABASE_URL: the server asks for a password, but the URL has none")
        super().handle_AUTHENTICATION_REQUEST(data, context)

    def handle_ERROR_RESPONSE(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """Remove the fields that can contain values of rows: DETAIL (D) and CONTEXT (W)."""
        super().handle_ERROR_RESPONSE(data, context)
        for field in ("D", "W"):
            context.error.args[0].pop(field, None)

    def _make_room(self) -> None:
        while len(self._prepared) >= MAX_PREPARED:
            _, (name, _, _) = self._prepared.popitem(last=False)
            self.close_prepared_statement(name)


def has_timed_out(error: BaseException) -> bool:
    """True if the server did not answer in time. A second try would double the time."""
    return isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError) or sqlstate(error) == TIMED_OUT


def is_unavailable(error: BaseException) -> bool:
    """True if the database cannot be reached, is shutting down, or does not answer in time.

    False if the statement is at fault.
    """
    original = getattr(error, "orig", None) or error
    code = sqlstate(original)
    if code is not None:
        return code.startswith(UNAVAILABLE_CLASSES) or code in (READ_ONLY, TIMED_OUT)
    return isinstance(original, (InterfaceError, OSError))


def is_of_row(error: BaseException) -> bool:
    """True if one row of a statement may be at fault, so that the statement may succeed for the others."""
    return isinstance(error, DatabaseError) and not is_unavailable(error) and sqlstate(error) != LOCK_NOT_AVAILABLE
