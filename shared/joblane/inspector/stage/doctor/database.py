"""Checks of a deployment in its database: schema, clock, sweep, ticks, types, pauses, limits and old snapshots."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from pg8000.exceptions import Error as PostgresError

from joblane.errors import ForeignSchemaError, sqlstate, text_of
from joblane.inspector.durations import lasting, stamp
from joblane.inspector.paths import path
from joblane.inspector.scope import Scope
from joblane.inspector.stage import schedules
from joblane.inspector.stage.doctor import control, sessions
from joblane.inspector.stage.glance import Glance
from joblane.inspector.views import Check, Grade
from joblane.names import SWEEP, full_schedule_name
from joblane.record import migrations
from joblane.record import sql_functions as functions
from joblane.record.driver.advice import advice_for
from joblane.record.driver.connection import INSUFFICIENT_PRIVILEGE
from joblane.record.migrations.catalogue import Severity, differences
from joblane.record.schedules import UNDELIVERED
from joblane.sweep.old_snapshot import old_snapshot

CLOCK_SECONDS = 5.0
"""With a larger difference, ticks and due messages get wrong times."""
BROKEN_CLOCK_SECONDS = 240.0
"""AWS refuses a signature that is five minutes off its own time. Source: IAM, *Signature Version 4*."""
MIGRATE = "run `joblane migrate`; on AWS, a deploy runs it"

WRITE = "insert into joblane.task_items (task_id, key) values ('doctor', 'doctor')"

GRADES = {Severity.ERROR: Grade.BAD, Severity.WARNING: Grade.WARNING, Severity.NOTE: Grade.GOOD}
VERSIONS = "select version from joblane.functions order by migrated_at desc"
SWEPT = """
select max(finished_at), clock_timestamp(), (select planned_sweep_at from joblane.stage),
       (array_agg(result -> 'failed' order by finished_at desc))[1]
  from (select finished_at, result from joblane.tasks
         where type = $1 and finished_at is not null and state = 'completed'
         order by created_at desc, id desc limit 20) as last
"""
NOT_REGISTERED = """
select x.name, s.name is not null from jsonb_array_elements_text($1::jsonb) as x(name)
  left join joblane.schedules s on s.name = x.name
"""
WAITING = """
select distinct p.type, c.type
  from (select child, parent from joblane.task_parents limit 10000) e
  join joblane.tasks p on p.id = e.parent join joblane.tasks c on c.id = e.child
 order by p.type, c.type
