"""Statistics of runs by minute and hour: numbers by outcome, and histograms of waits and durations.

A histogram is a list of pairs: a bucket, and the number of runs in it. Bucket 0 is for 0 ms. Bucket n is for times of
2 ^ ((n - 1) / 4) up to 2 ^ (n / 4) ms, so a percentile that is read from it is within 10 % of the true one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta

PER_OCTAVE = 4
"""Buckets for each doubling of the time."""
LATEST_END = timedelta(hours=3)
"""A run is counted if it ends at most this long after its start. A run that is found lost later is not counted."""
FAILED_OUTCOMES = "('failed', 'timeout', 'archived', 'lost')"
"""The outcomes of runs that failed, for SQL's ``in``."""
TIMED_OUTCOMES = "('completed', 'failed', 'timeout', 'archived')"
"""The outcomes of runs whose durations are counted, for SQL's ``in``."""
ENDED_IN = f"""started_at >= $1::timestamptz - interval '{LATEST_END.total_seconds():g} s'
     and finished_at >= $1::timestamptz and finished_at < $2::timestamptz"""
"""The condition of the runs that ended from $1 on and before $2."""
OTHERS = "*"
"""The name for all tenants without a row of their own."""


def _bucket(column: str) -> str:
    return f"case when {column} < 1 then 0 else floor(log(2, {column}) * {PER_OCTAVE})::int + 1 end"


def bucket_of(column: str) -> str:
    """Return an expression for the bucket of a column of milliseconds, null for null.

    It uses floating point, which is fast, and can be a bucket off at the limit of two.
    """
    return (
        f"case when {column} < 1 then 0"
        f" when {column} is not null then floor(ln({column}::float8) / ln(2::float8) * {PER_OCTAVE})::int + 1 end"
    )


def counting(step: str, name: str, queue: str, condition: str = "true") -> str:
    """Return the common table expressions, up to ``rows``, that count the runs that ended from $1 on and before $2.

    ``step``: ``minute`` or ``hour``. ``name``, ``queue``: expressions over ``runs`` by which the rows are
    grouped. ``condition``: of the runs.
    """
    keys = "at, name, queue"
    return f"""
ended as (
  select date_trunc('{step}', finished_at, 'UTC') as at, {name} as name, {queue} as queue, outcome, cost_usd, wait_ms,
         case when outcome in {TIMED_OUTCOMES} then duration_ms end as duration_ms,
         case when wait_ms is not null then {_bucket("wait_ms::numeric")} end as wait,
         case when outcome in {TIMED_OUTCOMES} and duration_ms is not null
              then {_bucket("duration_ms::numeric")} end as duration
    from joblane.runs
   where {ENDED_IN} and type is not null and {condition}
),
waits as ({_histogram("wait", keys)}),
durations as ({_histogram("duration", keys)}),
counted as (
  select {keys}, count(*) filter (where outcome = 'completed') as completed,
         count(*) filter (where outcome in ('failed', 'timeout')) as failed,
         count(*) filter (where outcome = 'archived') as archived, count(*) filter (where outcome = 'lost') as lost,
         count(*) filter (where outcome not in ('completed', 'failed', 'timeout', 'archived', 'lost')) as others,
         coalesce(sum(cost_usd), 0)::float8 as cost_usd, coalesce(sum(wait_ms), 0)::bigint as wait_ms,
         coalesce(sum(duration_ms), 0)::bigint as duration_ms, max(duration_ms) as longest_ms
    from ended group by {keys}
),
rows as (
  select {keys}, completed, failed, archived, lost, others, cost_usd, coalesce(wait, '{{}}') as waits,
         coalesce(duration, '{{}}') as durations, wait_ms, duration_ms, longest_ms
    from counted left join waits using ({keys}) left join durations using ({keys})
)"""


def _histogram(column: str, keys: str) -> str:
    return f"""
  select {keys}, array_agg(array[{column}, number] order by {column}) as {column}
    from (select {keys}, {column}, count(*)::int as number from ended where {column} is not null
           group by {keys}, {column}) as buckets
   group by {keys}"""


def merged(histograms: Iterable[Sequence[Sequence[int]]]) -> Counter[int]:
    """Return the sum of histograms: bucket → number of runs."""
    total: Counter[int] = Counter()
    for histogram in histograms:
        for bucket, number in histogram:
            total[bucket] += number
    return total


def percentile(histogram: Counter[int], share: float) -> float | None:
    """Return the time in milliseconds below which ``share`` of the runs are. None: there are no runs."""
    left = math.ceil(histogram.total() * share)
    for bucket in sorted(histogram):
        left -= histogram[bucket]
        if left <= 0:
            return time_of(bucket)
    return None


def time_of(bucket: int) -> float:
    """Return the time in milliseconds in the middle of a bucket."""
    return 0.0 if bucket == 0 else 2.0 ** ((bucket - 0.5) / PER_OCTAVE)
