"""Schedules: their next times, their last ticks, and their state on AWS."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from joblane.errors import DeclarationError
from joblane.inspector.actions import audit
from joblane.inspector.actions.single import named
from joblane.inspector.errors import ActionError, SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.scope import Scope
from joblane.inspector.stage import pauses
from joblane.inspector.stage.aws import client
from joblane.inspector.stage.last_ticks import last_ticks
from joblane.inspector.views import ActionResult, ScheduleView, TickView
from joblane.names import cron_group_name, schedule_name
from joblane.quotas import CONTENT_KEPT_FOR_MESSAGES
from joblane.record.row.states import State, as_read
from joblane.sqs.message import TICK_ID_PATTERN
from joblane.sqs.tick import id_of, tick_entry
from joblane.sweep.missed_ticks import PATIENCE
from joblane.tasks.discovery import load
from joblane.tasks.schedule import Schedule
from joblane.tasks.task import Task

NEXT_TIMES = 3
PAST = 10
MISSED_SHOWN = 20
"""Times of missed ticks."""
MISSING = "MISSING"
"""State of a schedule that does not exist on AWS, while other schedules of the stage do."""

# The ids of a schedule's ticks differ only in their times, so the last ticks are at the end of the range in the index.
TICKS = f"""
select s.type, s.name, t.id, t.state, a.duration_ms
  from jsonb_to_recordset($1::jsonb) as s(type text, name text, low text, high text),
       lateral (select id, state from joblane.tasks where id >= s.low collate "C" and id < s.high collate "C"
                 order by id desc limit {PAST}) as t
       left join lateral (select duration_ms from joblane.task_attempts where task_id = t.id
                           order by task_id desc, run desc limit 1) as a on true
"""

TICKED = """
select state from joblane.tasks where id = $1
union all
select 'pending' from joblane.audit where target = $2 and action = 'tick' and details ->> 'id' = $1
 limit 1
"""
"""The tick of this minute, if it exists: a second tick would be the same task, and run nothing."""


def schedules(scope: Scope) -> tuple[ScheduleView, ...]:
    """The schedules of all types, with the times of the stage."""
    declared = [(task, schedule) for task in scope.tasks.values() for schedule in task.schedules]
    paused = {pause.name: pause for pause in pauses.current(scope.connection) if pause.scope is PauseScope.SCHEDULE}
    known = _known_ticks(scope, declared)
    last_day = last_ticks(scope)
    states = _states_on_aws(scope)
    now = datetime.now(UTC)
    return tuple(
        ScheduleView(
            type=task.type,
            name=str(schedule.name),
            text=schedule.text,
            timezone=schedule.timezone,
            overlap=task.overlap,
            next=tuple(_next_times(schedule, now)),
            ticks=_ticks(task, schedule, now, known.get((task.type, str(schedule.name)), {})),
            pause=paused.get(f"{task.type}:{schedule.name}"),
            on_aws=_state(task, schedule, states),
            missed=len(missed := last_day[task.type, str(schedule.name)].missed),
            missed_at=missed[:MISSED_SHOWN],
        )
        for task, schedule in declared
    )


# --- Ticks ---------------------------------------------------------------------------------------------------------


def _next_times(schedule: Schedule, now: datetime) -> Iterator[datetime]:
    for _ in range(NEXT_TIMES):
        now = schedule.next_after(now)
        yield now


def _ticks(
    task: Task[Any, Any], schedule: Schedule, now: datetime, known: Mapping[datetime, TickView]
) -> tuple[TickView, ...]:
    """The last ticks, newest first: recorded ticks, and missed ticks since the first recorded tick."""
    found = dict(known)
    if found:
        since = max(min(found), now - CONTENT_KEPT_FOR_MESSAGES)
        moment = now - PATIENCE
        for _ in range(PAST):
            moment = schedule.previous(moment)
            if moment < since:
                break
            found.setdefault(moment, TickView(moment, id_of(task.type, schedule.name, moment), None))
            moment -= timedelta(minutes=1)
    return tuple(found[at] for at in sorted(found, reverse=True)[:PAST])


def _known_ticks(
    scope: Scope, declared: Sequence[tuple[Task[Any, Any], Schedule]]
) -> dict[tuple[str, str], dict[datetime, TickView]]:
    """The last recorded ticks by type and schedule, each by its time."""
    ranges = [
        {"type": task.type, "name": name, "low": f"{task.type}:{name}:", "high": f"{task.type}:{name};"}
        for task, name in ((task, schedule.name) for task, schedule in declared)
    ]
    found: dict[tuple[str, str], dict[datetime, TickView]] = defaultdict(dict)
    for type_, name, id_, state, duration_ms in scope.connection.run(TICKS, json.dumps(ranges)):
        if TICK_ID_PATTERN.fullmatch(id_):
            at = datetime.fromisoformat(id_.removeprefix(f"{type_}:{name}:"))
            found[type_, name][at] = TickView(at, id_, as_read(State, state), duration_ms)
    return found


# --- State on AWS --------------------------------------------------------------------------------------------------


def _states_on_aws(scope: Scope) -> dict[str, str]:
    """The states of the stage's schedules in EventBridge Scheduler, by name; empty if it does not answer."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        with client("scheduler", scope.region) as aws:
            pages = aws.get_paginator("list_schedules").paginate(GroupName=cron_group_name(scope.prefix))
            return {item["Name"]: item["State"] for page in pages for item in page["Schedules"]}
    except (BotoCoreError, ClientError):  # not reachable, not allowed, or no such group
        return {}


