"""Time in a test: the clock does not move; instead, the times in the database become older.

To travel three days, the kit subtracts three days from every time in the database, the library's and the application's.
Code that compares such a time with the current time, in SQL or in Python, then behaves as it would three days later. A
copy of a time, for example in JSON or in a key, does not change.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from unittest import mock

from pg8000.exceptions import Error as PostgresError

from joblane.errors import sqlstate, text_of
from joblane.record import schedules
from joblane.record.driver.connection import LOCK_NOT_AVAILABLE, UNIQUE_VIOLATION, Connection
from joblane.testing.errors import KitError

CONSTRAINTS = ("23503", "23514", "23P01")
"""SQLSTATEs of a foreign key, a check and an exclusion. Source: PostgreSQL, appendix A, class 23."""
FINEST = timedelta(milliseconds=1)
WHOLE_SECOND = timedelta(seconds=1, milliseconds=10)
"""A message may be due this much later than its row: SQS's delays are rounded up to seconds, and clocks differ."""

TIMES = """
select quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relname::text, quote_ident(a.attname),
       exists (select from pg_trigger g where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled = 'O')
  from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
 where c.relkind in ('r', 'p') and not c.relispartition and n.nspname not in ('pg_catalog', 'information_schema')
   and n.nspname not like 'pg\\_t%' and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
   and a.atttypid in ('timestamptz'::regtype, 'timestamp'::regtype)
   and (n.nspname, c.relname, a.attname) <> ('joblane', 'schedules', 'passed_until')
 order by 1, 3
"""
"""Every column with times: qualified name of the table, its plain name, the column, and true if the table has
triggers. ``passed_until`` is compared with the times in the ids of ticks, which do not change either."""


class Clock:
    """The time of a test, and how far it has travelled.

    ``seconds()``: the time in seconds since 1970, for the queues.
    """

    def __init__(self) -> None:
        self.travelled = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.travelled

    def seconds(self) -> float:
        return time.time() + self.travelled.total_seconds()

    def by_schedules(self, moment: datetime) -> datetime:
        """Return a time of the database by the clock of the test. Travels have changed it step by step, not exactly."""
        moment = moment.astimezone(UTC) + self.travelled
        near = (moment + timedelta(milliseconds=5)).replace(second=0, microsecond=0)
        return near if self.travelled and abs(near - moment) < timedelta(milliseconds=5) else moment

    def by_database(self, moment: datetime) -> datetime:
        return moment - self.travelled

    def of_schedules(self) -> AbstractContextManager[object]:
        """Let the schedules of the block follow this clock."""
        return mock.patch.multiple(schedules, by_schedules=self.by_schedules, by_database=self.by_database)


def age(connection: Connection, by: timedelta, ageless: Collection[str]) -> None:
    """Subtract ``by`` from every time in the database, except in the tables of ``ageless``, in one transaction.

    Raises :class:`KitError`.
    """
    tables: defaultdict[tuple[str, bool], list[str]] = defaultdict(list)
    for table, name, column, has_trigger in connection.run(TIMES):
        if name not in ageless:
            tables[table, has_trigger].append(column)
    table = ""
    connection.run("begin")
    try:
        connection.run("set local lock_timeout = '3s'")
        for (table, has_trigger), columns in tables.items():
            if has_trigger:  # a trigger that sets `updated_at` would undo the change
                connection.run(f"alter table {table} disable trigger user")
            changes = ", ".join(f"{column} = {column} - $1::float8 * interval '1 second'" for column in columns)
            connection.run(f"update {table} set {changes}", str(by.total_seconds()))
            if has_trigger:
                connection.run(f"alter table {table} enable trigger user")
        connection.run("commit")
    except PostgresError as error:
        connection.run("rollback")
        raise KitError(f"the times of the table {table} cannot be changed: {_advice(error, table)}") from error


def _advice(error: PostgresError, table: str) -> str:
    name = table.rpartition(".")[2].strip('"')
    exclude = f"exclude the table: jobs.ageless.add({name!r})"
    match sqlstate(error):
        case code if code == LOCK_NOT_AVAILABLE:
            return "a transaction of the test has locked its rows; commit or close that session before you travel"
        case code if code == UNIQUE_VIOLATION:
            return f"its times are unique, and two of them became equal during the change; {exclude}"
        case code if code in CONSTRAINTS:
            return f"a constraint covers its times; {exclude}, and the tables that share the times ({text_of(error)})"
        case _:
            return text_of(error)
