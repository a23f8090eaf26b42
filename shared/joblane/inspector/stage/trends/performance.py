"""The runs of a type or a tenant over time: throughput, failures, cost, and percentiles of waits and durations; and the
runs of all types or tenants, with their estimated cost: see :mod:`joblane.worker.run_log`.

The sweep has added up the runs by minute and hour (:mod:`joblane.sweep.run_statistics`). The runs since its last
call are added up here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from joblane.inspector.durations import ONE_DAY, ONE_HOUR
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import STATISTICS_BY, PauseScope
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import LONGEST_WITHIN, check_types, check_within
from joblane.inspector.views import Percentiles, Performance, Period, RunCounts, Statistic
from joblane.record.driver.connection import Connection
from joblane.record.run_statistics import LATEST_END, TIMED_OUTCOMES, bucket_of, counting, merged, percentile
from joblane.sweep.run_statistics import FIRST

SHORTEST = timedelta(minutes=5)
KINDS = (PauseScope.TYPE, PauseScope.TENANT)
STEPS = (
    (timedelta(hours=2), timedelta(minutes=1)),
    (timedelta(days=1), timedelta(minutes=10)),
    (timedelta(days=7), timedelta(hours=1)),
    (LONGEST_WITHIN, timedelta(hours=6)),
)
"""The longest time that is shown in periods of a length."""
BY_HOUR = ONE_HOUR
END = "infinity"
FIELDS = "at, completed, failed, archived, lost, others, cost_usd, waits, durations"


def _histograms(column: str) -> str:
    return f"""
  select at, array_agg(array[bucket, number]) as {column}
    from (select at, {column}[i][1] as bucket, sum({column}[i][2])::int as number
            from found, generate_subscripts({column}, 1) as i group by 1, 2) as buckets
   group by at"""


ADDED_UP = f"""
with found as (
  select to_timestamp(floor(extract(epoch from at) / $6::int) * $6::int) as at, completed, failed, archived, lost,
         others, cost_usd, waits, durations
    from joblane.run_statistics
   where kind = $1 and name = $2 and seconds = $3::int and at >= $4::timestamptz and at < $5::timestamptz
),
waits as ({_histograms("waits")}),
durations as ({_histograms("durations")}),
sums as (
  select at, sum(completed) as completed, sum(failed) as failed, sum(archived) as archived, sum(lost) as lost,
         sum(others) as others, sum(cost_usd) as cost_usd
    from found group by at
)
select {FIELDS.replace("waits, durations", "coalesce(waits, '{}'), coalesce(durations, '{}')")}
  from sums left join waits using (at) left join durations using (at)