def _state(task: Task[Any, Any], schedule: Schedule, states: Mapping[str, str]) -> str | None:
    """The state on AWS. A schedule that is two on AWS has the worse state."""
    if not states:
        return None
    names = [schedule_name(task.type, str(schedule.name), n) for n in range(1, len(schedule.expressions) + 1)]
    found = [states.get(name, MISSING) for name in names]
    return next((state for state in found if state != "ENABLED"), "ENABLED")


# --- Sending a tick now --------------------------------------------------------------------------------------------


def tick(scope: Scope, type_: str, schedule: str | None, reason: str | None) -> ActionResult:
    """The tick is sent just before the audit entry commits, so a tick that could not be sent leaves no entry."""
    task = _as_declared(named(scope, type_))
    chosen = [each for each in task.schedules if schedule in (None, each.name)]
    if not task.schedules:
        raise SelectionError("schedule", f"{task.type} has no schedule: it is not a periodic task")
    if len(chosen) != 1:
        names = ", ".join(str(each.name) for each in task.schedules)
        raise SelectionError("schedule", f"give the name of a schedule of {task.type}: {names}")
    name = f"{task.type}:{chosen[0].name}"
    for pause in pauses.current(scope.connection):
        if (pause.scope, pause.name) == (PauseScope.SCHEDULE, name):
            raise SelectionError("schedule", f"{name} is paused, so the tick would be cancelled; resume it first")
    now = datetime.now(UTC)
    id_ = id_of(task.type, chosen[0].name, now)
    with audit.action(scope, "tick", name, reason) as doing:
        for (state,) in doing.connection.run(TICKED, id_, name):
            problem = "the tick of this minute was sent already; wait for the next minute"
            raise ActionError(id_, "tick", State(state), (), audit.last(doing.connection, name), problem=problem)
        doing.details |= {"id": id_}
        scope.sqs.send(tick_entry(scope.prefix, task, chosen[0], now))
    return ActionResult(id_, "tick", None, State.PENDING, new_id=id_)


def _as_declared(task: Task[Any, Any]) -> Task[Any, Any]:
    """The task with all its declared schedules, including those that the stage disables."""
    try:
        return load(task.type, times={})
    except DeclarationError:  # declared outside of functions/, for example by a test
        return task
