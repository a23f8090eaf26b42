"""Tenants now: who has many tasks waiting, who waits long, and whose runs of the last hour fail."""

from __future__ import annotations

from joblane.inspector.filter import PauseScope
from joblane.inspector.scope import Scope
from joblane.inspector.stage import pauses
from joblane.inspector.stage.overview import LIVE_TASKS
from joblane.inspector.tasks.filter_sql import BOUND, LARGEST_PAGE, check_number, reading
from joblane.inspector.views import TenantRow
from joblane.record.run_statistics import FAILED_OUTCOMES

MINUTES = 60

TENANTS = f"""
with {LIVE_TASKS},
waiting as (
  select coalesce(tenant, '') as tenant,
         count(*) filter (where state in ('pending', 'retry', 'scheduled') and due_at <= clock_timestamp()) as due,
         count(*) filter (where state = 'held') as held, count(*) filter (where state = 'active') as active,
         count(*) filter (where state in ('pending', 'retry', 'scheduled') and due_at > clock_timestamp()) as later,
         (extract(epoch from clock_timestamp()) - extract(epoch from min(due_at) filter (
            where state in ('pending', 'retry', 'scheduled') and due_at <= clock_timestamp())))::float8 as oldest
    from live group by 1
),
runs as (
  select coalesce(tenant, '') as tenant, count(*) as started,
         count(*) filter (where outcome in {FAILED_OUTCOMES}) as failed
    from joblane.task_attempts where started_at >= now() - interval '{MINUTES} min' group by 1
)
select tenant, coalesce(due, 0), coalesce(held, 0), coalesce(active, 0), coalesce(later, 0), oldest,
       coalesce(started, 0), coalesce(failed, 0)
  from waiting full join runs using (tenant)
 order by 2 desc, 3 desc, 7 desc, 1 limit $2::int
"""


def tenants(scope: Scope, limit: int) -> tuple[TenantRow, ...]:
    """Those with the most due tasks first."""
    check_number("limit", limit, LARGEST_PAGE)
    with reading(scope.connection) as connection:
        paused = {pause.name: pause for pause in pauses.current(connection) if pause.scope is PauseScope.TENANT}
        rows = connection.run(TENANTS, str(BOUND), str(limit))
    return tuple(
        TenantRow(tenant, due, held, active, later, oldest, started, failed, paused.get(tenant))
        for tenant, due, held, active, later, oldest, started, failed in rows
    )
