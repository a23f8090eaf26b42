"""The limits that operators have lowered, and the tasks that wait for them: for an alarm, and for the doctor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from joblane.record.driver.connection import Connection
from joblane.record.flow.limit_changes import LIVE_CHANGE, is_of_each_key, keys_of, level_of
from joblane.record.flow.limit_status import LimitChange, LimitValues, kind_of, rate_of
from joblane.record.row.states import LEVELS, Level
from joblane.tasks.task import Task

MOST_READ = 200
"""Limits whose waiting tasks are counted, from the smallest values on."""
MOST_HELD = 1_000
"""Waiting tasks of a limit that are counted, from the first in its order."""
MOST_RATES = 20
"""Limits with a set rate whose later starts are counted."""

# The set values, and declared values of 0, each with the tasks that wait for a slot. 0 is the character after a slash.
SET = f"""
with found as (
  select c.name, c.slots, extract(epoch from c.step)::float8 as step, c.burst, c.reason, c.changed_by, c.since, c.until
    from joblane.limit_changes c where {LIVE_CHANGE.format(row="c")}
  union all
  select d.name, null, null, null, null, null, null, null from joblane.limits d
   where d.slots = 0 and not exists (select from joblane.limit_changes c
                                      where c.name = d.name and {LIVE_CHANGE.format(row="c")})
)
select f.*, d.name is not null, d.slots, extract(epoch from d.step)::float8, d.burst, clock_timestamp(),
       (select pg_catalog.json_agg(pg_catalog.json_build_array(type, number, seconds))
          from (select type, count(*) as number,
                       extract(epoch from clock_timestamp() - min(due_at))::float8 as seconds
                  from (select w.type, w.due_at from joblane.tasks w
                         where w.wait_kind = 'limit' and w.state = 'held' and w.waits_for >= f.name
                           and w.waits_for < case when f.name like '%/' then rtrim(f.name, '/') || '0'
                                                  else f.name || chr(1) end
                         order by w.waits_for, w.place, w.seq limit {MOST_HELD}) as first
                 group by type) as held)
  from (select * from found order by slots nulls last, step desc nulls last, name limit {MOST_READ}) as f
  left join joblane.limits d
    on d.name = case when strpos(f.name, '/') > 0 then split_part(f.name, '/', 1) || '/' else f.name end
 order by f.slots nulls last, f.step desc nulls last, f.name
"""


def _timed(level: Level) -> str:
    return f"""
select type, count(*), extract(epoch from clock_timestamp() - min(first_due_at))::float8
  from (select type, first_due_at from joblane.tasks
         where {level.column} is not null and {level.column} >= $1 and {level.column} < $2 and passed {level.has_slot}
           and passed = '{level.time}' and state in ('pending', 'retry') and due_at > now() limit {MOST_HELD}) as t
 group by type
"""


TIMED = {number: _timed(level) for number, level in LEVELS.items()}
"""The tasks that start later, at the times that a rate has given them."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A limit whose values an operator has set, or that is declared as 0 (``change`` is None).

    ``waiting``: the numbers of tasks that wait for it by type, each with the seconds since the first was due.
    """

    name: str
    change: LimitChange | None
    declared: LimitValues | None
    now: datetime
    waiting: Sequence[Sequence[Any]]

    @property
    def number(self) -> int:
        """The number of tasks that wait."""
        return sum(number for _, number, _ in self.waiting)

    @property
    def oldest(self) -> float | None:
        """Seconds since the first of them was due. None: no task waits."""
        return max((seconds for _, _, seconds in self.waiting), default=None)

    def missed(self, task_of: Callable[[str], Task[Any, Any] | None]) -> timedelta | None:
        """The shortest ``target_wait`` of a type whose tasks wait longer. None: no type misses its target."""
        tasks = [(task_of(type_), seconds) for type_, _, seconds in self.waiting]
        missed = [task.target_wait for task, seconds in tasks if task and seconds > task.target_wait.total_seconds()]
        return min(missed, default=None)

    def keeps(self, missed: timedelta | None) -> bool:
        """True if tasks wait because of it that should run: longer than their target, or for a limit of 0."""
        return missed is not None or (self.stops and self.number > 0)

    @property
    def is_lower(self) -> bool:
        """True if fewer tasks may run or start than declared."""
        if self.change is None or self.declared is None:
            return True
        values, declared = self.change.values, self.declared
        return _is_lower(values.at_a_time, declared.at_a_time) or (
            values.rate is not None and (declared.rate is None or values.rate.step > declared.rate.step)
        )

    @property
    def stops(self) -> bool:
        """True if no task starts."""
        return self.change is None or self.change.values.at_a_time == 0


def _is_lower(value: int | None, declared: int | None) -> bool:
    return value is not None and (declared is None or value < declared)


def lowered(connection: Connection) -> list[Lowered]:
    """The limits that an operator has lowered, and declared limits of 0 for which tasks wait; most tasks first."""
    found = [each for each in _read(connection) if each.is_lower and (each.change or each.waiting)]
    return sorted(found, key=lambda each: -each.number)


def _read(connection: Connection) -> Iterator[Lowered]:
    rates = 0
    for name, *row in connection.run(SET):
        slots, step, burst, reason, by, since, until, is_declared, *declared, now, held = row
        waiting = list(held or ())
        change = None
        if since is not None:
            change = LimitChange(LimitValues(slots, rate_of(step, burst)), reason, by, since, until, kind_of(name))
        if step is not None and rates < MOST_RATES:
            rates += 1
            low, high = keys_of(name) if is_of_each_key(name) else (name, f"{name}\x01")
            waiting += connection.run(TIMED[level_of(name)], low, high)
        values = LimitValues(declared[0], rate_of(*declared[1:])) if is_declared else None
        yield Lowered(name, change, values, now, waiting)