"""
"""The rows of a name, added up in periods of $6 seconds."""
UNTIL = "select until, clock_timestamp() from joblane.run_statistics_until"
LATEST_COLUMNS = {PauseScope.TYPE: "coalesce(type, '')", PauseScope.TENANT: "coalesce(tenant, '')"}
"""Expressions that no index has: an index of types has all tasks of a type that have ended."""


@dataclass(slots=True)
class _Sum:
    """The runs of a period, added up while rows are read."""

    numbers: list[float] = field(default_factory=lambda: [0.0] * 6)
    waits: Counter[int] = field(default_factory=Counter)
    durations: Counter[int] = field(default_factory=Counter)

    def add(self, row: Sequence[Any]) -> None:
        *numbers, waits, durations = row
        self.numbers = [mine + theirs for mine, theirs in zip(self.numbers, numbers, strict=True)]
        self.waits.update(merged([waits]))
        self.durations.update(merged([durations]))

    def counts(self) -> RunCounts:
        completed, failed, archived, lost, others, cost = self.numbers
        return RunCounts(
            completed=int(completed),
            failed=int(failed),
            archived=int(archived),
            lost=int(lost),
            others=int(others),
            cost_usd=cost,
            wait_ms=_percentiles(self.waits),
            duration_ms=_percentiles(self.durations),
        )


def performance(scope: Scope, kind: PauseScope, name: str, within: timedelta) -> Performance:
    """Raises :class:`SelectionError`."""
    if kind not in KINDS:
        raise SelectionError("kind", f"{' or '.join(KINDS)} is required, not {str(kind)!r}")
    if not isinstance(name, str) or "\0" in name:
        raise SelectionError("name", "a text without NUL is required")
    check_within(within, SHORTEST)
    connection = scope.connection
    [[until, now]] = connection.run(UNTIL)
    step = _step(within)
    if kind is PauseScope.TENANT:
        step = max(step, BY_HOUR)
    since = floor_of(now - within, step)
    periods = {since + number * step: _Sum() for number in range(int((now - since) / step) + 1)}
    total = _Sum()
    for at, *row in _rows(connection, kind, name, step=step, since=since, until=until or now - FIRST):
        if (period := periods.get(floor_of(at, step))) is not None:
            period.add(row)
            total.add(row)
    earlier = _Sum()
    if within <= ONE_DAY:
        for _, *row in _whole(connection, kind, name, since - ONE_DAY, now - ONE_DAY):
            earlier.add(row)
    if kind is PauseScope.TYPE and not any(total.numbers):
        check_types(scope, [name])
    return Performance(
        kind=kind,
        name=name,
        at=now,
        step_seconds=round(step.total_seconds()),
        total=total.counts(),
        periods=tuple(Period(at, period.counts()) for at, period in periods.items()),
        earlier=earlier.counts() if within <= ONE_DAY else None,
    )


def counts_of_type(scope: Scope, name: str, periods: Sequence[timedelta]) -> list[RunCounts]:
    """The runs of a type in the last time of each length, as the total of :func:`performance`."""
    connection, found = scope.connection, []
    [[until, now]] = connection.run(UNTIL)
    until = until or now - FIRST
    starts = [floor_of(now - within, _step(within)) for within in periods]
    latest = list(_latest(connection, PauseScope.TYPE, name, max(until, min(starts))))
    for since in starts:
        total = _Sum()
        recent = (row for row in latest if row[0] >= since)
        for _, *row in (*_whole(connection, PauseScope.TYPE, name, since, until), *recent):
            total.add(row)
        found.append(total.counts())
    return found


def _step(within: timedelta) -> timedelta:
    return next(step for longest, step in STEPS if within <= longest)


def _whole(
    connection: Connection, kind: PauseScope, name: str, since: datetime, until: datetime
) -> Iterable[Sequence[Any]]:
    """Yield the rows of a period, which is not divided: of its whole hours, and of the minutes before and after them.

    A day of a type has 1,440 rows of minutes.
    """
    first, last = floor_of(since + BY_HOUR - timedelta.resolution, BY_HOUR), floor_of(until, BY_HOUR)
    parts = [("60", since, first), ("3600", first, last), ("60", last, until)]
    if kind is PauseScope.TENANT:
        parts = [("3600", since, until)]
    elif first >= last:
        parts = [("60", since, until)]
    length = str(round((until - since + BY_HOUR).total_seconds()))
    for seconds, start, end in parts:
        yield from connection.run(ADDED_UP, kind, name, seconds, start, end, length)


def _rows(
    connection: Connection, kind: PauseScope, name: str, *, step: timedelta, since: datetime, until: datetime
) -> Iterable[Sequence[Any]]:
    """Yield the rows of minutes or hours, and of the runs that ended after ``until``, which no sweep has added up."""
    hour, length = floor_of(until, BY_HOUR), str(round(step.total_seconds()))
    if step >= BY_HOUR:
        yield from connection.run(ADDED_UP, kind, name, "3600", since, hour, length)
    if kind is PauseScope.TENANT:
        until = hour  # a tenant has no minutes
    elif step >= BY_HOUR:
        yield from connection.run(ADDED_UP, kind, name, "60", max(since, hour), until, length)
    else:
        yield from connection.run(ADDED_UP, kind, name, "60", since, until, length)
    yield from _latest(connection, kind, name, max(since, until))


def _latest(connection: Connection, kind: PauseScope, name: str, since: datetime) -> Iterable[Sequence[Any]]:
    column = LATEST_COLUMNS[kind]
    latest = f"with {counting('minute', column, repr(''), f'{column} = $3')} select {FIELDS} from rows"
    yield from connection.run(latest, since, END, name)


def floor_of(at: datetime, step: timedelta) -> datetime:
    """The begin of the period of a time, counted from midnight in UTC."""
    at = at.astimezone(UTC)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (at - midnight) // step * step


def _percentiles(histogram: Counter[int]) -> Percentiles | None:
    found = [percentile(histogram, share) for share in (0.5, 0.95, 0.99)]
    return None if None in found else Percentiles(*(round(value or 0) for value in found))


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)


# --- All types or tenants ---------------------------------------------------------------------------------------------


EACH_RUN = timedelta(hours=3)
"""Up to here each run is read."""
MILLISECOND = timedelta(milliseconds=1)
DURATIONS = 7
"""The place of the number of durations among the sums of :data:`STATISTICS`."""

# now(), and not clock_timestamp(), which is volatile: a volatile value cannot be searched in the index on started_at.
STATISTICS = """
select coalesce(a.{column}, ''), {histogram}, count(*),
       count(*) filter (where a.outcome = 'completed'),
       count(*) filter (where a.outcome in ('failed', 'timeout')),
       count(*) filter (where a.outcome = 'archived'),
       count(*) filter (where a.outcome = 'lost'),
       count(a.wait_ms), coalesce(sum(a.wait_ms), 0)::bigint,
       count(a.duration_ms), coalesce(sum(a.duration_ms), 0)::bigint, max(a.duration_ms)::bigint,
       coalesce(sum(a.cost_usd), 0)::float8
  from joblane.runs a
 where a.started_at >= now() - make_interval(secs => $1::float8)
   and ($2::timestamptz is null or a.finished_at is null or a.finished_at >= $2::timestamptz)
   and a.started_at < coalesce($3::timestamptz, 'infinity') and ($3::timestamptz is null or a.finished_at < $3)
 group by 1, 2
