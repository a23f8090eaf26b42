"""The checks of a deployment: all required parts exist and are enabled, and the work goes well.

A part that cannot be checked is reported as unknown, and the other parts are still checked. The good check of a part
is dropped if the part has findings. The checks of the work:
failures of the last 15 minutes, hooks that keep runs from their start, tasks that wait past their target, stuck leases,
events that wait for the bus, and schedules with a problem, late or frequent ones. Types for which a larger batch pays,
and types of several tenants without a limit per key, are good checks with an advice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta

from pg8000.exceptions import Error as PostgresError

from joblane.errors import NOT_IN_DEV, sqlstate, text_of
from joblane.inspector.durations import lasting, milliseconds
from joblane.inspector.paths import path
from joblane.inspector.scope import Scope
from joblane.inspector.sentences.batching import later_line, saving_line
from joblane.inspector.sentences.counts import first_of
from joblane.inspector.stage import batching
from joblane.inspector.stage.aws import is_emulator
from joblane.inspector.stage.doctor import aws, work
from joblane.inspector.stage.doctor import database as doctor_database
from joblane.inspector.stage.glance import MINUTES, STUCK, Glance, glance
from joblane.inspector.tasks.filter_sql import BOUND, reading
from joblane.inspector.unavailable import DENIED, MISSING
from joblane.inspector.views import Check, Grade
from joblane.inspector.views.runs import NEAR_TIMEOUT_PERCENT
from joblane.names import SWEEP
from joblane.record.driver.connection import INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE
from joblane.record.run_statistics import TIMED_OUTCOMES
from joblane.record.schedules import PAUSED
from joblane.sweep.events import KEPT

ORDER = (Grade.BAD, Grade.WARNING, Grade.UNKNOWN, Grade.GOOD)
UNREACHABLE = "check that the local stack (`joblane status`) or the cluster runs, and that the network allows access"
RIGHTS = "if the functions log in with this role, deploy again, which grants its rights; otherwise use their role"

Part = Callable[["Scope"], Iterable[Check]]
Parts = Sequence[tuple[str, Callable[[Glance], Iterator[Check]]]]


def checks(scope: Scope) -> tuple[Check, ...]:
    """All checks, worst first."""
    found = [*checks_of_database(glance(scope))]
    for what, permission, part in aws.PARTS:
        found += _aws(scope, what, permission, part)
    return tuple(sorted(found, key=lambda check: ORDER.index(check.grade)))


def checks_of_database(scope: Glance, parts: Parts | None = None) -> Iterator[Check]:
    """The checks of the database. ``parts`` None: all.

    If the database is unavailable, that is the only finding. Missing tables are not reported in addition to missing
    migrations, and what is missing in the schema is reported once.
    """
    is_broken = False
    for what, part in parts or (*doctor_database.PARTS, *OF_WORK):
        try:
            found = [*part(scope)] if part in doctor_database.SHOWN_WHOLE else _findings(part(scope))
            yield from found
            is_broken = is_broken or (part is doctor_database.schema and any(each.grade is Grade.BAD for each in found))
        except (PostgresError, OSError) as error:
            scope.database.drop()
            if sqlstate(error) in MISSING:
                if not is_broken:
                    lacks = f"the database lacks a table, column or function of its migrations: {text_of(error)}"
                    yield Check(Grade.BAD, what, lacks, "was it removed by hand? Restore it from a backup")
                return
            if sqlstate(error) == INSUFFICIENT_PRIVILEGE:
                yield Check(Grade.UNKNOWN, what, f"this role may not check it: {text_of(error)}", RIGHTS)
                if part is doctor_database.schema:
                    return
                continue
            if sqlstate(error) == LOCK_NOT_AVAILABLE:
                do = "end the transaction that holds the lock: pg_blocking_pids() finds it"
                yield Check(Grade.BAD, what, f"a table is locked: {text_of(error)}", do)
                return
            problem = f"the database cannot be reached: {text_of(error)}"
            yield Check(Grade.BAD, what, problem, doctor_database.advice(error) or UNREACHABLE)
            return


def _findings(found: Iterable[Check]) -> list[Check]:
    """The findings of a part; its good checks if it has none."""
    checks = list(found)
    return [check for check in checks if check.grade is not Grade.GOOD] or checks


def _aws(scope: Scope, what: str, permission: str, part: Part) -> list[Check]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return _findings(part(scope))
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code == NOT_IN_DEV:
            return [Check(Grade.GOOD, what, "`joblane dev` has none of it", "")]
        do = f"allow {permission}" if code in DENIED else "run this again"
        return [Check(Grade.UNKNOWN, what, f"AWS answers {error.operation_name} with {code}", do)]
    except BotoCoreError as error:
        do = "check credentials and region, and that the network allows access to AWS"
        if is_emulator():
            do = "check that the local stack runs: `joblane status` shows it, `joblane up` starts it"
        return [Check(Grade.UNKNOWN, what, f"AWS cannot be reached: {str(error).rstrip('.')}", do)]


# --- The work ---------------------------------------------------------------------------------------------------------


HOOKS = f"""
select type, count(*), (array_agg(error_message order by started_at desc))[1]
  from joblane.runs
 where started_at >= now() - interval '{MINUTES} min' and outcome = 'not_started' and type is not null
 group by type order by type
