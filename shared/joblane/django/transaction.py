"""The transaction of a run on Django's connection: the task's writes and its completion commit together."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from django.db import connections, transaction

from joblane.django.failures import describe, hide_rows
from joblane.errors import JobError, sqlstate, text_of
from joblane.record.driver.connection import Row
from joblane.record.driver.transaction_guard import TransactionGuard
from joblane.record.driver.values import JSON_OIDS, read_json
from joblane.telemetry import logger

CANCEL_SECONDS = 2.0
CLEAN = ("IDLE", "INTRANS")
"""libpq's states of a connection whose transaction can commit. Idle: it has run no statement yet."""
ENDING = (*CLEAN, "INERROR")
"""The states in which the server has answered everything."""
INSTEAD_OF_SQL = "To undo a part of it, put the part into a block of `with transaction.atomic():`."


class DjangoTransaction:
    """The transaction in which a Django task runs, on the connection of an alias of ``DATABASES``."""

    def __init__(self, alias: str, fail: Callable[[Exception], object]) -> None:
        """``fail``: called with the server's error of a commit."""
        self._alias = alias
        self._fail = fail
        self._atomic = transaction.atomic(using=alias)
        self._open = False
        self._committed = False
        self._guard = TransactionGuard("the task", INSTEAD_OF_SQL)
        self._has_run = False
        """The transaction has started on the server."""
        self._after_commit: Callable[[], object] | None = None

    def run(self, sql: str, *parameters: str | None) -> list[Row]:
        """Execute ``sql`` with ``$1``-style parameters and return its rows."""
        named = {f"p{number}": value for number, value in enumerate(parameters, 1)}
        with connections[self._alias].cursor() as cursor:
            cursor.execute(_named(sql), named)
            if cursor.description is None:
                return []
            json_columns = [number for number, column in enumerate(cursor.description) if column[1] in JSON_OIDS]
            rows = [list(row) for row in cursor.fetchall()]
        for row in rows:
            for number in json_columns:
                if isinstance(row[number], str):  # Django leaves jsonb to its fields
                    row[number] = read_json(row[number])
        return rows

    def begin(self) -> None:
        """Begin. Raises :class:`JobError` if a transaction is open already."""
        if connections[self._alias].in_atomic_block:
            raise JobError(
                f"a transaction is open on Django's connection {self._alias!r}, so a run could not commit; in a test, "
                "use TransactionTestCase instead of TestCase"
            )
        if not connections[self._alias].get_autocommit():
            raise JobError(f"DATABASES[{self._alias!r}]: AUTOCOMMIT: True is required")
        self._atomic.__enter__()
        self._open = True
        connections[self._alias].execute_wrappers.append(self._execute)
        # The first function that runs after the commit. A later one may fail, and then those after it do not run.
        transaction.on_commit(self._note_commit, using=self._alias)

    def _execute(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        """Run a statement. Django calls this for each. Raises :class:`JobError` if it would end the transaction."""
        if isinstance(sql, str):
            self._guard.check(sql)
        self._check_open(context["connection"])
        result = execute(sql, params, many, context)
        self._has_run = True
        self._check_open(context["connection"])
        return result

    def _check_open(self, used: Any) -> None:
        self._guard.check_whole(is_open=not self._has_run or _status(used) != "IDLE")

    def _note_commit(self) -> None:
        self._committed = True

    def after_commit(self, function: Callable[[], object]) -> None:
        """Call ``function`` after the commit and the functions of ``transaction.on_commit``, also if one has failed."""
        self._after_commit = function

    def check(self) -> None:
        """Raise :class:`JobError` if the transaction can only be rolled back, although the task raised no error."""
        used = connections[self._alias]
        if used.closed_in_transaction or used.connection is None:
            raise JobError("the task has closed the database connection: what it wrote is rolled back")
        if used.atomic_blocks != [self._atomic]:
            raise JobError("the task has left a block of transaction.atomic() open: what it wrote is rolled back")
        self._check_open(used)
        if used.needs_rollback or _status(used) not in CLEAN:
            raise JobError(
                "the task has caught an error of the database, and what it wrote is rolled back; put the statement "
                "that may fail into its own `with transaction.atomic():`"
            )

    def commit(self) -> None:
        """Commit, and then call the functions of ``transaction.on_commit``.

        An error of these functions is logged: the task has ended.
        """
        self._open = False
        self._stop_guarding()
        try:
            self._atomic.__exit__(None, None, None)
        except Exception as error:
            if not self._committed:
                if error.__cause__ is not None and sqlstate(error.__cause__):  # the server's answer: not committed
                    self._fail(error)
                describe(error)
                raise
            hide_rows(error)
            logger().warning(
                "a function of transaction.on_commit has failed; its task is completed",
                extra={"error": text_of(error)},
            )
        if not self._committed:
            raise JobError("Django has rolled the transaction back")
        if self._after_commit is not None:
            self._after_commit()
        refresh_connections()

    def roll_back(self, *, interrupted: bool = False) -> None:
        """Roll back, if it is open. ``interrupted``: a timeout interrupted the task at any point of its code."""
        was_open, self._open = self._open, False
        self._stop_guarding()
        used = connections[self._alias]
        if interrupted or (was_open and (_status(used) not in ENDING or used.atomic_blocks != [self._atomic])):
            discard_connections()
        elif was_open:
            try:
                self._atomic.__exit__(JobError, JobError("rolled back"), None)
            except Exception:  # the connection is in no known state
                discard_connections()
            refresh_connections()

    def _stop_guarding(self) -> None:
        wrappers = connections[self._alias].execute_wrappers
        if self._execute in wrappers:
            wrappers.remove(self._execute)


@cache
def _named(sql: str) -> str:
    """Return a statement with the named parameters of psycopg."""
    return re.sub(r"\$(\d+)", r"%(p\1)s", sql.replace("%", "%%"))


def _status(used: Any) -> str:
    """Return the transaction status of a connection, by libpq's name. UNKNOWN: closed, or another driver's."""
    status = getattr(getattr(used.connection, "info", None), "transaction_status", None)
    return str(getattr(status, "name", "UNKNOWN"))


def refresh_connections() -> None:
    """Close the connections that are broken or too old, as Django does before and after a request."""
    for used in connections.all(initialized_only=True):
        if not used.in_atomic_block:
            used.close_if_unusable_or_obsolete()


def discard_open_connections() -> bool:
    """Discard the connections, and return True, if a transaction or an interrupted statement is still open on one."""
    is_open = any(
        used.in_atomic_block or not used.get_autocommit() or _status(used) == "ACTIVE"
        for used in connections.all(initialized_only=True)
    )
    if is_open:
        discard_connections()
    return is_open


def discard_connections() -> None:
    """Cancel what runs on Django's connections of this thread, and close them.

    An interrupted connection may have an answer on the wire that the next statement would read as its own, and Django's
    own account of its transactions may be wrong.
    """
    for used in connections.all(initialized_only=True):
        del connections[used.alias]
        raw = used.connection
        if raw is not None:
            with suppress(Exception):
                if _status(used) == "ACTIVE":
                    raw.cancel_safe(timeout=CANCEL_SECONDS)
            with suppress(Exception):
                raw.close()
