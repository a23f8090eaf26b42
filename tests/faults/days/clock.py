"""Virtual time: it stands still while code runs, for the database and for the code of the library.

In the database, functions that replace PostgreSQL's own read the time from a sequence, whose value all transactions see
at once. In the library, each module has other names for ``time`` and ``datetime``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from typing import Any
from unittest.mock import patch

from joblane.record.driver.connection import Connection
from tests.faults.clock import DEFAULTS, RENAME

SCHEMA = "ahead"
DEFINE = f"""
{RENAME}create schema {SCHEMA};
create sequence {SCHEMA}.clock;
create function pg_catalog.clock_timestamp() returns timestamptz language sql volatile
    as 'select timestamptz ''epoch'' + last_value * interval ''1 microsecond'' from {SCHEMA}.clock';
create function pg_catalog.now() returns timestamptz language sql stable
    as 'select timestamptz ''epoch'' + last_value * interval ''1 microsecond'' from {SCHEMA}.clock';
"""
SET = f"select pg_catalog.setval('{SCHEMA}.clock', $1::bigint)"


def install(connection: Connection) -> None:
    """Install the clock. Only later connections use it."""
    connection.execute_simple(DEFINE)
    for table, column in connection.run(DEFAULTS):
        connection.run(f"alter table {table} alter column {column} set default clock_timestamp()")


class Clock:
    """The time, in seconds since 1970. :meth:`sync` takes it to the database, before a statement."""

    def __init__(self, connection: Connection, now: float) -> None:
        self.now = now
        self._connection = connection
        self._synced = 0.0

    def sync(self) -> None:
        if self._synced != self.now:
            self._connection.run(SET, round(self.now * 1_000_000))
            self._synced = self.now


class _Time:
    """The module ``time``, with another clock."""

    def __init__(self, seconds: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self.time = self.monotonic = self.perf_counter = seconds
        self.sleep = sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class _Is(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime)


@contextmanager
def virtual(seconds: Callable[[], float], sleep: Callable[[float], None]) -> Iterator[None]:
    """Let the library's modules read their time from ``seconds``, and wait by ``sleep``."""

    class Moment(datetime, metaclass=_Is):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(seconds(), tz or UTC)

    module = _Time(seconds, sleep)
    patches: list[Any] = []
    for name, each in list(sys.modules.items()):
        if name.startswith("joblane.") and not name.startswith("joblane.local."):
            if getattr(each, "time", None) is time:
                patches.append(patch.object(each, "time", module))
            if getattr(each, "datetime", None) is datetime:
                patches.append(patch.object(each, "datetime", Moment))
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()
