"""A chart over time whose series, groups and percentile an operator picks.

It is read from the rows that the sweep has added up: days, then the hours since the last full day, then the minutes
since the last full hour. So its cost does not grow with the number of runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from joblane.inspector.durations import ONE_DAY, ONE_HOUR, ONE_MINUTE, written
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PERCENTILES, Group, Measure
from joblane.inspector.scope import Scope
from joblane.inspector.stage.trends.performance import SHORTEST, UNTIL, floor_of
from joblane.inspector.tasks.filter_sql import check_number, check_types
from joblane.inspector.views import Chart, Line
from joblane.names import Queue
from joblane.record.driver.connection import Connection
from joblane.record.run_statistics import time_of
from joblane.sweep.run_statistics import DAYS_KEPT, KEPT_DAYS

Name = TypeVar("Name", bound=StrEnum)
LONGEST = timedelta(days=DAYS_KEPT)
STEPS = ((2 * ONE_HOUR, ONE_MINUTE), (7 * ONE_DAY, ONE_HOUR), (LONGEST, ONE_DAY))
"""The longest time that is shown in periods of a length."""
OF_FEW_TYPES = ((ONE_DAY, 10 * ONE_MINUTE), (7 * ONE_DAY, ONE_HOUR), (KEPT_DAYS * ONE_DAY, 6 * ONE_HOUR))
"""The same for at most :data:`FEW_TYPES` types, whose rows are few."""
FEW_TYPES = 3
BEFORE = (ONE_DAY, 7 * ONE_DAY, 30 * ONE_DAY, 90 * ONE_DAY)
"""The distances to the time before: the shortest that is not shorter than the chart."""
MOST_LINES = 12
MOST_TYPES = 100
ALL = ""

NAMES = """
names as (
  (select name from joblane.run_statistics where kind = 'type' order by name limit 1)
  union all
  (select (select s.name from joblane.run_statistics s where s.kind = 'type' and s.name > n.name
            order by s.name limit 1)
     from names n where n.name is not null)
)"""
"""All types: the minutes of a type lie between its hours and the hours of the next type."""
GIVEN = "names as (select unnest($7::text[]) as name)"
COLUMNS = "name, queue, at, completed, failed, archived, lost, others, cost_usd, waits, durations, wait_ms, duration_ms"


def _rows(name: str) -> str:
    """The rows of days, hours and minutes up to the times $3, $4 and $5. ``name``: a condition."""
    parts = ((86_400, "$2", "$3"), (3_600, "$3", "$4"), (60, "$4", "$5"))
    return " union all ".join(
        f"select {COLUMNS} from joblane.run_statistics where kind = $1 and {name}"
        f" and seconds = {seconds} and at >= {since}::timestamptz and at < {until}::timestamptz"
        for seconds, since, until in parts
    )


def _found(choice: Choice, *, of_names: bool) -> str:
    """The rows of a choice, each with its group and its period. ``of_names``: only of the table ``names``."""
    key = {Group.NONE: "''::text", Group.QUEUE: "x.queue"}.get(choice.by, "x.name")
    time = "duration" if choice.of is Measure.DURATION else "wait"
    times = f", {time}_ms as spent, {time}s as histogram" if choice.of.is_time else ""
    rows = f"names n, lateral ({_rows('name = n.name')}) as x" if of_names else f"({_rows('true')}) as x"
    return f"""
found as {"not " if choice.of.is_time else ""}materialized (
  select {key} as key, floor(date_part('epoch', x.at - $2::timestamptz) / $6::int)::int as place,
         completed + failed + archived + lost + others as runs, failed + archived + lost as bad, cost_usd{times}
    from {rows}
   where ($7::text[] is null or x.name = any($7)) and ($8::text is null or x.queue = $8)
)"""


SUMS = {
    Measure.RUNS: "sum(runs)::float8",
    Measure.FAILED: "sum(bad)::float8",
    Measure.FAILED_SHARE: "(100.0 * sum(bad) / nullif(sum(runs), 0))::float8",
    Measure.COST: "sum(cost_usd)::float8",
}
OF_SUMS = """,
totals as (select key, {value} as value from found group by key),
chosen as (select key, row_number() over (order by value desc nulls last, key) as rank from totals),
lined as (select case when rank <= {limit} then rank else 0 end as line, found.* from found join chosen using (key))
select line, place, {value}, null::text from lined group by grouping sets ((line, place), (line))
"""
KEYS = """
union all
select -rank, (select count(*) from chosen)::int, null, key from chosen where rank <= {limit}
"""
"""The last part: the keys of the lines, and the number of all keys."""
LONGEST_MEAN = """
select key, count(*) over () from found
 group by key order by sum(spent)::float8 / nullif(sum(runs), 0) desc nulls last, key limit {limit}