"""
LONGEST_HOURS = 3
LONGEST = f"""
select type, max(duration_ms)::bigint from joblane.runs
 where started_at >= now() - interval '{LONGEST_HOURS} h' and outcome in {TIMED_OUTCOMES} and type is not null
 group by type
"""
MOST_TYPES = 5
"""Types that a finding names."""
MOST_SCHEDULES = 1_000
"""Schedules with a problem, late or frequent ones that are counted."""
FREQUENT_TICKS = 288
"""Ticks of a day at five minutes between two."""
LATE = "10 min"
"""A schedule whose next tick has no task so long after its time is late: tasks are created ahead."""
PROBLEMS = f"""
select count(*), min(name), (array_agg(problem order by name))[1]
  from (select name, problem from joblane.schedules where problem is not null order by name limit {MOST_SCHEDULES}) as x
"""
FREQUENT = f"""
select count(*), min(name)
  from (select name from (select name, origin, updated_at, paused_at, paused_until from joblane.schedules
                           where ticks_a_day > {FREQUENT_TICKS} order by ticks_a_day desc limit {BOUND}) as s
         where updated_at > clock_timestamp() - interval '1 day' and origin = 'run_time' and not {PAUSED}
         limit {MOST_SCHEDULES}) as x
"""
# now(), which the index on next_at is searched for, and not clock_timestamp(), which is volatile.
LATE_SCHEDULES = f"""
select count(*), min(name)
  from (select name from joblane.schedules
         where origin = 'run_time' and (paused_at is null or paused_until is not null)
           and next_at < now() - interval '{LATE}'
         order by next_at limit {MOST_SCHEDULES}) as x
"""
LEAST_SAVING_USD = 1
"""Dollars a month. A smaller saving of a larger batch is not named here; `joblane costs --batches` has it."""
MOST_EVENTS = 10_000
"""Waiting events are counted up to here."""
LATE_EVENTS = timedelta(minutes=15)
"""A sweep sends what a worker has left, within five minutes."""
WAITING_EVENTS = f"""
select count(*), extract(epoch from clock_timestamp() - min(created_at))::float8
  from (select created_at from joblane.events order by created_at, id limit {MOST_EVENTS + 1}) as e
"""
REFUSAL = f"""
select result ->> 'events_refusal' from joblane.tasks
 where type = '{SWEEP}' and finished_at is not null and state = 'completed' order by created_at desc, id desc limit 1
