"""A tenant now: its live tasks and the runs of the last hour, by type."""

from __future__ import annotations

from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.scope import Scope
from joblane.inspector.stage import pauses
from joblane.inspector.stage.glance import LIVE_TASKS
from joblane.inspector.stage.overview import TENANT_MINUTES
from joblane.inspector.tasks.filter_sql import BOUND, LARGEST_PAGE, reading
from joblane.inspector.views import TenantType, TenantView
from joblane.record.run_statistics import FAILED_OUTCOMES

TENANT = f"""
with {LIVE_TASKS},
waiting as (
  select type,
         count(*) filter (where state in ('pending', 'retry', 'scheduled') and due_at <= clock_timestamp()) as due,
         count(*) filter (where state = 'held') as held, count(*) filter (where state = 'active') as active,
         count(*) filter (where state = 'retry') as retry,
         count(*) filter (where state in ('pending', 'retry', 'scheduled') and due_at > clock_timestamp()) as later,
         (extract(epoch from clock_timestamp()) - extract(epoch from min(due_at) filter (
            where state in ('pending', 'retry', 'scheduled') and due_at <= clock_timestamp())))::float8 as oldest
    from live where coalesce(tenant, '') = $2 group by 1
),
runs as (
  select coalesce(type, '') as type, count(*) as started,
         count(*) filter (where outcome in {FAILED_OUTCOMES}) as failed, avg(wait_ms)::bigint as wait_ms
    from joblane.runs
   where started_at >= now() - interval '{TENANT_MINUTES} min' and coalesce(tenant, '') = $2 group by 1
)
select type, coalesce(due, 0), coalesce(held, 0), coalesce(active, 0), coalesce(retry, 0), coalesce(later, 0), oldest,
       coalesce(started, 0), coalesce(failed, 0), wait_ms
  from waiting full join runs using (type)
 order by coalesce(failed, 0) + coalesce(due, 0) + coalesce(held, 0) desc, coalesce(started, 0) desc, type
 limit {LARGEST_PAGE}
"""


def tenant(scope: Scope, name: str) -> TenantView:
    """Raises :class:`SelectionError`."""
    if not isinstance(name, str) or "\0" in name:
        raise SelectionError("name", "a string without NUL is required")
    with reading(scope.connection) as connection:
        found = [one for one in pauses.current(connection) if (one.scope, one.name) == (PauseScope.TENANT, name)]
        rows = connection.run(TENANT, str(BOUND), name)
    return TenantView(name, tuple(TenantType(*row) for row in rows), next(iter(found), None))
