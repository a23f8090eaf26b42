"""The causes of failures: each error of a type once, with the times and versions of its first and last failed run.

Inspectors count the failed runs themselves. The table ``joblane.causes`` keeps what outlives the runs, and the marks of
operators. Each writer locks the rows in the order of fingerprint and type. A sweep reads the failed runs that started
since shortly before the last one that a sweep has seen, the latest :data:`MOST_RUNS` of them, and writes new causes,
causes that came back after they were resolved, and times that are an hour old.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from joblane.record.causes import MAX_SHOWN, shown
from joblane.record.driver.connection import Connection
from joblane.record.run_statistics import LATEST_END

KEPT_DAYS = 180
"""A cause is kept this long after its last failed run, unless an operator ignores it."""
MOST_CAUSES = 100_000
"""Causes that are kept: the latest. Marks of operators do not keep a cause longer."""
MOST_RUNS = 50_000
"""Failed runs that a sweep reads."""
AT_ONCE = 500
"""Causes that one statement writes."""
WITHIN = "1 hour"
"""The time of a cause's last failed run is written if it is later by this."""
EARLIEST = "timestamptz '1973-01-01 UTC'"
"""The earliest time that the table takes."""
VERSION = """(select d.version from joblane.deploys d where d.at <= {at} and d.done_at is not null
         order by d.at desc, d.number desc limit 1)"""
"""The version whose deploy had started at a time, and is done by now. Null: the deploy is not known."""

FIND = f"""
with ran as (
  select fingerprint, type, started_at, task_id from joblane.task_attempts
   where fingerprint is not null and started_at <= clock_timestamp()
     and started_at >= greatest({EARLIEST}, (select max(last_at) from joblane.causes where last_at <= clock_timestamp())
                                         - interval '{LATEST_END.total_seconds():g} s')
   order by started_at desc limit {MOST_RUNS}
),
seen as (
  select r.fingerprint, r.type, min(r.started_at) as first_at, max(r.started_at) as last_at, max(r.task_id) as example,
         min(r.started_at) filter (where r.started_at > c.marked_at) as again_at
    from ran r left join joblane.causes c
      on c.fingerprint = r.fingerprint and c.type = r.type and c.mark = 'resolved'
   where r.type is not null group by 1, 2
)
select s.fingerprint, s.type, a.error_type, a.message, s.first_at, s.last_at, s.again_at
  from seen s left join joblane.causes c using (fingerprint, type)
       left join lateral (
         select a.error_type, left(split_part(a.error_message, E'\\n', 1), {10 * MAX_SHOWN}) as message
           from joblane.task_attempts a
          where coalesce(c.message, '') = '' and a.task_id = s.example and a.fingerprint = s.fingerprint
          order by a.run desc limit 1) as a on true
 where c.fingerprint is null or s.last_at > c.last_at + interval '{WITHIN}' or s.again_at is not null
 order by s.last_at, s.fingerprint limit {AT_ONCE}
"""
WRITE = f"""
insert into joblane.causes as c (fingerprint, type, error_type, message, first_at, first_version, last_at, last_version,
                                 since)
select fingerprint, type, coalesce(error_type, ''), coalesce(message, ''), first_at, {VERSION.format(at="x.first_at")},
       last_at, {VERSION.format(at="x.last_at")}, first_at
  from json_to_recordset($1::json) as x(fingerprint text, type text, error_type text, message text,
                                        first_at timestamptz, last_at timestamptz, again_at timestamptz)
 order by fingerprint, type
on conflict (fingerprint, type) do update set
  message = case c.message when '' then excluded.message else c.message end,
  first_at = least(c.first_at, excluded.first_at),
  first_version = case when excluded.first_at < c.first_at then excluded.first_version else c.first_version end,
  last_at = greatest(c.last_at, excluded.last_at),
  last_version = case when excluded.last_at > c.last_at then excluded.last_version else c.last_version end
"""
REOPEN = """
with again as (
  select c.fingerprint, c.type, x.again_at
    from joblane.causes c
         join json_to_recordset($1::json) as x(fingerprint text, type text, again_at timestamptz)
         using (fingerprint, type)
   where c.mark = 'resolved' and c.marked_at < x.again_at order by c.fingerprint, c.type for no key update of c
)
update joblane.causes c
   set since = a.again_at, mark = null, marked_at = null, marked_by = null, note = null
  from again a where c.fingerprint = a.fingerprint and c.type = a.type
"""
"""A resolved cause that has come back is new again. A mark that an operator has set meanwhile stays."""
REMOVE = f"""
delete from joblane.causes where ctid = any(array(
  select ctid from joblane.causes
   where last_at < clock_timestamp() - interval '{KEPT_DAYS} days' and mark is distinct from 'ignored'
      or last_at < (select last_at from joblane.causes order by last_at desc offset {MOST_CAUSES} limit 1)
     for update skip locked))
"""


def note_causes(connection: Connection, *, may_continue: Callable[[], bool]) -> int:
    """Write the causes of the failed runs since the last call, and remove old ones. Return the number of causes."""
    number = 0
    while may_continue():
        found = connection.run(FIND)
        write_causes(connection, found)
        number += len(found)
        if len(found) < AT_ONCE:
            connection.run(REMOVE)
            break
    return number


def write_causes(connection: Connection, found: Iterable[Any]) -> None:
    """Write causes. Each: fingerprint, type, class and message of the error, times of the first and the last failed
    run, and time of the first one after the cause was resolved, or None."""
    rows = [
        {
            "fingerprint": fingerprint,
            "type": type_,
            "error_type": error_type,
            "message": shown(message or ""),
            "first_at": first_at.isoformat(),
            "last_at": last_at.isoformat(),
            "again_at": again_at and again_at.isoformat(),
        }
        for fingerprint, type_, error_type, message, first_at, last_at, again_at in found
    ]
    if rows:
        connection.run(WRITE, json.dumps(rows))
    if again := [row for row in rows if row["again_at"]]:
        connection.run(REOPEN, json.dumps(again))
