"""The runs of a period, and their estimated cost: see :mod:`joblane.worker.run_log`."""

from __future__ import annotations

from datetime import timedelta

from joblane.inspector.durations import written
from joblane.inspector.errors import SelectionError
from joblane.inspector.scope import Scope
from joblane.inspector.views import Statistic

SHORTEST, LONGEST = timedelta(minutes=1), timedelta(days=30)
COLUMNS = ("type", "tenant")

# now(), and not clock_timestamp(), which is volatile: a volatile value cannot be searched in the index on started_at.
STATISTICS = """
select coalesce(a.{column}, ''), count(*),
       count(*) filter (where a.outcome = 'completed'),
       count(*) filter (where a.outcome in ('failed', 'timeout')),
       count(*) filter (where a.outcome = 'archived'),
       count(*) filter (where a.outcome = 'lost'),
       round(avg(a.wait_ms))::bigint, round(avg(a.duration_ms))::bigint, max(a.duration_ms)::bigint,
       coalesce(sum(a.cost_usd), 0)::float8 as cost
  from joblane.task_attempts a
 where a.started_at >= now() - make_interval(secs => $1::float8)
 group by 1
 order by cost desc, 2 desc, 1
"""


def statistics(scope: Scope, within: timedelta, by: str) -> tuple[Statistic, ...]:
    """The most expensive first. The key is empty for tasks without a tenant, and for runs without a recorded type.

    Raises :class:`SelectionError`.
    """
    if not isinstance(within, timedelta) or not SHORTEST <= within <= LONGEST:
        given = written(within) if isinstance(within, timedelta) else repr(within)
        raise SelectionError("within", f"{written(SHORTEST)} to {written(LONGEST)} is required, not {given}")
    if by not in COLUMNS:
        raise SelectionError("by", f"{' or '.join(COLUMNS)} is required, not {by!r}")
    rows = scope.connection.run(STATISTICS.format(column=by), str(within.total_seconds()))
    return tuple(Statistic(*row) for row in rows)
