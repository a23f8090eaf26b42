"""The tasks that wait for limits, counted for the metrics: by limit, never by key."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from joblane.record.driver.connection import Connection

PAGE = 10_000
"""The most rows that one statement reads."""
READ = f"""
with page as materialized (
  select waits_for, place, seq, type, due_at, state from joblane.tasks
   where wait_kind = 'limit' and (waits_for, place, seq) > ($1, $2::float8, $3::bigint)
   order by waits_for, place, seq limit {PAGE}
),
held as (
  select case when strpos(waits_for, '/') > 0 then split_part(waits_for, '/', 1) || '/' else waits_for end as name,
         type, count(*) as number,
         max(extract(epoch from clock_timestamp()) - extract(epoch from due_at))::float8 as oldest
    from page where state = 'held' group by 1, 2
)
select (select pg_catalog.json_agg(pg_catalog.json_build_array(name, type, number, oldest)) from held),
       last.waits_for, last.place, last.seq, (select count(*) from page)
  from (select * from page order by waits_for desc, place desc, seq desc limit 1) as last
"""


@dataclass(slots=True)
class HeldCounts:
    """Held tasks. ``by_limit``: by the declared name of the limit for which they wait, ``type/`` for those of its keys.

    ``oldest``: by the same names, the seconds since the earliest due time.
    """

    by_limit: Counter[str] = field(default_factory=Counter)
    by_type: Counter[str] = field(default_factory=Counter)
    oldest: dict[str, float] = field(default_factory=dict)


def held_counts(connection: Connection, *, may_continue: Callable[[], bool] = lambda: True) -> HeldCounts:
    """Count the held tasks in pages, until all are counted or ``may_continue()`` is false."""
    counts, position = HeldCounts(), ("", -math.inf, 0)
    while may_continue() and (rows := connection.run(READ, *position)):
        found, *last, number = rows[0]
        for name, type_, held, oldest in found or ():
            counts.by_limit[name] += held
            counts.by_type[type_] += held
            counts.oldest[name] = max(counts.oldest.get(name, 0.0), oldest)
        if number < PAGE:
            break
        position = tuple(last)
    return counts