"""
"""To compare the percentiles of all groups would read every histogram."""
OF_HISTOGRAMS = """,
pairs as (
  select key, place, unnest(histogram[:][1:1]) as bucket, unnest(histogram[:][2:2]) as number from found
),
placed as (select key, place, bucket, sum(number)::float8 as number from pairs group by key, place, bucket),
lined as (
  select * from placed union all select key, null, bucket, sum(number) from placed group by key, bucket
)
select key, place, (min(bucket) filter (where 100 * upto >= {percent} * whole))::int
  from (select key, place, bucket, sum(number) over (partition by key, place order by bucket) as upto,
               sum(number) over (partition by key, place) as whole from lined) as q
 group by key, place
"""
"""The sums are float8, which is exact for whole numbers, because sums of bigint are numeric, which is slow."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The choices of a chart: see :meth:`joblane.inspector.inspector.Inspector.chart`."""

    of: Measure
    by: Group
    percentile: str
    within: timedelta
    types: tuple[str, ...]
    queue: str | None
    tenant: str | None
    limit: int

    @property
    def is_tenant(self) -> bool:
        """True if the rows of tenants are read, which have no types and queues."""
        return self.by is Group.TENANT or self.tenant is not None

    @property
    def step(self) -> timedelta:
        """The length of a period."""
        steps: tuple[tuple[timedelta, timedelta], ...] = STEPS
        if self.is_tenant:
            steps = STEPS[1:]
        elif 0 < len(self.types) <= FEW_TYPES:
            steps = (STEPS[0], *OF_FEW_TYPES, STEPS[-1])
        return next(step for longest, step in steps if self.within <= longest)


