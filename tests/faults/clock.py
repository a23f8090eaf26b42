"""A clock that can be moved forward for the database and the queues, but not for the processes, as if they were frozen.

PostgreSQL's own functions get other names, so that functions of the old names can be created in their schema.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

RENAME = """
alter function pg_catalog.now() rename to real_now;
alter function pg_catalog.clock_timestamp() rename to real_clock_timestamp;
"""
DEFAULTS = """
select c.oid::regclass::text, a.attname from pg_attrdef d
  join pg_class c on c.oid = d.adrelid join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
 where c.relnamespace = 'joblane'::regnamespace and pg_get_expr(d.adbin, d.adrelid) ~ '(now|clock_timestamp)\\(\\)'
"""


class Clock:
    """The clock. ``run``: executes SQL, and may raise."""

    def __init__(self, run: Callable[..., list[list[Any]]]) -> None:
        self._run = run
        self.ahead = 0.0

    def install(self) -> None:
        """Install the clock. Only later connections use it."""
        self._run(f"do $do$ begin {RENAME} end $do$")
        self._define(0)
        for table, column in self._run(DEFAULTS):
            self._run(f"alter table {table} alter column {column} set default clock_timestamp()")

    def now(self) -> float:
        """Return the seconds since 1970."""
        return time.time() + self.ahead

    def move_forward(self, seconds: float) -> None:
        self._define(self.ahead + seconds)
        self.ahead += seconds

    def _define(self, ahead: float) -> None:
        """Replace both functions in one statement: between two, a claim would record a start before its due time."""
        functions = "; ".join(
            f"create or replace function pg_catalog.{name}() returns timestamptz language sql {volatility}"
            f" as 'select pg_catalog.real_{name}() + interval ''{ahead:.3f} s'''"
            for name, volatility in (("now", "stable"), ("clock_timestamp", "volatile"))
        )
        self._run(f"do $do$ begin {functions}; end $do$")
