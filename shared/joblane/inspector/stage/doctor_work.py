"""Checks of the work itself: failures of the last 15 minutes, tasks that wait past their target, stuck leases, and
schedules at run time with a problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

from joblane.inspector.durations import lasting
from joblane.inspector.scope import Scope
from joblane.inspector.stage import doctor_events, overview
from joblane.inspector.tasks.filter_sql import BOUND
from joblane.inspector.views import Check, Grade
from joblane.record.run_statistics import FAILED_OUTCOMES

MINUTES = 15
LEAST_RUNS = 5
"""With fewer runs that ended in the period, times and shares of failures mean nothing."""
WARNING_SHARE, BAD_SHARE = 0.1, 0.5
STUCK = "5 min"
"""A lease is stuck this long after its end: until then the message, or the next sweep, finds it."""

FAILING = f"""
select type, count(*), count(*) filter (where outcome in {FAILED_OUTCOMES})
  from joblane.task_attempts
 where started_at >= now() - interval '{MINUTES} min' and outcome is not null and type is not null
 group by type order by type
"""
STUCK_LEASES = f"""
select type, count(*), min(id)
  from (select id, type, state, lease_until from joblane.tasks where finished_at is null
         order by created_at, id limit {BOUND}) as live
 where state = 'active' and lease_until < clock_timestamp() - interval '{STUCK}'
 group by type order by type
"""
MOST_SCHEDULES = 1_000
"""Schedules with a problem that are counted."""
LATE = "10 min"
"""A schedule whose next tick has no task so long after its time is late: tasks are created ahead."""
PROBLEMS = f"""
select count(*), min(name), (array_agg(problem order by name))[1]
  from (select name, problem from joblane.schedules where problem is not null order by name limit {MOST_SCHEDULES}) as x
"""
LATE_SCHEDULES = f"""
select count(*), min(name)
  from (select name from joblane.schedules
         where paused_at is null and next_at < clock_timestamp() - interval '{LATE}'
         order by next_at limit {MOST_SCHEDULES}) as x
"""


def failures(scope: Scope) -> Iterator[Check]:
    """The share of failed runs of each type in the last 15 minutes."""
    wrong, runs = False, 0
    for type_, number, failed in scope.connection.run(FAILING):
        runs += number
        share = failed / number
        if number >= LEAST_RUNS and share >= WARNING_SHARE:
            wrong = True
            found = f"{failed:,} of {number:,} runs in the last {MINUTES} minutes failed ({share:.0%})"
            do = f"`joblane dead --type {type_} --newer {MINUTES}m` shows why; `joblane pause type {type_}` stops it"
            yield Check(Grade.BAD if share >= BAD_SHARE else Grade.WARNING, f"runs of {type_}", found, do)
    if not wrong:
        yield Check(Grade.GOOD, "runs", f"few or none of {runs:,} runs in the last {MINUTES} minutes failed")


def waits(scope: Scope) -> Iterator[Check]:
    """No task has waited longer than the ``target_wait`` of its type, apart from paused tasks."""
    wrong = False
    for (queue, type_), seconds in sorted(overview.read(scope.connection, 1).waits.items()):
        task = scope.task(type_)
        if task is not None and seconds > task.target_wait.total_seconds():
            wrong = True
            waited, target = lasting(timedelta(seconds=seconds)), lasting(task.target_wait)
            found = f"a task of queue {queue} has been due for {waited}; the target is {target}"
            do = f"`joblane ls --type {type_} --state pending` and `joblane show ID` say why"
            yield Check(Grade.BAD, f"waits of {type_}", found, do)
    if not wrong:
        yield Check(Grade.GOOD, "waits", "no due task waits longer than the target of its type")


def leases(scope: Scope) -> Iterator[Check]:
    """No run holds its task long after the end of its lease."""
    rows = scope.connection.run(STUCK_LEASES)
    for type_, number, example in rows:
        found = (
            f"{number:,} run{'s' * (number != 1)} ended more than {STUCK} ago without a result, for example {example}"
        )
        do = "does the sweep run? It sends their messages again, and the next claim counts them as lost"
        yield Check(Grade.WARNING, f"leases of {type_}", found, do)
    if not rows:
        yield Check(Grade.GOOD, "leases", "no run holds a task past its lease")


def schedules(scope: Scope) -> Iterator[Check]:
    """Schedules at run time whose last tick got no task, and those whose next tick is late."""
    what = "schedules at run time"
    [[number, name, problem]] = scope.connection.run(PROBLEMS)
    [[late, late_name]] = scope.connection.run(LATE_SCHEDULES)
    if number:
        found = f"{_counted(number)} a problem, for example {name}: {problem}"
        do = "`joblane schedules --problem` lists them. Put them again with what fits the code, or delete them"
        yield Check(Grade.WARNING, what, found, do)
    if late:
        found = f"{_counted(late)} a tick that is more than {LATE} late, for example {late_name}"
        do = "does the sweep run? It makes the tasks of their ticks: `joblane ls --type jobs:sweep`"
        yield Check(Grade.BAD, f"ticks of {what}", found, do)
    if not number and not late:
        yield Check(Grade.GOOD, what, "none has a problem, and none is late")


def _counted(number: int) -> str:
    least = "at least " if number == MOST_SCHEDULES else ""
    return f"{least}{number:,} {'schedule has' if number == 1 else 'schedules have'}"


PARTS: tuple[tuple[str, Callable[[Scope], Iterator[Check]]], ...] = (
    ("runs", failures),
    ("waits", waits),
    ("leases", leases),
    ("events", doctor_events.waiting),
    ("schedules at run time", schedules),
)
