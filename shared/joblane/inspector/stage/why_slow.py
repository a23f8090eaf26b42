"""Why the tasks of a type start late: the list of the runbook, from the database alone.

Each finding is a :class:`~joblane.inspector.views.Check` with its numbers and the command that fixes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from joblane.errors import LimitError
from joblane.inspector.durations import lasting, milliseconds
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.scope import Scope
from joblane.inspector.sentences.counts import first_of
from joblane.inspector.sentences.pauses import UNKNOWN_OPERATOR
from joblane.inspector.sentences.stage import runs_on
from joblane.inspector.shell import argument
from joblane.inspector.stage import limits, pauses
from joblane.inspector.stage.doctor import database as doctor_database
from joblane.inspector.stage.doctor.work import crowding
from joblane.inspector.stage.glance import LIVE_TASKS, STUCK
from joblane.inspector.stage.trends import performance
from joblane.inspector.tasks.filter_sql import BOUND, reading, unknown_type
from joblane.inspector.views import Check, Grade, Pause, RunCounts
from joblane.inspector.views.now import LEAST_RUNS, WARNING_SHARE
from joblane.inspector.views.runs import NEAR_TIMEOUT_PERCENT
from joblane.names import OWN_TYPES
from joblane.record.flow.limit_status import LimitKind, LimitStatus
from joblane.record.run_statistics import TIMED_OUTCOMES
from joblane.tasks.place import Lambda
from joblane.tasks.task import Task

RECENT, BEFORE = timedelta(minutes=15), timedelta(days=1)
LONGER = 1.5
"""Runs are longer than before from this factor on."""
MOST_TENANTS = 500

SET = {LimitKind.SHARED: "--total", LimitKind.TOTAL: "--max-total", LimitKind.KEY: "--max-per-key"}
"""Kind of a limit → the option that sets its tasks at a time."""

LIVE = f"""
with {LIVE_TASKS}
select case when grouping(queue) = 0 then queue end, case when grouping(tenant) = 0 then tenant end,
       count(*) filter (where state in ('pending', 'retry', 'scheduled') and due_at <= clock_timestamp()) as due,
       count(*) filter (where state = 'active'),
       count(*) filter (where state = 'active' and lease_until < clock_timestamp() - interval '{STUCK}'),
       count(*) filter (where state = 'held' and wait_kind is distinct from 'parents'),
       count(*) filter (where state = 'held' and wait_kind = 'parents'),
       count(*) filter (where state in ('pending', 'scheduled') and due_at > clock_timestamp()),
       count(*) filter (where state = 'retry' and due_at > clock_timestamp()),
       (extract(epoch from clock_timestamp()) - extract(epoch from min(due_at) filter (
               where state in ('pending', 'retry', 'scheduled') and due_at <= clock_timestamp())))::float8,
       (extract(epoch from min(due_at) filter (where state in ('pending', 'scheduled') and due_at > clock_timestamp()))
         - extract(epoch from clock_timestamp()))::float8
  from (select queue, coalesce(tenant, '') as tenant, state, due_at, lease_until, wait_kind from live
         where type = any($2::text[])) as mine
 group by grouping sets ((queue), (tenant), ())
 order by grouping(queue), grouping(tenant) desc, coalesce(tenant = any($3::text[]), false) desc, due desc
 limit {MOST_TENANTS + 1}
"""
"""The live tasks by queue, in all, and by tenant: the paused tenants ($3), then the tenants with the most due tasks."""
OTHERS = f"""
with {LIVE_TASKS}
select queue, type,
       count(*) filter (where state in ('pending', 'retry', 'scheduled') and due_at <= clock_timestamp()) as due,
       count(*) filter (where state = 'active'),
       count(*) filter (where state = 'active' and lease_until < clock_timestamp() - interval '{STUCK}')
  from live where type = any($2::text[]) group by 1, 2 order by 1, due desc, 2
