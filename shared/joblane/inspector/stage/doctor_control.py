"""Checks of what operators have set: pauses, and values of limits instead of the declared ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from joblane.inspector.filter import PauseScope
from joblane.inspector.paths import path
from joblane.inspector.scope import Scope
from joblane.inspector.sentences import held_pause_line, plural, set_line
from joblane.inspector.shell import argument
from joblane.inspector.stage import schedules
from joblane.inspector.stage.glance import Glance
from joblane.inspector.views import Check, Grade, Pause, SchedulePause
from joblane.names import Queue
from joblane.record.driver.connection import Connection
from joblane.record.flow.limit_changes import LIVE_CHANGE, is_of_each_key, keys_of, level_of
from joblane.record.flow.limit_status import LimitChange, LimitValues, kind_of, rate_of
from joblane.record.pauses import EVERYTHING
from joblane.record.row.states import LEVELS, Level

OLD_PAUSE = timedelta(days=1)
MOST_READ = 200
"""Limits whose waiting tasks are counted: those with the smallest values."""
MOST_NAMED = 10
"""Limits that have a check each. One more check counts the others."""
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


def limits(scope: Scope) -> Iterator[Check]:
    """Values of operators below the declared ones, or for limits that no task declares, and limits of 0.

    Bad if tasks wait longer than the target of their type because of it, or if it is 0 and tasks wait.
    """
    yield from checks_of(scope, lowered(scope))


def lowered(scope: Scope) -> list[Lowered]:
    """Limits that an operator has lowered, and declared limits of 0 for which tasks wait."""
    found = [each for each in _read(scope.connection) if each.is_lower and (each.change or each.waiting)]
    return sorted(found, key=lambda each: -each.number)


def checks_of(scope: Scope, found: Iterable[Lowered]) -> Iterator[Check]:
    """The checks of lowered limits, bad ones first. One check counts those above :data:`MOST_NAMED`."""
    checks = sorted((_check(scope, each) for each in found), key=lambda check: check.grade is not Grade.BAD)
    yield from checks[:MOST_NAMED]
    if (more := len(checks) - MOST_NAMED) > 0:
        text = f"operators have lowered {plural(more, 'more limit')}"
        yield Check(Grade.WARNING, "limits", text, "`joblane limits` lists them", "/limits")


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


def _check(scope: Scope, limit: Lowered) -> Check:
    base, _, key = limit.name.partition("/")
    of_key, option = (f", key {key}", f" --key {argument(key)}") if key else ("", "")
    tasks = [(scope.task(type_), seconds) for type_, _, seconds in limit.waiting]
    targets = [task.target_wait for task, seconds in tasks if task and seconds > task.target_wait.total_seconds()]
    found = set_line(
        limit.change,
        limit.declared,
        limit.now,
        waiting=limit.number,
        oldest=max((seconds for _, seconds in tasks), default=None),
        target=min(targets, default=None),
    )
    name = argument(base)
    if limit.change is None:
        do = f"`joblane limits set {name}{option} …` lets tasks start; or declare another value, and deploy"
    else:
        does = "removes it" if limit.declared is None else "returns to the declared values"
        do = f"`joblane limits reset {name}{option}` {does}"
    is_bad = targets or (limit.stops and limit.number)
    where = path("/limits/show", name=base, key=key)
    return Check(Grade.BAD if is_bad else Grade.WARNING, f"limit {base}{of_key}", found, do, where)


def pauses(scope: Glance) -> Iterator[Check]:
    """The pauses of queues, types and tenants with the tasks that wait for their ends, and of schedules of the code.

    A pause is a warning if it has lasted for a day without a set end, or if tasks wait longer than the target
    of their type because of it.
    """
    recorded = scope.recorded
    found: list[tuple[Pause | SchedulePause, Check]] = []
    for (kind, name), pause in recorded.pauses.items():
        waits = recorded.paused_waits.get((kind, name), {})
        is_late = any(scope.is_late(type_, seconds) for type_, seconds in waits.items())
        waiting = recorded.waiting[kind, name] if is_late else 0
        line = held_pause_line(pause, recorded.at, waiting=waiting, oldest=max(waits.values(), default=None))
        do = "" if not (is_late or _is_old(pause, recorded.at)) else _ends(f"resume {kind} {argument(name)}")
        found.append((pause, Check(_grade(do), f"{kind} {name}", line, do, _path(kind, name))))
    for name, of_schedule in schedules.paused_of_code(scope).items():
        do = _ends(f"schedules resume {argument(name)}") if _is_old(of_schedule, recorded.at) else ""
        line, where = held_pause_line(of_schedule, recorded.at), path("/schedules/show", name=name)
        found.append((of_schedule, Check(_grade(do), f"schedule {name}", line, do, where)))
    yield from (check for _, check in sorted(found, key=lambda each: each[0].since))
    endless = {(str(kind), name) for (kind, name), pause in recorded.pauses.items() if pause.until is None}
    if endless >= {("queue", str(queue)) for queue in Queue}:
        resume = ", ".join(f"`joblane resume {kind} {name}`" for kind, name in EVERYTHING if (kind, name) in endless)
        text = "every queue is paused, and no task starts until they are resumed"
        yield Check(Grade.WARNING, "pauses", text, f"look what will run, then {resume}", "/")


def _is_old(pause: Pause | SchedulePause, now: datetime) -> bool:
    return pause.until is None and now - pause.since > OLD_PAUSE


def _ends(resume: str) -> str:
    return f"still wanted? `joblane {resume}` ends it"


def _grade(do: str) -> Grade:
    return Grade.WARNING if do else Grade.GOOD


def _path(kind: str, name: str) -> str:
    """The view of the tasks that wait: of a type or a tenant its runs, of a queue its tasks."""
    return path("/tasks", queue=name) if kind == PauseScope.QUEUE else path("/runs", **{kind: name})
