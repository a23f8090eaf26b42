"""Statistics of runs: the runs of the last minutes are added up, by type and queue, and each hour by tenant; then the
hours of each day."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from joblane.names import OWN_TYPES
from joblane.record.driver.connection import Connection
from joblane.record.run_statistics import ENDED_IN, OTHERS, counting

SETTLE = "2 min"
"""A run is added up this long after its end, when its transaction has committed. A run whose commit takes longer is not
counted."""
KEPT_DAYS, DAYS_KEPT = 30, 180
"""Days for which minutes and hours, and days, are kept."""
FIRST, LONGEST = timedelta(hours=1), timedelta(days=1)
"""The first sweep looks back one hour. After a pause of the sweep, the runs of one day are added up."""
AT_ONCE = timedelta(minutes=30)
MOST_TENANTS = 200
"""Tenants of an hour or a day that have a row of their own: those with the most runs."""

SUMS = "wait_ms, duration_ms, longest_ms"
COLUMNS = (
    f"kind, name, queue, seconds, at, completed, failed, archived, lost, others, cost_usd, waits, durations, {SUMS}"
)
NEXT = f"""
select u.until, date_trunc('minute', clock_timestamp() - interval '{SETTLE}', 'UTC')
  from joblane.run_statistics_until u for update skip locked
"""
MINUTES = f"""
with {counting("minute", "type", "coalesce(queue, '')")},
added as (
  insert into joblane.run_statistics ({COLUMNS})
  select 'type', name, queue, 60, at, completed, failed, archived, lost, others, cost_usd, waits, durations,
         {SUMS} from rows
  on conflict do nothing
  returning starts_with(name, '{OWN_TYPES}') as own, completed, failed, archived, lost, others, cost_usd
)
select coalesce(sum(completed + failed + archived + lost + others) filter (where not own), 0)::int,
       coalesce(sum(failed + archived + lost) filter (where not own), 0)::int, coalesce(sum(cost_usd), 0)::float8
  from added
"""
TENANTS = f"""
with largest as (
  select coalesce(tenant, '') as tenant from joblane.runs
   where {ENDED_IN}
   group by 1 order by count(*) desc, 1 limit {MOST_TENANTS}
),
{
    counting(
        "hour",
        f"case when coalesce(tenant, '') in (select tenant from largest) then coalesce(tenant, '') else '{OTHERS}' end",
        "''::text",
    )
}
insert into joblane.run_statistics ({COLUMNS})
select 'tenant', name, queue, 3600, at, completed, failed, archived, lost, others, cost_usd, waits, durations,
       {SUMS} from rows
on conflict do nothing
"""


def _sum(column: str) -> str:
    return f"""
       coalesce((select array_agg(array[bucket, number] order by bucket)
          from (select s.{column}[i][1] as bucket, sum(s.{column}[i][2])::int as number
                  from minutes s, generate_subscripts(s.{column}, 1) as i
                 where s.name = m.name and s.queue = m.queue group by 1) as b), '{{}}')"""


HOURS = f"""
with minutes as (
  select * from joblane.run_statistics
   where kind = 'type' and seconds = 60 and at >= $1::timestamptz and at < $2::timestamptz
)
insert into joblane.run_statistics ({COLUMNS})
select 'type', m.name, m.queue, 3600, $1::timestamptz, sum(completed), sum(failed), sum(archived), sum(lost),
       sum(others), sum(cost_usd), {_sum("waits")}, {_sum("durations")},
       sum(wait_ms), sum(duration_ms), max(longest_ms)
  from minutes m group by m.name, m.queue
on conflict do nothing
"""
RUNS = "completed + failed + archived + lost + others"


def _of_day(column: str) -> str:
    return f"""
  select kind, name, queue, array_agg(array[bucket, number] order by bucket) as {column}
    from (select kind, name, queue, {column}[i][1] as bucket, sum({column}[i][2])::int as number
            from hours, generate_subscripts({column}, 1) as i group by 1, 2, 3, 4) as buckets
   group by 1, 2, 3"""


DAY = f"""
with largest as (
  select name from joblane.run_statistics
   where kind = 'tenant' and seconds = 3600 and name <> '{OTHERS}' and at >= $1::timestamptz and at < $2::timestamptz
   group by name order by sum({RUNS}) desc, name limit {MOST_TENANTS}
),
hours as (
  select kind, case when kind = 'type' or name in (select name from largest) then name else '{OTHERS}' end as name,
         queue, completed, failed, archived, lost, others, cost_usd, waits, durations, {SUMS}
    from joblane.run_statistics where seconds = 3600 and at >= $1::timestamptz and at < $2::timestamptz
),
waits as ({_of_day("waits")}),
durations as ({_of_day("durations")}),
sums as (
  select kind, name, queue, sum(completed) as completed, sum(failed) as failed, sum(archived) as archived,
         sum(lost) as lost, sum(others) as others, sum(cost_usd) as cost_usd, sum(wait_ms) as wait_ms,
         sum(duration_ms) as duration_ms, max(longest_ms) as longest_ms
    from hours group by kind, name, queue
)
insert into joblane.run_statistics ({COLUMNS})
select kind, name, queue, 86400, $1::timestamptz, completed, failed, archived, lost, others, cost_usd,
       coalesce(waits, '{{}}'), coalesce(durations, '{{}}'), {SUMS}
  from sums left join waits using (kind, name, queue) left join durations using (kind, name, queue)
on conflict do nothing
"""
MARK = "update joblane.run_statistics_until set until = $1::timestamptz"
REMOVE = f"""
delete from joblane.run_statistics
 where at < now() - interval '{KEPT_DAYS} days' and (seconds < 86400 or at < now() - interval '{DAYS_KEPT} days')
"""


@dataclass(slots=True)
class AddedUp:
    """The runs of some minutes. ``runs``: of the application's types; ``failed``: of these. ``cost_usd``: of all."""

    minutes: int = 0
    runs: int = 0
    failed: int = 0
    cost_usd: float = 0.0


def add_up(connection: Connection, *, may_continue: Callable[[], bool]) -> AddedUp:
    """Add up the runs that have ended since the last call, and remove old statistics.

    Each minute is added up once: two sweeps at once do not do it both, and a sweep that is killed has done nothing.
    """
    total = AddedUp()
    while may_continue():
        connection.execute_simple("begin")
        try:
            done = _step(connection, total)
            connection.commit()
        except BaseException:
            if connection.usable:
                connection.rollback()
            raise
        if not done:
            break
    return total


def _step(connection: Connection, total: AddedUp) -> bool:
    rows = connection.run(NEXT)
    if not rows:  # another sweep does it
        return False
    [[until, now]] = rows
    start: datetime = now - FIRST if until is None else max(until, now - LONGEST)
    end: datetime = min(now, start + AT_ONCE)
    if end <= start:
        return False
    [[runs, failed, cost_usd]] = connection.run(MINUTES, start, end)
    hour = end.replace(minute=0)
    if start < hour:  # an hour has ended
        connection.run(HOURS, hour - timedelta(hours=1), hour)
        connection.run(TENANTS, hour - timedelta(hours=1), hour)
        if start < (day := hour.replace(hour=0)):  # and with it a day
            connection.run(DAY, day - timedelta(days=1), day)
        connection.run(REMOVE)
    connection.run(MARK, end)
    total.minutes += round((end - start) / timedelta(minutes=1))
    total.runs, total.failed, total.cost_usd = total.runs + runs, total.failed + failed, total.cost_usd + cost_usd
    return True