def chart(scope: Scope, choice: Choice, *, compare: bool) -> Chart:
    choice = _checked(scope, choice)
    connection, step = scope.connection, choice.step
    [[until, now]] = connection.run(UNTIL)
    end = floor_of(until or now, ONE_HOUR if choice.is_tenant else ONE_MINUTE)
    start = floor_of(end - choice.within, step)
    number = max(1, -(-(end - start) // step))
    shift = next((shift for shift in BEFORE if choice.within <= shift), None) if compare else None
    lines, others, groups = _Reading(connection, choice, start, end, number).lines()
    before = None
    if shift is not None and _is_kept(choice, start - shift, now):
        everything = replace(choice, by=Group.NONE)
        found, *_ = _Reading(connection, everything, start - shift, end - shift, number).lines()
        before = found[0] if found else Line(ALL, None, (None,) * number)
    return Chart(
        of=choice.of,
        by=choice.by,
        percentile=choice.percentile,
        start=start,
        until=None if until is None else end,
        step_seconds=round(step.total_seconds()),
        before_seconds=round(shift.total_seconds()) if before is not None and shift is not None else 0,
        groups=groups,
        lines=tuple(lines),
        others=others,
        before=before,
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    """The statements of a chart. ``number``: of its periods."""

    connection: Connection
    choice: Choice
    start: datetime
    end: datetime
    number: int

    def lines(self) -> tuple[list[Line], Line | None, int]:
        """Return the lines, the line for the others, and the number of groups."""
        return self._times() if self.choice.of.is_time else self._sums()

    def _sums(self) -> tuple[list[Line], Line | None, int]:
        query = OF_SUMS + KEYS
        rows = self._run(query.format(value=SUMS[self.choice.of], limit=self.choice.limit), self._given)
        keys = {-line: key for line, _, _, key in rows if key is not None}
        groups = next((number for _, number, _, key in rows if key is not None), 0)
        values: defaultdict[int, dict[int | None, float | None]] = defaultdict(dict)
        for line, place, value, key in rows:
            if key is None:
                values[line][place] = value
        others = self._line(ALL, values[0]) if 0 in values else None
        return [self._line(keys[rank], values[rank]) for rank in sorted(keys)], others, groups

    def _times(self) -> tuple[list[Line], Line | None, int]:
        given, groups = self._given, None
        if self.choice.by in {Group.TYPE, Group.TENANT}:
            longest = self._run(LONGEST_MEAN.format(limit=self.choice.limit), given)
            given, groups = [key for key, _ in longest], longest[0][1] if longest else 0
        percent = int(self.choice.percentile[1:])
        rows = self._run(OF_HISTOGRAMS.format(percent=percent), given) if groups != 0 else []
        values: defaultdict[str, dict[int | None, float | None]] = defaultdict(dict)
        for key, place, bucket in rows:
            values[key][place] = None if bucket is None else time_of(bucket)
        lines = sorted((self._line(key, of) for key, of in values.items()), key=lambda line: -(line.whole or 0))
        return lines, None, len(lines) if groups is None else groups

    @property
    def _given(self) -> list[str]:
        choice = self.choice
        return list(choice.types) if choice.tenant is None else [choice.tenant]

    def _line(self, key: str, values: Mapping[int | None, float | None]) -> Line:
        empty = 0.0 if self.choice.of.is_sum else None
        return Line(key, values.get(None), tuple(values.get(place, empty) for place in range(self.number)))

    def _run(self, query: str, names: Sequence[str]) -> Sequence[Sequence[Any]]:
        """Read rows of ``names``; empty: of all."""
        choice, step = self.choice, self.choice.step
        tables = [GIVEN] if names else [] if choice.is_tenant else [NAMES]
        tables.append(_found(choice, of_names=bool(tables)))
        day = max(self.start, floor_of(self.end, ONE_DAY)) if step >= ONE_DAY else self.start
        hour = max(day, floor_of(self.end, ONE_HOUR)) if step >= ONE_HOUR else day
        kind, seconds = "tenant" if choice.is_tenant else "type", str(round(step.total_seconds()))
        return self.connection.run(
            f"with recursive {', '.join(tables)}{query}",
            *(kind, self.start, day, hour, self.end, seconds, list(names) or None, choice.queue),
        )


def _is_kept(choice: Choice, start: datetime, now: datetime) -> bool:
    kept = timedelta(days=DAYS_KEPT if choice.step >= ONE_DAY else KEPT_DAYS)
    return start >= now - kept


def _checked(scope: Scope, choice: Choice) -> Choice:
    within = choice.within
    if not isinstance(within, timedelta) or not SHORTEST <= within <= LONGEST:
        given = written(within) if isinstance(within, timedelta) else repr(within)
        raise SelectionError("within", f"{written(SHORTEST)} to {written(LONGEST)} is required, not {given}")
    of, by = _named(Measure, "of", choice.of), _named(Group, "by", choice.by)
    if choice.percentile not in PERCENTILES:
        raise SelectionError("percentile", f"{', '.join(PERCENTILES)} are valid, not {choice.percentile!r}")
    if choice.queue is not None:
        _named(Queue, "queue", choice.queue)
    check_number("limit", choice.limit, MOST_LINES)
    types = choice.types
    if isinstance(types, str) or len(types) > MOST_TYPES:
        raise SelectionError("types", f"a list of at most {MOST_TYPES} types is required")
    check_types(scope, types)
    if not isinstance(choice.tenant, str | None) or "\0" in (choice.tenant or ""):
        raise SelectionError("tenant", "a string without NUL is required")
    if (by is Group.TENANT or choice.tenant is not None) and (types or choice.queue or by in {Group.TYPE, Group.QUEUE}):
        raise SelectionError("tenant", "the runs of tenants are not counted by type and queue")
    return replace(choice, of=of, by=by, types=tuple(types))


def _named(kind: type[Name], field: str, value: str) -> Name:
    try:
        return kind(value)
    except ValueError:
        raise SelectionError(field, f"{', '.join(map(str, kind))} are valid, not {value!r}") from None