"""
"""The live tasks of the other types of a place, by queue and type."""

LONGEST = f"""
select greatest(
  (select max(longest_ms) from joblane.run_statistics
    where kind = 'type' and name = $1 and (seconds = 3600 and at >= now() - interval '1 day'
                                           or seconds = 60 and at >= now() - interval '2 hours')),
  (select max(duration_ms) from joblane.runs
    where coalesce(type, '') = $1 and started_at >= now() - interval '15 min' and outcome in {TIMED_OUTCOMES}))::bigint
"""
"""The runs of hours, of minutes, and those that no sweep has added up. An index of types has too many other tasks."""
# The latest of a type are at the end of one index if they have ended, and of another if they are live.
ARRIVED = f"""
select (select count(*) from (select from joblane.tasks where type = any($1::text[]) and finished_at is not null
                                 and created_at >= now() - make_interval(secs => $2::int) limit {BOUND}) as e)
     + (select count(*) from (select type from joblane.tasks where finished_at is null
                                 and created_at >= now() - make_interval(secs => $2::int)
                               order by created_at desc, id desc limit {BOUND}) as l where type = any($1::text[]))
"""


@dataclass(frozen=True, slots=True)
class _Live:
    """Live tasks. ``stopped``: active, and their lease ended long ago; ``held``: by a limit; ``after``: by other tasks;
    ``later``: scheduled; ``retry``: until a later time; ``oldest``, ``first``: seconds since the first due one, and to
    the next."""

    due: int = 0
    active: int = 0
    stopped: int = 0
    held: int = 0
    after: int = 0
    later: int = 0
    retry: int = 0
    oldest: float | None = None
    first: float | None = None


@dataclass(frozen=True, slots=True)
class _Subject:
    """The type with its record: what waits and runs, by queue and by tenant, and its runs of two periods."""

    task: Task[Any, Any]
    name: str
    all: _Live
    queues: dict[str, _Live]
    tenants: dict[str, _Live]
    recent: RunCounts
    before: RunCounts
    arrived: int
    pauses: tuple[Pause, ...]
    others: dict[str, dict[str, _Live]]
    """The live tasks of the other types of its place, by queue and type."""


def why_slow(scope: Scope, name: str) -> tuple[Check, ...]:
    """Causes in the order of the runbook, the wait that they explain, and what is well.

    Raises :class:`SelectionError` if no such type is declared.
    """
    task = scope.task(name) if isinstance(name, str) else None
    if task is None:
        raise SelectionError("name", unknown_type(name, scope.tasks))
    subject = _read(scope, task)
    parts = (
        _waits,
        _place,
        _paused,
        _limits,
        _flooded,
        _lanes,
        _stopped,
        _longer,
        _timeout,
        _arriving,
        _failing,
        _later,
    )
    found = [check for part in parts for check in part(scope, subject)]
    found += doctor_database.sweep(scope)
    return tuple(sorted(found, key=_order))


def _order(check: Check) -> int:
    """Causes come first, then the wait that they explain."""
    is_wait = check.what == "waits"
    return 2 if check.grade is Grade.GOOD and not is_wait else int(is_wait)


def _read(scope: Scope, task: Task[Any, Any]) -> _Subject:
    types = list(task.types)
    with reading(scope.connection) as connection:
        current = pauses.current(connection)
        paused = [pause.name for pause in current if pause.scope is PauseScope.TENANT]
        rows = connection.run(LIVE, str(BOUND), types, paused)
        live = {(queue, tenant): _Live(*numbers) for queue, tenant, *numbers in rows}
        [[arrived]] = connection.run(ARRIVED, types, str(round(RECENT.total_seconds())))
        others: dict[str, dict[str, _Live]] = {}
        if task.place is not None:
            names = [name for other in scope.members(task) if other is not task for name in other.types]
            for queue, type_, *numbers in connection.run(OTHERS, str(BOUND), names):
                others.setdefault(queue, {})[type_] = _Live(*numbers)
    total = live.pop((None, None))
    queues = {queue: each for (queue, _), each in live.items() if queue is not None}
    tenants = {tenant: each for (queue, tenant), each in live.items() if queue is None}
    recent, before = performance.counts_of_type(scope, task.type, (RECENT, BEFORE))
    return _Subject(task, task.type, total, queues, tenants, recent, before, arrived, current, others)


def _waits(_: Scope, subject: _Subject) -> Iterator[Check]:
    """Say whether tasks of the type wait longer than its target. The other checks explain this one."""
    live, target = subject.all, subject.task.target_wait
    if live.oldest is None:
        held = [f"; {live.held:,} wait for a limit" if live.held else ""]
        held += [f"; {live.after:,} wait for other tasks" if live.after else ""]
        do = f"`joblane ls --type {subject.name} --state held`, and `joblane show` says for which" if live.after else ""
        yield Check(Grade.GOOD, "waits", f"no task is due and waits{''.join(held)}", do)
        return
    waited = lasting(timedelta(seconds=live.oldest))
    found = f"{live.due:,} {_tasks(live.due)} due, the oldest for {waited}; the target is {lasting(target)}"
    if live.oldest <= target.total_seconds():
        yield Check(Grade.GOOD, "waits", found)
    else:
        do = f"`joblane ls --type {subject.name} --state pending` lists them"
        yield Check(Grade.BAD, "waits", found, do)


def _place(scope: Scope, subject: _Subject) -> Iterator[Check]:
    """Name the types that share the lanes and the function of the type."""
    if (place := subject.task.place) is not None:
        others = sorted(task.type for task in scope.members(subject.task) if task is not subject.task)
        named = f": {first_of(others)}" if others else ""
        yield Check(Grade.GOOD, "place", f"it runs on {runs_on(place.name, len(others))}{named}")


def _paused(_: Scope, subject: _Subject) -> Iterator[Check]:
    queues = [] if subject.name.startswith(OWN_TYPES) else [str(queue) for queue in subject.task.lanes]
    names = {PauseScope.TYPE: subject.task.types, PauseScope.QUEUE: queues, PauseScope.TENANT: tuple(subject.tenants)}
    found = [pause for pause in subject.pauses if pause.name in names.get(pause.scope, ())]
    for pause in found:
        live = {PauseScope.QUEUE: subject.queues, PauseScope.TENANT: subject.tenants}.get(pause.scope)
        due = subject.all.due if live is None else live.get(pause.name, _Live()).due
        since, reason = lasting(datetime.now(UTC) - pause.since), f": {pause.reason}" if pause.reason else ""
        by = pause.by or UNKNOWN_OPERATOR
        text = (
            f"{pause.scope} {pause.name} was paused {since} ago by {by}{reason}. "
            f"{due:,} due {'task waits' if due == 1 else 'tasks wait'} for its end"
        )
        yield Check(Grade.BAD, "pause", text, f"`joblane resume {pause.scope} {argument(pause.name)}`")
    if not found:
        yield Check(Grade.GOOD, "pause", "neither the type, nor its queues, nor a tenant with due tasks is paused")


def _limits(scope: Scope, subject: _Subject) -> Iterator[Check]:
    task = subject.task
    if task.flow is None:
        yield Check(Grade.GOOD, "limits", "it has no limit")
        return
    names = limits.limits_of(task)
    late = datetime.now(UTC) - task.target_wait
    try:
        found = [check for name in names for limit in limits.limits(scope, name, None) for check in _limit(limit, late)]
    except LimitError as error:
        yield Check(Grade.WARNING, "limits", f"the database lacks its limits: {error}", doctor_database.MIGRATE)
        return
    yield from found or [Check(Grade.GOOD, "limits", "none of its limits keeps a task waiting")]


def _limit(limit: LimitStatus, late: datetime) -> Iterator[Check]:
    """Nothing for a limit with free slots. The tasks of each key are counted by the limits of the keys.

    ``late``: tasks that were due before this time wait longer than their target.
    """
    if limit.kind is LimitKind.EACH_KEY or not (limit.held or limit.timed):
        return
    what = f"limit {limit.name}" + ("" if limit.key is None else f", key {limit.key}")
    option = "" if limit.key is None else f" --key {argument(limit.key)}"
    allowed, name = limit.in_force.at_a_time, argument(limit.name)
    do = f"`joblane limits ls {name}{option}` shows it"
    if limit.own_change is not None:
        do = f"`joblane limits reset {name}{option}` returns to the declared values"
    elif allowed is not None:
        do = f"`joblane limits set {name}{option} {SET[limit.kind]} {2 * allowed or 1} --reason …` raises it"
    is_late = limit.oldest_held_at is not None and limit.oldest_held_at < late
    if limit.held and allowed is not None and limit.taken >= allowed:
        by = f", set by {limit.change.by or 'an operator'}" if limit.change is not None else ""
        found = f"{limit.taken:,} of {allowed:,} slots{by} are taken, {limit.running:,} by tasks that run"
        if not allowed:
            found = f"it is 0{by}, so none of its tasks starts"
        found += f"; {limit.held:,} wait"
        yield Check(Grade.BAD if is_late else Grade.WARNING, what, found, do)
    elif limit.timed or limit.next_start_at is not None:
        delayed = f"; a handler has delayed it until {limit.delayed_until:%H:%M:%S}Z" if limit.delayed_until else ""
        found = f"its rate starts {limit.timed:,} tasks later, and {limit.held:,} wait{delayed}"
        yield Check(Grade.WARNING, what, found, do)
    elif limit.held and is_late:
        found = f"it has free slots, and {limit.held:,} {_tasks(limit.held)} held"
        yield Check(Grade.WARNING, what, found, "`joblane schedules run jobs:sweep:0` starts them")


def _flooded(_: Scope, subject: _Subject) -> Iterator[Check]:
    due = subject.all.due
    name = crowding(Counter({tenant: live.due for tenant, live in subject.tenants.items()}))
    if name is None:
        yield Check(Grade.GOOD, "tenants", "no tenant keeps others waiting")
    elif not name:
        yield Check(Grade.GOOD, "tenants", f"{subject.tenants[name].due:,} of {due:,} due tasks have no tenant")
    else:
        found = f"tenant {name} has {subject.tenants[name].due:,} of {due:,} due tasks"
        do = f"`joblane pause tenant {argument(name)} --for 1h` lets the others run; `joblane queues --by tenant`"
        yield Check(Grade.WARNING, "tenants", found, do)


def _lanes(_: Scope, subject: _Subject) -> Iterator[Check]:
    """The database has no limit of a lane but the declared one, so its share of the budget is not compared. The lane of
    a place has the messages of all its types."""
    most, place = subject.task.max_concurrency, subject.task.place
    for queue, live in sorted(subject.queues.items()):
        if not live.due:
            continue
        at_once, others = most and most * subject.task.batch_size, subject.others.get(queue, {})
        active = sum(each.active - each.stopped for each in (live, *others.values()))
        what, due = f"lane {queue}", f"{live.due:,} {_tasks(live.due)} due{_due_of(others)}"
        runs = f"{active:,} run at a time, and {due}"
        if not active:
            do = "is it paused, or its event source mapping disabled or throttled? `joblane doctor` says so"
            yield Check(Grade.WARNING, what, f"nothing runs, and {due}", do)
        elif at_once and active >= at_once:
            do, its = f"raise {_most_of(place)}, and `concurrency_budget` of the stage", "the" if place else "its"
            if sum(each.due for each in others.values()) > live.due:
                do = f"{do}; or give the type a function of its own: its lane is then its own, too"
            yield Check(Grade.BAD, what, f"{runs}: {its} `max_concurrency` of {most} is reached", do)
        else:
            do = "compare with its share of `concurrency_budget`, and with the throttles on the dashboard"
            yield Check(Grade.GOOD, what, runs, do if not at_once else "")
    if not any(live.due for live in subject.queues.values()):
        active = subject.all.active - subject.all.stopped
        yield Check(Grade.GOOD, "lanes", f"{active:,} {'task runs' if active == 1 else 'tasks run'}, and none is due")


def _most_of(place: Lambda | None) -> str:
    return "its `max_concurrency`" if place is None else f'`max_concurrency` of `Lambda("{place.name}")`'


def _due_of(others: Mapping[str, _Live]) -> str:
    """Name the other types whose due tasks wait in the same lane, most tasks first."""
    due = [f"{live.due:,} of {type_}" for type_, live in others.items() if live.due]
    return f", with {first_of(due)} in the same lane" if due else ""


def _stopped(_: Scope, subject: _Subject) -> Iterator[Check]:
    stopped = subject.all.stopped
    if stopped:
        found = f"{stopped:,} active {_tasks(stopped)} not running: their leases ended more than {STUCK} ago"
        do = f"`joblane ls --type {subject.name} --lease-over`; the sweep sends their messages again"
        yield Check(Grade.WARNING, "leases", found, do)


def _longer(_: Scope, subject: _Subject) -> Iterator[Check]:
    new, old = subject.recent, subject.before
    if new.duration_ms is None or old.duration_ms is None or min(new.number, old.number) < LEAST_RUNS:
        yield Check(Grade.GOOD, "durations", "too few runs to compare")
        return
    now, then = new.duration_ms.p50, old.duration_ms.p50
    found = f"half of the runs take {milliseconds(now)}, and {milliseconds(then)} over the last day"
    if now > then * LONGER:
        do = f"did a deploy or a provider slow it down? `joblane runs {subject.name} --within 1d`"
        yield Check(Grade.WARNING, "durations", found, do)
    else:
        yield Check(Grade.GOOD, "durations", found)


def _timeout(scope: Scope, subject: _Subject) -> Iterator[Check]:
    """Compare the runs of a day with the timeout."""
    [[longest_ms]] = scope.connection.run(LONGEST, subject.name)
    percentiles, timeout = subject.before.duration_ms, subject.task.timeout
    if percentiles is None or longest_ms is None:
        return
    share, p99 = (each * timedelta(milliseconds=1) / timeout for each in (longest_ms, percentiles.p99))
    found = (
        f"99 % of the runs of the last day took {milliseconds(percentiles.p99)} or less ({p99:.0%} of the timeout of "
        f"{lasting(timeout)}), the longest {milliseconds(longest_ms)} ({share:.0%})"
    )
    if share * 100 >= NEAR_TIMEOUT_PERCENT and not subject.task.resumable:
        do = f"raise `timeout` or `memory_mb`, or split the work; `joblane runs {subject.name}` shows since when"
        yield Check(Grade.WARNING, "timeout", found, do)
    else:
        yield Check(Grade.GOOD, "timeout", found)


def _arriving(_: Scope, subject: _Subject) -> Iterator[Check]:
    counts, minutes = subject.recent, round(RECENT.total_seconds() / 60)
    ended = counts.completed + counts.archived
    found = f"{subject.arrived:,} tasks came in the last {minutes} minutes, and {ended:,} ended"
    if subject.all.due and subject.arrived > ended * 1.1 + LEAST_RUNS:
        place = subject.task.place
        of = "`max_concurrency` of the task" if place is None else _most_of(place)
        do = f"raise {of} and `concurrency_budget`, or enqueue less"
        yield Check(Grade.WARNING, "arrivals", found, do)
    else:
        yield Check(Grade.GOOD, "arrivals", found)


def _failing(_: Scope, subject: _Subject) -> Iterator[Check]:
    counts, live = subject.recent, subject.all
    waits = "task waits" if live.retry == 1 else "tasks wait"
    found = f"{counts.unsuccessful:,} of {counts.number:,} recent runs failed; {live.retry:,} {waits} for a retry"
    fails = counts.number >= LEAST_RUNS and counts.unsuccessful >= counts.number * WARNING_SHARE
    # after an outage most tasks may wait for hours, and none runs
    waiting = live.retry >= max(LEAST_RUNS, (live.due + live.active + live.retry + counts.number) * WARNING_SHARE)
    if fails or waiting:
        do = f"`joblane errors --type {subject.name}` shows why"
        yield Check(Grade.WARNING, "failures", found, do)
    else:
        yield Check(Grade.GOOD, "failures", found)


def _later(_: Scope, subject: _Subject) -> Iterator[Check]:
    live = subject.all
    if live.later:
        first = f", the first in {lasting(timedelta(seconds=live.first))}" if live.first is not None else ""
        yield Check(
            Grade.GOOD, "scheduled", f"{live.later:,} {_tasks(live.later)} due later{first}: these are not late"
        )


def _tasks(number: int) -> str:
    return "task is" if number == 1 else "tasks are"
