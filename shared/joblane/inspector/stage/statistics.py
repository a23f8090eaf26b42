"""The runs of a period, and their estimated cost: see :mod:`joblane.worker.run_log`.

The runs of more than a day are those of whole hours, which the sweep has added up, and of the time since. So no
statement reads the runs of weeks.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any

from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import STATISTICS_BY
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import check_within
from joblane.inspector.views import Statistic
from joblane.record.run_statistics import LATEST_END

EACH_RUN = timedelta(days=1)
"""Up to here each run is read."""

# now(), and not clock_timestamp(), which is volatile: a volatile value cannot be searched in the index on started_at.
STATISTICS = """
select coalesce(a.{column}, ''), count(*),
       count(*) filter (where a.outcome = 'completed'),
       count(*) filter (where a.outcome in ('failed', 'timeout')),
       count(*) filter (where a.outcome = 'archived'),
       count(*) filter (where a.outcome = 'lost'),
       count(a.wait_ms), coalesce(sum(a.wait_ms), 0)::bigint,
       count(a.duration_ms), coalesce(sum(a.duration_ms), 0)::bigint, max(a.duration_ms)::bigint,
       coalesce(sum(a.cost_usd), 0)::float8
  from joblane.task_attempts a
 where a.started_at >= now() - make_interval(secs => $1::float8)
   and ($2::timestamptz is null or a.finished_at is null or a.finished_at >= $2::timestamptz)
 group by 1
"""
"""The runs that started within $1 seconds and, unless $2 is null, have not ended before $2."""
_SUMS = """sum(completed + failed + archived + lost + others)::bigint as runs, sum(completed)::bigint as completed,
       sum(failed)::bigint as failed, sum(archived)::bigint as archived, sum(lost)::bigint as lost,
       sum(completed + failed + archived + lost + others)::bigint as waits, sum(wait_ms)::bigint as wait_ms,
       sum(completed + failed + archived)::bigint as durations, sum(duration_ms)::bigint as duration_ms,
       max(longest_ms)::bigint as longest_ms, sum(cost_usd)::float8 as cost_usd"""
HOURS = {
    "tenant": f"""
select name, {_SUMS} from joblane.run_statistics
 where kind = 'tenant' and seconds = 3600 and at >= $1::timestamptz and at < $2::timestamptz group by name
""",
    # The minutes of a type lie between its hours and those of the next type.
    "type": f"""
with recursive names as (
  (select name from joblane.run_statistics where kind = 'type' order by name limit 1)
  union all
  (select (select s.name from joblane.run_statistics s where s.kind = 'type' and s.name > n.name
            order by s.name limit 1)
     from names n where n.name is not null)
)
select n.name, x.* from names n,
       lateral (select {_SUMS} from joblane.run_statistics
                 where kind = 'type' and name = n.name and seconds = 3600
                   and at >= $1::timestamptz and at < $2::timestamptz) as x
 where n.name is not null and x.runs is not null
""",
}
"""The runs of whole hours, from $1 until $2."""
UNTIL = "select clock_timestamp(), date_trunc('hour', until, 'UTC') from joblane.run_statistics_until"


def statistics(scope: Scope, within: timedelta, by: str) -> tuple[Statistic, ...]:
    """The most expensive first. The key is empty for tasks without a tenant, and for runs without a recorded type.

    Raises :class:`SelectionError`.
    """
    check_within(within)
    if by not in STATISTICS_BY:
        raise SelectionError("by", f"{' or '.join(STATISTICS_BY)} is required, not {by!r}")
    rows, hour = list[list[Any]](), None
    if within > EACH_RUN:
        now: datetime
        [[now, until]] = scope.connection.run(UNTIL)
        since = (now - within).replace(minute=0, second=0, microsecond=0)
        if until is not None and until > since:
            rows, within, hour = scope.connection.run(HOURS[by], since, until), now - until + LATEST_END, until
    rows += scope.connection.run(STATISTICS.format(column=by), str(within.total_seconds()), hour)
    by_key: defaultdict[str, list[list[Any]]] = defaultdict(list)
    for key, *numbers in rows:
        by_key[key].append(numbers)
    found = [_statistic(key, parts) for key, parts in by_key.items()]
    return tuple(sorted(found, key=lambda one: (-one.cost_usd, -one.started, one.key)))


def _statistic(key: str, parts: list[list[Any]]) -> Statistic:
    """The sum of the parts of a period."""
    *numbers, longest, cost = (list(column) for column in zip(*parts, strict=True))
    started, completed, retried, archived, lost, waits, wait_ms, durations, duration_ms = map(sum, numbers)
    return Statistic(
        key=key,
        started=started,
        completed=completed,
        retried=retried,
        archived=archived,
        lost=lost,
        wait_ms=round(wait_ms / waits) if waits else None,
        duration_ms=round(duration_ms / durations) if durations else None,
        longest_ms=max((each for each in longest if each is not None), default=None),
        cost_usd=sum(cost),
    )