"""


def hooks(scope: Glance) -> Iterator[Check]:
    """No hook has kept a handler from its start. No check if none has, as most stages have no hooks."""
    if not any(each.not_started for each in scope.latest):
        return
    with reading(scope.connection) as connection:
        rows = connection.run(HOOKS)
    for type_, number, problem in rows:
        found = f"{number:,} run{'s' * (number != 1)} could not start in the last {MINUTES} minutes: {problem}"
        do = "correct the hook and deploy: until then the messages stay in the queue, and no attempt is spent"
        yield Check(Grade.BAD, f"hooks of {type_}", found, do, path("/runs", type=type_))


def timeouts(scope: Scope) -> Iterator[Check]:
    """No run of the last hours took nearly its timeout. A resumable task is left out: it uses each invocation to its
    end and continues in the next one."""
    near = []
    for type_, longest_ms in scope.connection.run(LONGEST):
        task = scope.task(type_)
        if task is not None and not task.resumable and longest_ms is not None:
            near.append((longest_ms / (task.timeout / timedelta(milliseconds=1)), longest_ms, task))
    for share, longest_ms, task in sorted(near, key=lambda each: -each[0]):
        if share * 100 >= NEAR_TIMEOUT_PERCENT:
            found = (
                f"a run of the last {LONGEST_HOURS} hours took {milliseconds(longest_ms)}, {share:.0%} of its timeout"
            )
            found = f"{found} of {lasting(task.timeout)}; a longer one is interrupted and fails"
            do = f"raise `timeout` or `memory_mb`, or split the work; `joblane why {task.type}` has the percentiles"
            yield Check(Grade.WARNING, f"timeout of {task.type}", found, do, path("/runs/why", type=task.type))
    yield Check(Grade.GOOD, "timeouts", f"no run of the last {LONGEST_HOURS} hours was near its timeout")


def leases(scope: Glance) -> Iterator[Check]:
    """No run holds its task long after the end of its lease."""
    for type_, (number, example) in sorted(scope.recorded.stuck.items()):
        found = (
            f"{number:,} run{'s' * (number != 1)} ended more than {STUCK} ago without a result, for example {example}"
        )
        do = "check that the sweep runs: it sends their messages again, and the next claim counts them as lost"
        where = path("/tasks", type=type_, lease_over="yes")
        yield Check(Grade.WARNING, f"leases of {type_}", found, do, where)
    yield Check(Grade.GOOD, "leases", "no run holds a task past its lease")


def events(scope: Scope) -> Iterator[Check]:
    """Events do not wait for the bus. No check if no task declares events and none waits."""
    [[number, seconds]] = scope.connection.run(WAITING_EVENTS)
    if not number:
        if any(task.events for task in scope.tasks.values()):
            yield Check(Grade.GOOD, "events", "no event waits for the bus")
        return
    shown = f"{number:,}" if number <= MOST_EVENTS else f"more than {MOST_EVENTS:,}"
    age = timedelta(seconds=max(0.0, seconds))
    refusal = next((text for (text,) in scope.connection.run(REFUSAL)), None)
    found = f"{shown} event{'s wait' if number != 1 else ' waits'} for the bus, the oldest for {lasting(age)}"
    if refusal is None and age < LATE_EVENTS:
        yield Check(Grade.GOOD, "events", found)
        return
    do = (
        "check that the sweep, which sends them, runs, and that its function has JOBLANE_EVENT_BUS"
        if refusal is None
        else ""
    )
    do = do or f"they are sent as soon as the bus accepts them, and dropped after {KEPT.days} days"
    yield Check(Grade.BAD, "events", f"{found}: {refusal}" if refusal else found, do)


def schedules(scope: Scope) -> Iterator[Check]:
    """Schedules whose last tick got no task, those whose next tick is late, and new ones that fire often."""
    what = "stored schedules"
    [[number, name, problem]] = scope.connection.run(PROBLEMS)
    [[late, late_name]] = scope.connection.run(LATE_SCHEDULES)
    if number:
        found = f"{_counted(number)} a problem, for example {name}: {problem}"
        do = "`joblane schedules --problem` lists them. Replace them with schedules that fit the code, or delete them"
        yield Check(Grade.WARNING, what, found, do, path("/schedules", problem="yes"))
    if late:
        found = f"{_counted(late)} a tick that is more than {LATE} late, for example {late_name}"
        do = "check that the sweep runs, which creates the tasks of their ticks: `joblane ls --type jobs:sweep`"
        yield Check(Grade.BAD, "ticks of schedules", found, do, path("/schedules/show", name=late_name))
    [[frequent, often]] = scope.connection.run(FREQUENT)
    if frequent:
        found = f"{_counted(frequent)} less than 5 minutes between two ticks, new or changed within a day"
        found = f"{found}, for example {often}"
        do = "not intended? `joblane schedules --sort ticks` lists them; `joblane schedules pause --tenant` stops many"
        yield Check(Grade.WARNING, "frequent schedules", found, do, path("/schedules", sort="ticks"))
    yield Check(Grade.GOOD, what, "none has a problem, and none is late")


def batches(scope: Scope) -> Iterator[Check]:
    """Name types for which a larger batch would save money. This is a note, and no problem."""
    found = [one for one in batching.batching(scope, ()) if one.advised and one.usd_a_month >= LEAST_SAVING_USD]
    for one in found:
        do = f"declare `batch_size={one.advised}`: {later_line(one)}"
        yield Check(Grade.GOOD, f"batches of {one.type}", saving_line(one), do)
    if not found:
        yield Check(Grade.GOOD, "batches", f"no larger batch_size would save ${LEAST_SAVING_USD} a month")


def tenants(scope: Glance) -> Iterator[Check]:
    """Name types whose runs are of several tenants and have no limit per key. This is a note, and no problem."""
    types = [scope.task(each.type) for each in scope.latest if each.tenants]
    found = [task.type for task in types if task is not None and not (task.flow and task.flow.key)]
    if not found:
        yield Check(Grade.GOOD, "tenants", f"no type ran for several tenants without a limit in {MINUTES} minutes")
        return
    why = f"{first_of(found, MOST_TYPES)}: runs of several tenants, and no limit for"
    do = 'declare `key="tenant", max_per_key=…`, because SQS\'s fair queues do not see each flood'
    yield Check(Grade.GOOD, "tenants", f"{why} each, so that one of them can fill the lanes of the type", do)


def _counted(number: int) -> str:
    least = "at least " if number == MOST_SCHEDULES else ""
    return f"{least}{number:,} {'schedule has' if number == 1 else 'schedules have'}"


OF_WORK: Parts = (
    ("bulk actions", work.bulks),
    ("runs", work.failures),
    ("callbacks", work.callbacks),
    ("hooks", hooks),
    ("timeouts", timeouts),
    ("waits", work.waits),
    ("leases", leases),
    ("events", events),
    ("stored schedules", schedules),
    ("batches", batches),
    ("tenants", tenants),
)
