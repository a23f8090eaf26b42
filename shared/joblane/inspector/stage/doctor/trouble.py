"""The trouble of a stage, which needs an operator now, and its types with their figures.

The start page and the first line of an overview show it. The checks are from the doctor: they read the database and
cost little, with other words where more is known. They read the live tasks once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from joblane.inspector.durations import lasting
from joblane.inspector.filter import PauseScope
from joblane.inspector.paths import path
from joblane.inspector.scope import Scope
from joblane.inspector.sentences.pauses import waiting_line
from joblane.inspector.sentences.trouble import held_line
from joblane.inspector.shell import argument
from joblane.inspector.stage import overview
from joblane.inspector.stage.doctor import control, doctor, sessions, work
from joblane.inspector.stage.doctor import database as doctor_database
from joblane.inspector.stage.glance import Glance, glance, last_minutes
from joblane.inspector.tasks.filter_sql import reading
from joblane.inspector.views import Check, Grade, Now, Paused, Trouble, TypeNow
from joblane.names import Queue
from joblane.record.row.states import State
from joblane.record.run_statistics import percentile
from joblane.sweep.lowered_limits import lowered

MOST = 20
"""Findings of an answer."""
DEAD = f"""
select type, count(*), count(*) filter (where finished_at >= now() - interval '1 hour')
  from (select type, state, cleared, finished_at from joblane.tasks
         where dead_sent_at is not null or dead_letter_unsent
         order by created_at desc, id desc limit {work.MOST_DEAD}) as d
 where state = 'archived' and not cleared and finished_at >= now() - interval '1 day'
 group by type
"""


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
    yield from control.checks_of(scope, found)
    explained = {type_ for each in found for type_, *_ in each.waiting}
    for (_, type_), (number, seconds) in sorted(scope.recorded.held.items(), key=lambda item: -item[1][1]):
        if type_ not in explained and scope.is_late(type_, seconds) and (task := scope.task(type_)) is not None:
            times = lasting(timedelta(seconds=seconds)), lasting(task.target_wait)
            do, where = f"`joblane why {task.type}` says for which", path("/runs/why", type=task.type)
            yield Check(Grade.WARNING, f"limits of {type_}", held_line(number, *times), do, where)


def pauses(scope: Glance) -> Iterator[Check]:
    """The pauses for whose end tasks wait, most tasks first, and those that the doctor warns of."""
    recorded = scope.recorded
    waiting = {
        f"{kind} {name}": Paused(pause, recorded.waiting[kind, name]) for (kind, name), pause in recorded.pauses.items()
    }
    numbers = {what: each.waiting for what, each in waiting.items()}
    for check in sorted(control.pauses(scope), key=lambda check: -numbers.get(check.what, 0)):
        if check.grade is Grade.GOOD and numbers.get(check.what):
            found = waiting_line(waiting[check.what]).removeprefix(f"{check.what} is ")
            kind, _, name = check.what.partition(" ")
            do = f"`joblane resume {kind} {argument(name)}` ends it"
            yield replace(check, grade=Grade.WARNING, found=found, do=do)
        else:
            yield check


PARTS: doctor.Parts = (
    ("functions", doctor_database.functions_of_code),
    ("jobs:sweep", doctor_database.sweep),
    ("connections", sessions.sessions),
    ("limits", limits),
    ("hooks", doctor.hooks),
    ("bulk actions", work.bulks),
    ("runs", work.failures),
    ("callbacks", work.callbacks),
    ("pauses", pauses),
    ("snapshots", doctor_database.snapshots),
    ("waits", work.waits),
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
    started, failures = (tuple(sum(each[at] for each in one if each) for one in runs) for at in (0, 2))
    waits = [seconds for lane in lanes if (seconds := recorded.waits.get(lane)) is not None]
    held = [recorded.held[lane] for lane in lanes if lane in recorded.held]
    wait = percentile(buckets, 0.95)
    queues = {*(task.lanes if task else ()), *(lane[0] for lane in lanes)}
    return TypeNow(
        type=type_,
        queues=tuple(queue for queue in Queue if queue in queues),
        minutes=started,
        failures=failures,
        started=sum(started),
        failed=sum(failures),
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
