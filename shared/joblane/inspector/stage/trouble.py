"""The trouble of a stage, which needs an operator now, and its types with their figures.

The start page and the first line of an overview show it. The checks are from the doctor: they read the database and
cost little, with other words where more is known. They read the live tasks once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from joblane.inspector.durations import lasting
from joblane.inspector.filter import PauseScope
from joblane.inspector.paths import path
from joblane.inspector.scope import Scope
from joblane.inspector.sentences import held_line, late_line, new_line, waiting_line
from joblane.inspector.shell import argument
from joblane.inspector.stage import doctor, doctor_control, doctor_database, overview
from joblane.inspector.stage.glance import Glance, glance, last_minutes
from joblane.inspector.tasks.filter_sql import reading
from joblane.inspector.views import Check, Grade, Now, Paused, Trouble, TypeNow
from joblane.inspector.views.now import LEAST_RUNS
from joblane.names import Queue
from joblane.record.causes import shown
from joblane.record.row.states import State
from joblane.record.run_statistics import percentile
from joblane.sweep.causes import VERSION
from joblane.sweep.lowered_limits import lowered

MOST = 20
"""Findings of an answer."""
MOST_RUNS, MOST_ERRORS = 20_000, 200
"""Failed runs of the last hour that are read, from the latest on, and errors, from the most frequent on."""
MOST_LATE = 5_000
"""Live tasks among which the tenants of late types are counted: the oldest."""
MOST_DEAD = 2_000
"""Archived tasks that are read, from the newest on."""
LEAST_FLOOD = 20
"""A tenant with fewer due tasks floods nothing."""
FLOOD_SHARE = 1 / 3
"""Share of the due tasks of a type that a tenant has at least, and twice its fair share, if it floods the type."""

DUE_TENANTS = f"""
select type, coalesce(tenant, ''), count(*)
  from (select type, tenant, state, due_at from joblane.tasks where finished_at is null
         order by created_at, id limit {MOST_LATE}) as oldest
 where type = any($1::text[]) and state in ('pending', 'retry', 'scheduled') and due_at <= clock_timestamp()
 group by 1, 2 order by 3 desc limit 1000
"""
NOW = "select clock_timestamp()"
ERRORS = f"""
with ran as (
  select fingerprint, type, count(*) as runs, min(started_at) as first_at, max(started_at) as last_at,
         max(task_id) as id
    from (select fingerprint, type, started_at, task_id from joblane.task_attempts
           where fingerprint is not null and type is not null and started_at >= now() - interval '1 hour'
           order by started_at desc limit {MOST_RUNS}) as latest
   group by 1, 2
),
marked as (
  select r.type, r.fingerprint, r.runs, r.id, r.last_at, coalesce(c.since, r.first_at) as since, c.first_version,
         c.error_type, c.message, c.mark, coalesce(c.mark = 'resolved' and r.last_at > c.marked_at, false) as is_back
    from ran r left join joblane.causes c using (fingerprint, type)
   order by r.runs desc, r.last_at desc limit {MOST_ERRORS}
)
select m.type, m.runs, case when m.is_back then m.last_at else m.since end,
       coalesce(m.first_version, {VERSION.format(at="m.since")}), coalesce(m.error_type, a.error_type),
       coalesce(m.message, a.error_message), m.mark, m.is_back or m.since >= now() - interval '1 hour',
       m.mark is not null and not m.is_back
  from marked m left join lateral (
    select error_type, left(error_message, 3000) as error_message from joblane.task_attempts a
     where m.error_type is null and a.task_id = m.id and a.fingerprint = m.fingerprint order by a.run desc limit 1
  ) as a on true
 order by m.runs desc, m.last_at desc
"""
"""The errors of the failed runs of the last hour, most runs first. An error that the sweep has not seen has no row of
its own, and one that failed again after it was resolved is new."""
DEAD = f"""
select type, count(*), count(*) filter (where finished_at >= now() - interval '1 hour')
  from (select type, state, cleared, finished_at from joblane.tasks
         where dead_sent_at is not null or dead_letter_unsent order by created_at desc, id desc limit {MOST_DEAD}) as d
 where state = 'archived' and not cleared and finished_at >= now() - interval '1 day'
 group by type