"""
"""The types of some tasks that others wait for, each with the type that waits."""


def schema(scope: Scope) -> Iterator[Check]:
    """The migrations, what differs from them, and the functions of this code."""
    for check in _version(scope):
        yield check
        if check.what == "migrations" and check.grade is Grade.GOOD:
            for each in differences(scope.connection):
                yield Check(GRADES[each.severity], each.what, each.found, each.do)


def _version(scope: Scope) -> Iterator[Check]:
    """The migrations, and the functions of this code."""
    newest = migrations.newest()
    try:
        applied = migrations.checked_revision(scope.connection)
    except ForeignSchemaError as error:
        yield Check(Grade.BAD, "migrations", error.found, error.do)
        return
    if applied is None:
        yield Check(Grade.BAD, "migrations", "the database is empty: the migrations are missing", MIGRATE)
    elif applied < newest:
        lacks = f"migrations are missing: the database is at revision {applied} and this code needs {newest}"
        yield Check(Grade.BAD, "migrations", lacks, MIGRATE)
    elif applied > newest:
        ahead = f"the database is at revision {applied}, newer than this code ({newest})"
        yield Check(Grade.WARNING, "migrations", ahead, "use the version that is deployed")
    else:
        yield Check(Grade.GOOD, "migrations", f"the database is at revision {applied}")
    if applied is not None:
        yield from functions_of_code(scope)


def functions_of_code(scope: Scope) -> Iterator[Check]:
    """The database has the functions that this code calls. No check if it has."""
    if not functions.installed(scope.connection):
        versions = [version for (version,) in scope.connection.run(VERSIONS)]
        others = "" if functions.VERSION in versions else ", ".join(versions)  # dropped by hand
        has = f", and has {others}" if others else ""
        lacks = f"the database lacks the functions of this code, version {functions.VERSION}{has}: it claims no task"
        yield Check(
            Grade.BAD, "functions", lacks, f"use the code that is deployed, or {MIGRATE}" if others else MIGRATE
        )


def writes(scope: Scope) -> Iterator[Check]:
    """The database accepts writes. The row of the test is rolled back."""
    connection = scope.connection
    connection.execute_simple("begin")
    try:
        connection.run(WRITE)
        yield Check(Grade.GOOD, "writes", "the database accepts writes")
    except PostgresError as error:
        do = advice(error)
        if do is None:
            raise
        yield Check(Grade.BAD, "writes", f"the database refuses writes: {text_of(error)}", do)
    finally:
        if connection.usable:
            connection.rollback()


def advice(error: BaseException) -> str | None:
    """Return what to do about a server that refuses writes or logins with this error. None: nothing is known."""
    do = advice_for(error)
    return do and f"{do}: until then tasks wait in their queues, and enqueues fail"


def search_path(scope: Scope) -> Iterator[Check]:
    """No schema comes before ``pg_catalog``, because PostgreSQL would call functions there instead of built-in ones."""
    [[searched]] = scope.connection.run("select current_schemas(true)")
    before = [name for name in searched[: searched.index("pg_catalog")] if not name.startswith("pg_temp")]
    if before:
        found = f"PostgreSQL searches {', '.join(before)} before pg_catalog: functions there replace its own"
        do = "remove pg_catalog from the search_path of the role and of the database: PostgreSQL then searches it first"
        yield Check(Grade.WARNING, "search_path", found, do)


def clock(scope: Scope) -> Iterator[Check]:
    """Compare this machine's clock with the database's, to within half a round trip."""
    before = datetime.now(UTC)
    ((theirs,),) = scope.connection.run("select clock_timestamp()")
    after = datetime.now(UTC)
    apart = max((theirs - after).total_seconds(), (before - theirs).total_seconds(), 0.0)
    found = f"this machine's clock and the database's are {apart:.1f} s apart"
    if apart <= CLOCK_SECONDS:
        yield Check(Grade.GOOD, "clock", found)
    else:
        grade = Grade.BAD if apart > BROKEN_CLOCK_SECONDS else Grade.WARNING
        yield Check(grade, "clock", found, "synchronize both with a time server")


def sweep(scope: Scope) -> Iterator[Check]:
    """The sweep, on which all other tasks rely, runs on time: by its schedule, and by its own plan."""
    task = scope.tasks.get(SWEEP)
    if task is None:
        return
    ((last, now, planned, failed),) = scope.connection.run(SWEPT, SWEEP)
    next_at = min(schedule.next_after(now) for schedule in task.schedules)
    do = f"check the log of its function, its schedule and its lane; `joblane schedules run {SWEEP}:0` runs it now"
    where = path("/tasks", type=SWEEP)
    if last is None:
        found = f"it has not completed yet; its next time is in {lasting(next_at - now)}"
        yield Check(Grade.WARNING, SWEEP, found, do, where)
        return
    due = min(schedule.next_after(last) for schedule in task.schedules)
    if planned is not None and planned > last:
        due = min(due, planned)
    late = now - due
    ran = f"it last completed {lasting(now - last)} ago"
    if late > UNDELIVERED:
        yield Check(Grade.BAD, SWEEP, f"{ran}, and was due {lasting(late)} ago", do, where)
    elif failed:
        do = "its log has the reason: the line `a duty of the sweep failed`"
        yield Check(Grade.BAD, SWEEP, f"{ran}, and some of its duties failed: {', '.join(map(str, failed))}", do, where)
    else:
        yield Check(Grade.GOOD, SWEEP, f"{ran}, and is due in {lasting(-late)}" if due > now else ran)


def ticks(scope: Scope) -> Iterator[Check]:
    """All ticks of schedules of the code of the last day arrived, and all these schedules are registered."""
    found = {one.name: one for one in schedules.of_code(scope)}
    for one in (one for one in found.values() if one.missing):
        has_ticks = any(tick.state is not None for tick in one.ticks)
        some = "and none arrived" if not has_ticks else f"the latest at {stamp(one.missing_at[0])}"
        text = f"{one.missing:,} of its ticks of the last day are missing, {some}"
        do = f"was the stage down, or its lane behind? `joblane schedules run {one.name}` runs its task now"
        grade = Grade.WARNING if has_ticks else Grade.BAD
        yield Check(grade, f"schedule {one.name}", text, do, path("/schedules/show", name=one.name))
    declared = {
        full_schedule_name(task.type, str(each.name)): each for task in scope.tasks.values() for each in task.schedules
    }
    unknown = [name for name in declared if name not in found]
    others = [
        one
        for name, one in found.items()
        if (each := declared.get(name)) is not None and (each.text, each.timezone) != (one.text, one.timezone)
    ]
    for one in others:
        text = f"it is registered with the times {one.text!r} {one.timezone}, but this code has others"
        do = "deploy again, or run `joblane migrate` with the settings of the stage: until then the sweep skips it"
        yield Check(Grade.WARNING, f"schedule {one.name}", text, do)
    for name, taken in scope.connection.run(NOT_REGISTERED, json.dumps(unknown)) if unknown else ():
        text, do = "the code declares it, but it is not registered", "`joblane migrate` registers it"
        if taken:
            text = "the code declares it, but a schedule made at run time has its name: both fire"
            do = "rename the declared one, or `joblane schedules delete` the other, and then `joblane migrate`"
        yield Check(Grade.WARNING, f"schedule {name}", text, do)
    yield Check(Grade.GOOD, "ticks", "no tick of the last day is missing")


def undeclared(scope: Glance) -> Iterator[Check]:
    declared = {type_ for task in scope.tasks.values() for type_ in task.types}
    counts: Counter[str] = Counter()
    for (_, type_), states in scope.recorded.tasks.items():
        counts[type_] += states.total()
    for type_, count in sorted(counts.items()):
        if type_ not in declared:
            found = f"{count} live task{'s' * (count != 1)} of this type, and no code declares it"
            do = f"deploy it again, name it in aliases= of another type, or `joblane archive --type {type_}`"
            yield Check(Grade.BAD, f"type {type_}", found, do, path("/tasks", type=type_))
    yield Check(Grade.GOOD, "types", "the types of all live tasks are declared")


def grants(scope: Scope) -> Iterator[Check]:
    """The end of a task may send the messages of the tasks that wait for it. An enqueue cannot check that."""
    for parent, child in scope.connection.run(WAITING):
        task = next((task for task in scope.tasks.values() if parent in task.types), None)
        runs_it = any(parent in task.grants.run for task in scope.tasks.values() if child in task.types)
        if task is not None and not task.may_enqueue(child) and not runs_it:
            found = (
                f"tasks of {child!r} wait for its tasks, and it may not send their messages: they start minutes late"
            )
            yield Check(Grade.WARNING, f"type {parent}", found, f"add {child!r} to its grants.enqueue, and deploy it")


def snapshots(scope: Scope) -> Iterator[Check]:
    """No snapshot keeps dead rows for long. If the role lacks the rights to see them, the result is unknown."""
    try:
        oldest = old_snapshot(scope.connection)
    except PostgresError as error:
        if sqlstate(error) != INSUFFICIENT_PRIVILEGE:
            raise
        do = "grant the role this right, which PostgreSQL grants to everyone by default"
        yield Check(Grade.UNKNOWN, "snapshots", f"this role cannot look for them: {text_of(error)}", do)
        return
    if oldest is not None:
        since = lasting(timedelta(seconds=oldest.seconds))
        found = f"the {oldest.text} has kept dead rows for {since} or longer: tasks with limits start more slowly"
        yield Check(Grade.WARNING, "snapshots", found, f"end it: {oldest.end}")


PARTS: tuple[tuple[str, Callable[[Glance], Iterator[Check]]], ...] = (
    ("migrations", schema),
    ("writes", writes),
    ("search_path", search_path),
    ("clock", clock),
    (SWEEP, sweep),
    ("ticks", ticks),
    ("types", undeclared),
    ("grants", grants),
    ("pauses", control.pauses),
    ("limits", control.limits),
    ("snapshots", snapshots),
    ("connections", sessions.sessions),
    ("storage", sessions.storage),
)
"""The migrations come first: on an empty database there is nothing else to check."""
SHOWN_WHOLE = (schema, control.pauses)
"""Parts whose good checks are shown although they have findings."""