"""
"""The runs that started within $1 seconds and, unless $2 is null, have not ended before $2, and unless $3 is null, have
ended before $3. ``histogram``: null, or an
expression by which the runs of a key are counted in addition."""
BUCKET = f"case when a.outcome in {TIMED_OUTCOMES} then {bucket_of('a.duration_ms')} end"
_SUMS = """sum(completed + failed + archived + lost + others)::bigint as runs, sum(completed)::bigint as completed,
       sum(failed)::bigint as failed, sum(archived)::bigint as archived, sum(lost)::bigint as lost,
       sum(completed + failed + archived + lost + others)::bigint as waits, sum(wait_ms)::bigint as wait_ms,
       sum(completed + failed + archived)::bigint as durations, sum(duration_ms)::bigint as duration_ms,
       max(longest_ms)::bigint as longest_ms, sum(cost_usd)::float8 as cost_usd"""
HOURS = {
    "tenant": f"""
select name, null, {_SUMS} from joblane.run_statistics
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
select n.name, d.durations, x.* from names n,
       lateral (select {_SUMS} from joblane.run_statistics
                 where kind = 'type' and name = n.name and seconds = 3600
                   and at >= $1::timestamptz and at < $2::timestamptz) as x,
       lateral (select array_agg(array[bucket, number]) as durations
                  from (select durations[i][1] as bucket, sum(durations[i][2])::int as number
                          from joblane.run_statistics, generate_subscripts(durations, 1) as i
                         where kind = 'type' and name = n.name and seconds = 3600
                           and at >= $1::timestamptz and at < $2::timestamptz
                         group by 1) as buckets) as d
 where n.name is not null and x.runs is not null
""",
}
"""The runs of whole hours, from $1 until $2."""
UNTIL_HOUR = "select clock_timestamp(), date_trunc('hour', until, 'UTC') from joblane.run_statistics_until"


def statistics(scope: Scope, within: timedelta, by: str) -> tuple[Statistic, ...]:
    """The most expensive first. The key is empty for tasks without a tenant, and for runs without a recorded type.

    The runs of whole hours are those that the sweep has added up. Those before the first one, of up to a day, and those
    since the last one are read. So no statement reads the runs of weeks.

    Raises :class:`SelectionError`.
    """
    check_within(within)
    if by not in STATISTICS_BY:
        raise SelectionError("by", f"{' or '.join(STATISTICS_BY)} is required, not {by!r}")
    bucket = BUCKET if by == "type" else "null::int"
    statement = STATISTICS.format(column=by, histogram=bucket)
    rows, hour = list[list[Any]](), None
    if within > EACH_RUN:
        now: datetime
        [[now, until]] = scope.connection.run(UNTIL_HOUR)
        since = floor_of(now - within, ONE_HOUR)
        first = since if within > ONE_DAY else since + ONE_HOUR
        if until is not None and until > first:
            rows = scope.connection.run(HOURS[by], first, until)
            if first > since:
                rows += scope.connection.run(statement, str(within.total_seconds()), None, first)
            within, hour = now - until + LATEST_END, until
    rows += scope.connection.run(statement, str(within.total_seconds()), hour, None)
    by_key: defaultdict[str, list[list[Any]]] = defaultdict(list)
    histograms: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for key, durations, *numbers in rows:
        by_key[key].append(numbers)
        if durations is not None:  # a histogram of hours, or the bucket of these runs
            histograms[key].update(
                {durations: numbers[DURATIONS]} if isinstance(durations, int) else merged([durations])
            )
    found = [
        replace(
            _statistic(key, parts),
            p99_ms=_rounded(percentile(histograms[key], 0.99)),
            timeout_ms=round(task.timeout / MILLISECOND) if by == "type" and (task := scope.task(key)) else None,
        )
        for key, parts in by_key.items()
    ]
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