"""


@dataclass(frozen=True, slots=True)
class _Error:
    """A row of :data:`ERRORS`."""

    type: str
    runs: int
    since: datetime
    version: str | None
    error_type: str | None
    message: str | None
    mark: str | None
    is_new: bool
    is_quiet: bool

    @property
    def text(self) -> str:
        """Class and first line of the error, without ids and numbers."""
        message = shown(self.message or "")
        return f"{self.error_type}: {message}" if message else self.error_type or "an unknown error"


def trouble(scope: Scope) -> Trouble:
    return _of(glance(scope))


def now(scope: Scope, minutes: int) -> Now:
    seen = glance(scope, minutes)
    found = _of(seen)
    return Now(found, overview.of(seen), tuple(sorted(_types(seen), key=lambda row: (*row.rank, row.type))), minutes)


def _of(scope: Glance) -> Trouble:
    checks = list(doctor.checks_of_database(scope, PARTS))
    needs = [check for check in checks if check.grade is not Grade.GOOD]
    needs.sort(key=lambda check: doctor.ORDER.index(check.grade))  # stable: causes stay before their effects
    return Trouble(datetime.now(UTC), tuple(needs[:MOST]), max(0, len(needs) - MOST))


# --- The checks -------------------------------------------------------------------------------------------------------


def limits(scope: Glance) -> Iterator[Check]:
    """Limits that operators have lowered, and types whose tasks wait for another limit for longer than the target."""
    found = lowered(scope.connection)
    yield from doctor_control.checks_of(scope, found)
    explained = {type_ for each in found for type_, *_ in each.waiting}
    for (_, type_), (number, seconds) in sorted(scope.recorded.held.items(), key=lambda item: -item[1][1]):
        if type_ not in explained and scope.is_late(type_, seconds) and (task := scope.task(type_)) is not None:
            times = lasting(timedelta(seconds=seconds)), lasting(task.target_wait)
            do, where = f"`joblane why {task.type}` says for which", path("/runs/why", type=task.type)
            yield Check(Grade.WARNING, f"limits of {type_}", held_line(number, *times), do, where)


def failures(scope: Glance) -> Iterator[Check]:
    """Failing types with their most frequent error, and the errors of other types that are new within an hour."""
    with reading(scope.connection) as connection:
        now, found = connection.run(NOW)[0][0], [_Error(*row) for row in connection.run(ERRORS)]
    failing = set[str]()
    for check in doctor.failures(scope):
        type_ = check.what.removeprefix("runs of ")
        failing.add(type_)
        first = next((error for error in found if error.type == type_), None)
        yield check if first is None or check.grade is Grade.GOOD else _with_error(check, first)
    new: dict[str, list[_Error]] = {}
    for error in found:
        if error.is_new and not error.is_quiet and error.type not in failing:
            new.setdefault(error.type, []).append(error)
    for type_, (first, *others) in new.items():
        grade = Grade.BAD if first.runs >= LEAST_RUNS else Grade.WARNING
        line = new_line(first.text, first.runs, first.version, now - first.since, len(others))
        do = f"`joblane errors --type {type_}` shows {'them' if others else 'it'}"
        yield Check(grade, f"error of {type_}", line, do, path("/errors", type=type_))


def _with_error(check: Check, error: _Error) -> Check:
    """A failing type with its error. An error that operators know is a warning."""
    do = f"`joblane errors --type {error.type}` shows its errors; `joblane pause type {error.type}` stops it"
    grade = Grade.WARNING if error.is_quiet else check.grade
    mark = f"[{error.mark}] " if error.is_quiet else "[new] " if error.is_new else ""
    where = path("/errors", type=error.type)
    return replace(check, grade=grade, found=f"{check.found}: {mark}{error.text}", do=do, path=where)


def pauses(scope: Glance) -> Iterator[Check]:
    """The pauses for whose end tasks wait, most tasks first, and those that the doctor warns of."""
    recorded = scope.recorded
    waiting = {
        f"{kind} {name}": Paused(pause, recorded.waiting[kind, name]) for (kind, name), pause in recorded.pauses.items()
    }
    numbers = {what: each.waiting for what, each in waiting.items()}
    for check in sorted(doctor_control.pauses(scope), key=lambda check: -numbers.get(check.what, 0)):
        if check.grade is Grade.GOOD and numbers.get(check.what):
            found = waiting_line(waiting[check.what]).removeprefix(f"{check.what} is ")
            kind, _, name = check.what.partition(" ")
            do = f"`joblane resume {kind} {argument(name)}` ends it"
            yield replace(check, grade=Grade.WARNING, found=found, do=do)
        else:
            yield check


def waits(scope: Glance) -> Iterator[Check]:
    """The types with tasks that wait longer than the target, with the tenant that has many of the due tasks."""
    late: dict[str, tuple[float, float, list[str]]] = {}
    for (queue, type_), seconds in scope.recorded.waits.items():
        if scope.is_late(type_, seconds) and (task := scope.task(type_)) is not None:
            before, _, queues = late.get(task.type, (0.0, 0.0, []))
            late[task.type] = (max(before, seconds), task.target_wait.total_seconds(), [*queues, queue])
    if not late:
        return
    names = [name for type_ in late for name in scope.tasks[type_].types]
    tenants: dict[str, Counter[str]] = {}
    with reading(scope.connection) as connection:
        rows = connection.run(DUE_TENANTS, names)
    for name, tenant, number in rows:
        if (task := scope.task(name)) is not None:
            tenants.setdefault(task.type, Counter())[tenant] += number
    ranked = sorted(late.items(), key=lambda item: ("critical" not in item[1][2], -item[1][0] / (item[1][1] or 1.0)))
    for type_, (seconds, target, _) in ranked:
        due = tenants.get(type_, Counter())
        tenant = flooding(due)
        number = sum(each for (_, name), each in scope.recorded.due.items() if name in scope.tasks[type_].types)
        times = lasting(timedelta(seconds=seconds)), lasting(timedelta(seconds=target))
        found = late_line(number, *times, tenant, (due[tenant], due.total()) if tenant else (0, 0))
        do = f"`joblane why {type_}` says why"
        if tenant:
            do = f"`joblane pause tenant {argument(tenant)} --for 1h` lets the others pass; {do}"
        yield Check(Grade.BAD, f"waits of {type_}", found, do, path("/runs/why", type=type_))


def flooding(due: Counter[str]) -> str | None:
    """The tenant with so many of the due tasks of a type that the others wait for it; None: there is none."""
    tenant, number = next(iter(due.most_common(1)), ("", 0))
    least = max(FLOOD_SHARE, 2 / len(due)) if len(due) > 2 else 0.5
    return tenant if tenant and len(due) > 1 and number >= max(LEAST_FLOOD, due.total() * least) else None


PARTS: doctor.Parts = (
    ("functions", doctor_database.functions_of_code),
    ("jobs:sweep", doctor_database.sweep),
    ("limits", limits),
    ("hooks", doctor.hooks),
    ("runs", failures),
    ("pauses", pauses),
    ("snapshots", doctor_database.snapshots),
    ("waits", waits),
    ("leases", doctor.leases),
    ("ticks", doctor_database.ticks),
    ("types", doctor_database.undeclared),
    ("events", doctor.events),
    ("stored schedules", doctor.schedules),
)
"""Causes before effects."""


# --- The types --------------------------------------------------------------------------------------------------------


def _types(scope: Glance) -> Iterator[TypeNow]:
    recorded = scope.recorded
    with reading(scope.connection) as connection:
        dead = {type_: numbers for type_, *numbers in connection.run(DEAD)}
    lanes = {*recorded.tasks, *((queue, type_) for queue, type_, _ in recorded.type_minutes)}
    names = {type_ for _, type_ in lanes} | set(dead)
    by_type: dict[str, set[str]] = {type_: set(task.types) for type_, task in scope.tasks.items()}
    for name in names:
        if scope.task(name) is None:
            by_type[name] = {name}
    minutes = last_minutes(recorded.at, scope.minutes)
    for type_, types in by_type.items():
        its = {lane for lane in lanes if lane[1] in types}
        yield _type(scope, type_, its, minutes, [dead.get(each, [0, 0]) for each in types])


def _type(
    scope: Glance, type_: str, lanes: set[tuple[str, str]], minutes: list[datetime], dead: list[list[Any]]
) -> TypeNow:
    recorded, task = scope.recorded, scope.tasks.get(type_)
    states: Counter[State] = Counter()
    buckets: Counter[int] = Counter()
    for lane in lanes:
        states.update(recorded.tasks.get(lane, {}))
        buckets.update(recorded.buckets.get(lane, {}))
    runs = [[recorded.type_minutes.get((*lane, minute)) for lane in lanes] for minute in minutes]
    started = tuple(sum(each[0] for each in one if each) for one in runs)
    waits = [seconds for lane in lanes if (seconds := recorded.waits.get(lane)) is not None]
    held = [recorded.held[lane] for lane in lanes if lane in recorded.held]
    wait = percentile(buckets, 0.95)
    queues = {*(task.lanes if task else ()), *(lane[0] for lane in lanes)}
    return TypeNow(
        type=type_,
        queues=tuple(queue for queue in Queue if queue in queues),
        minutes=started,
        started=sum(started),
        failed=sum(each[2] for one in runs for each in one if each),
        wait_p95_ms=None if wait is None else round(wait),
        target_seconds=task.target_wait.total_seconds() if task else None,
        oldest_wait_seconds=max(waits, default=None),
        due=sum(recorded.due.get(lane, 0) for lane in lanes),
        active=states[State.ACTIVE],
        retry=states[State.RETRY],
        held=sum(number for number, _ in held),
        held_seconds=max((seconds for _, seconds in held), default=0.0),
        dead=sum(number for number, _ in dead),
        dead_hour=sum(number for _, number in dead),
        pauses=tuple(pause for (kind, name), pause in recorded.pauses.items() if _stops(kind, name, type_, queues)),
    )


def _stops(kind: str, name: str, type_: str, queues: set[str]) -> bool:
    """True if a pause keeps all tasks of a type. A pause of a queue leaves out Joblane's own types."""
    if kind == PauseScope.QUEUE:
        return queues == {name} and not type_.startswith("jobs:")
    return kind == PauseScope.TYPE and name == type_
