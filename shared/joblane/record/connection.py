"""One PostgreSQL connection: pg8000's, with one round trip per statement, and what its errors mean."""

from __future__ import annotations

import json
import math
import socket
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pg8000.converters import make_params
from pg8000.dbapi import Connection as DbapiConnection
from pg8000.exceptions import DatabaseError, InterfaceError
from pg8000.exceptions import Error as PostgresError

from joblane.errors import sqlstate
from joblane.record.login import LoginError

REFUSED_CLASSES = ("22", "54")
"""SQLSTATEs of what the database cannot hold: data exceptions and program limits."""
UNAVAILABLE_CLASSES = ("08", "28", "3D", "53", "57P")
"""SQLSTATEs: connection, login refused, no such database, resources, shutdown. Source: PostgreSQL, *Error Codes*."""
READ_ONLY = "25006"
"""The connection reached a standby: a failover is under way."""
LOCK_NOT_AVAILABLE, UNIQUE_VIOLATION = "55P03", "23505"
"""SQLSTATEs: a lock was not had in time; a unique key was taken."""
PING_AFTER_SECONDS = 30
"""A connection that was idle for longer is tested before it is used; a test for every use would cost a round trip."""
MAX_PREPARED = 100
JSON_OIDS = (114, 3802)
"""Of ``json`` and ``jsonb``. Source: PostgreSQL, ``pg_type.dat``."""
PASSWORD_REQUESTS = (3, 5, 10)
"""In clear, by MD5, by SASL. Source: PostgreSQL, *Message Formats*, ``Authentication…``."""
RESET = (
    "close all; reset session authorization; reset all; unlisten *; select pg_advisory_unlock_all();"
    " discard temp; discard sequences"
)

Row = list[Any]


def read_json(text: str) -> Any:
    """A value of type ``json`` or ``jsonb``. It never fails: a row that cannot be read would stop every reader.

    PostgreSQL's numbers have up to 131,072 digits and its documents thousands of levels. A value that Python refuses
    comes as text, which no payload model takes for a number or an object.
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
        """True where it can be used. After some idle time that costs a round trip: the other end may be gone."""
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
        """pg8000's cursor calls this; here it runs a prepared statement, kept per text and parameter types."""
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
        """Put the session back to its first state, except for its prepared statements. One round trip.

        It does what ``DISCARD ALL`` does without ``DEALLOCATE ALL``. Source: PostgreSQL, *DISCARD*.
        """
        self.execute_simple(RESET)

    def cut(self) -> None:
        """Close the socket without a message to the server, whatever the server is doing."""
        if self._usock is not None:
            with suppress(OSError):
                self._usock.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        """Close. A closed connection stays as it is."""
        if self._usock is not None:
            file = self._sock
            with suppress(OSError, InterfaceError, ValueError):
                super().close()
            with suppress(OSError, ValueError):
                file.close()  # or the socket stays open for as long as a traceback refers to it

    def handle_AUTHENTICATION_REQUEST(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """Raises :class:`LoginError` where the server asks for a password and there is none; pg8000 fails at it."""
        if self.password is None and int.from_bytes(data[:4]) in PASSWORD_REQUESTS:
            raise LoginError("DATABASE_URL: the server asks for a password, and the address has none")
        super().handle_AUTHENTICATION_REQUEST(data, context)

    def handle_ERROR_RESPONSE(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """Drop the fields that show values of rows: DETAIL (D) and CONTEXT (W)."""
        super().handle_ERROR_RESPONSE(data, context)
        for field in ("D", "W"):
            context.error.args[0].pop(field, None)

    def _make_room(self) -> None:
        while len(self._prepared) >= MAX_PREPARED:
            _, (name, _, _) = self._prepared.popitem(last=False)
            self.close_prepared_statement(name)


def is_unavailable(error: BaseException) -> bool:
    """True where the database cannot be reached or shuts down; False where a statement is bad."""
    original = getattr(error, "orig", None) or error
    code = sqlstate(original)
    if code is not None:
        return code.startswith(UNAVAILABLE_CLASSES) or code == READ_ONLY
    return isinstance(original, (InterfaceError, OSError))
