"""The runs of a type or a tenant over time: throughput, failures, cost, and percentiles of waits and durations.

The sweep has added up the runs by minute and hour (:mod:`joblane.sweep.run_statistics`). The runs since its last
call are added up here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import LONGEST_WITHIN, check_types, check_within
from joblane.inspector.views import Percentiles, Performance, Period, RunCounts
from joblane.record.driver.connection import Connection
from joblane.record.run_statistics import counting, merged, percentile
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
BY_HOUR = timedelta(hours=1)
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
LATEST_COLUMNS = {PauseScope.TYPE: "type", PauseScope.TENANT: "coalesce(tenant, '')"}


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
    step = next(step for longest, step in STEPS if within <= longest)
    if kind is PauseScope.TENANT:
        step = max(step, BY_HOUR)
    since = _floor(now - within, step)
    periods = {since + number * step: _Sum() for number in range(int((now - since) / step) + 1)}
    total = _Sum()
    for at, *row in _rows(connection, kind, name, step=step, since=since, until=until or now - FIRST):
        if (period := periods.get(_floor(at, step))) is not None:
            period.add(row)
            total.add(row)
    if kind is PauseScope.TYPE and not any(total.numbers):
        check_types(scope, [name])
    return Performance(
        kind=kind,
        name=name,
        at=now,
        step_seconds=round(step.total_seconds()),
        total=total.counts(),
        periods=tuple(Period(at, period.counts()) for at, period in periods.items()),
    )


def _rows(
    connection: Connection, kind: PauseScope, name: str, *, step: timedelta, since: datetime, until: datetime
) -> Iterable[list[Any]]:
    """Yield the rows of minutes or hours, and of the runs that ended after ``until``, which no sweep has added up."""
    hour, length = _floor(until, BY_HOUR), str(round(step.total_seconds()))
    if step >= BY_HOUR:
        yield from connection.run(ADDED_UP, kind, name, "3600", since, hour, length)
    if kind is PauseScope.TENANT:
        until = hour  # a tenant has no minutes
    elif step >= BY_HOUR:
        yield from connection.run(ADDED_UP, kind, name, "60", max(since, hour), until, length)
    else:
        yield from connection.run(ADDED_UP, kind, name, "60", since, until, length)
    column = LATEST_COLUMNS[kind]
    latest = f"with {counting('minute', column, repr(''), f'{column} = $3')} select {FIELDS} from rows"
    yield from connection.run(latest, max(since, until), END, name)


def _floor(at: datetime, step: timedelta) -> datetime:
    """The begin of the period of a time, counted from midnight in UTC."""
    at = at.astimezone(UTC)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (at - midnight) // step * step


def _percentiles(histogram: Counter[int]) -> Percentiles | None:
    found = [percentile(histogram, share) for share in (0.5, 0.95, 0.99)]
    return None if None in found else Percentiles(*(round(value or 0) for value in found))
