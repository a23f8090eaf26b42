"""Checks of the database's limits, as far as it knows them itself: connections, long statements, storage, dead rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from joblane.inspector.durations import lasting
from joblane.inspector.scope import Scope
from joblane.inspector.sentences.counts import first_of, plural
from joblane.inspector.views import Check, Grade

FULL_PERCENT = 80
"""Connections in use, in percent of ``max_connections``: the default of the alarm, and the bound of this check."""
LONG_STATEMENT = timedelta(minutes=5)
"""Longer than any statement of the library."""
MANY_DEAD = 100_000
"""With fewer dead rows a table is not worth a look."""
MOST_NAMED = 3
GB = 1024**3

# The state of another role's session is null without the rights of pg_read_all_stats.
SESSIONS = """
select current_setting('max_connections')::int, usename, coalesce(application_name, ''), coalesce(state, 'unknown'),
       count(*), extract(epoch from max(clock_timestamp() - state_change))::float8
  from pg_stat_activity where usename is not null
 group by 2, 3, 4 order by 5 desc, 2, 3, 4
"""
LONG = f"""
select pid, usename, coalesce(application_name, ''), extract(epoch from clock_timestamp() - query_start)::float8
  from pg_stat_activity
 where backend_type = 'client backend' and state = 'active' and pid <> pg_backend_pid()
   and query_start < clock_timestamp() - interval '{LONG_STATEMENT.total_seconds():g} s'
 order by query_start limit 100
"""
TABLES = """
select relname, coalesce(n_dead_tup, 0), coalesce(n_live_tup, 0), coalesce(pg_total_relation_size(relid), 0)
  from pg_stat_user_tables where schemaname = 'joblane' order by 4 desc, 1
"""


def sessions(scope: Scope) -> Iterator[Check]:
    """Connections are free, and no statement runs for long. A role may not see more than the users of the sessions."""
    rows = scope.connection.run(SESSIONS)
    used, most = sum(row[4] for row in rows), rows[0][0]
    if used * 100 >= most * FULL_PERCENT:
        named = [_named(*row[1:]) for row in rows]
        found = f"{used:,} of {most:,} connections are in use: {first_of(named, MOST_NAMED)}"
        do = "close connections of other programs, lower `concurrency_budget`, or raise `max_connections`"
        yield Check(Grade.BAD, "connections", found, do)
    statements = scope.connection.run(LONG)
    for pid, user, application, seconds in statements[:1]:
        more = f", and {plural(len(statements) - 1, 'other statement')}" if statements[1:] else ""
        found = f"a statement of {_who(user, application)} has run for {lasting(timedelta(seconds=seconds))}{more}"
        yield Check(Grade.WARNING, "statements", found, f"if not needed, `select pg_cancel_backend({pid})` ends it")
    yield Check(Grade.GOOD, "connections", f"{used:,} of {most:,} connections are in use")


def storage(scope: Scope) -> Iterator[Check]:
    """Name the largest tables, and those that have more dead rows than live ones."""
    rows = scope.connection.run(TABLES)
    for table, dead, live, _ in rows:
        if dead >= MANY_DEAD and dead > live:
            found = f"{dead:,} dead rows and {live:,} live ones, which take storage and slow statements down"
            do = f"check that autovacuum runs, and for old snapshots; `vacuum (analyze) joblane.{table}` removes them"
            yield Check(Grade.WARNING, f"table {table}", found, do)
    [[size]] = scope.connection.run("select pg_database_size(current_database())")
    largest = first_of([f"{table} {its / GB:,.1f} GB" for table, _, _, its in rows if its >= GB / 10], MOST_NAMED)
    yield Check(Grade.GOOD, "storage", f"the database has {size / GB:,.1f} GB" + (f": {largest}" if largest else ""))


def _named(user: str, application: str, state: str, number: int, seconds: float | None) -> str:
    since = "" if seconds is None else f", the oldest for {lasting(timedelta(seconds=seconds))}"
    return f"{number:,} of {_who(user, application)} {state}{since}"


def _who(user: str, application: str) -> str:
    return f"{user} ({application})" if application else user
