"""Time in a test: the clock stands, and the world grows older.

Travelling three days takes three days off every time in the database, the library's and the application's. Whatever
compares such a time with now, in SQL or in Python, then finds what it would have found three days later. A time that
was copied out of a column, into JSON or a key, stays as it was written.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from pg8000.exceptions import Error as PostgresError

from joblane.errors import sqlstate, text_of
from joblane.record.connection import LOCK_NOT_AVAILABLE, UNIQUE_VIOLATION, Connection
from joblane.testing.errors import KitError

BOUND = ("23503", "23514", "23P01")
"""A foreign key, a check, an exclusion. Source: PostgreSQL, appendix A, class 23."""
FINEST = timedelta(milliseconds=1)
WHOLE_SECOND = timedelta(seconds=1, milliseconds=10)
"""How much later than its row a message is due: SQS's delays are whole seconds, rounded up. And what clocks differ."""

TIMES = """
select quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relname::text, quote_ident(a.attname),
       exists (select from pg_trigger g where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled = 'O')
  from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
 where c.relkind in ('r', 'p') and not c.relispartition and n.nspname not in ('pg_catalog', 'information_schema')
   and n.nspname not like 'pg\\_t%' and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
   and a.atttypid in ('timestamptz'::regtype, 'timestamp'::regtype)
 order by 1, 3
"""
"""Every column that holds a moment: table as SQL names it, its bare name, column, whether triggers watch the table."""


class Clock:
    """How far a test has travelled. ``now()``: where it is, aware; for the queues in seconds since 1970."""

    def __init__(self) -> None:
        self.travelled = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.travelled

    def seconds(self) -> float:
        return time.time() + self.travelled.total_seconds()


def age(connection: Connection, by: timedelta, ageless: Collection[str]) -> None:
    """Take ``by`` off every time in the database, but for the tables named in ``ageless``. All of it or nothing.

    Raises :class:`KitError`.
    """
    tables: defaultdict[tuple[str, bool], list[str]] = defaultdict(list)
    for table, name, column, watched in connection.run(TIMES):
        if name not in ageless:
            tables[table, watched].append(column)
    table = ""
    connection.run("begin")
    try:
        connection.run("set local lock_timeout = '3s'")
        for (table, watched), columns in tables.items():
            if watched:  # a trigger that keeps `updated_at` would undo it
                connection.run(f"alter table {table} disable trigger user")
            moves = ", ".join(f"{column} = {column} - $1::float8 * interval '1 second'" for column in columns)
            connection.run(f"update {table} set {moves}", str(by.total_seconds()))
            if watched:
                connection.run(f"alter table {table} enable trigger user")
        connection.run("commit")
    except PostgresError as error:
        connection.run("rollback")
        raise KitError(f"time could not pass for the table {table}: {_advice(error, table)}") from error


def _advice(error: PostgresError, table: str) -> str:
    name = table.rpartition(".")[2].strip('"')
    leave_out = f"leave it out: jobs.ageless.add({name!r})"
    match sqlstate(error):
        case code if code == LOCK_NOT_AVAILABLE:
            return "a transaction of the test holds its rows; commit or close that session before you travel"
        case code if code == UNIQUE_VIOLATION:
            return f"its times are unique, and two met on the way; {leave_out}"
        case code if code in BOUND:
            told = text_of(error)
            return f"its times are bound by a constraint; {leave_out}, and the tables it shares them with ({told})"
        case _:
            return text_of(error)
