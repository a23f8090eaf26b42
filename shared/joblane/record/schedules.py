"""Schedules: their rows, and the statements that change them. Each statement has one parameter, JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, overload

from joblane.errors import DeclarationError
from joblane.names import full_schedule_name
from joblane.quotas import MAX_DELAY_SECONDS
from joblane.record.sql_functions import VERSION
from joblane.record.task_types import literal
from joblane.tasks.schedule import Missed, Schedule

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection
    from joblane.tasks.task import Task

UNDELIVERED = timedelta(minutes=30)
"""A tick of a schedule of the code is missed after this time, because its message may wait in a lane with a backlog."""
GONE = "the code does not declare it any more, and it is paused: delete it, or deploy its declaration again"
"""The problem of a schedule of the code that was paused when a deploy removed it. Its pause is kept for a way back."""
PAUSED = "(paused_at is not null and (paused_until > clock_timestamp()) is not false)"

LOCK = f"select joblane.lock_schedule_{VERSION}(cast($1 as json))"
CANCEL_TICKS = f"select joblane.cancel_ticks_{VERSION}(cast($1 as json))"
ROW = "cast(pg_catalog.row_to_json(s) as text)"
_NAMED = "s.name = cast($1 as json) ->> 'name'"
GET = f"select {ROW} from joblane.schedules s where {_NAMED}"
WRITE = """
insert into joblane.schedules as s (name, type, payload, schema, tenant, options, expression, timezone, missed,
                                    ticks_a_day, revision, next_at, last_at, last_task)
select x.name, x.type, x.payload, x.schema, x.tenant, x.options, x.expression, x.timezone, x.missed,
       x.ticks_a_day, x.revision, x.next_at, x.last_at, x.last_task
  from json_to_record(cast($1 as json)) as x(
         name text, type text, payload jsonb, schema text, tenant text, options jsonb, expression text, timezone text,
         missed text, ticks_a_day float8, revision bigint, next_at timestamptz, last_at timestamptz, last_task text)
on conflict (name) do update set
  type = excluded.type, payload = excluded.payload, schema = excluded.schema, options = excluded.options,
  expression = excluded.expression, timezone = excluded.timezone, missed = excluded.missed,
  ticks_a_day = excluded.ticks_a_day, revision = excluded.revision, next_at = excluded.next_at,
  last_at = coalesce(excluded.last_at, s.last_at),
  last_task = coalesce(excluded.last_task, s.last_task), problem = null, updated_at = clock_timestamp()
returning s.name
"""
PAUSE = f"""
update joblane.schedules s
   set paused_at = clock_timestamp(), paused_until = x.until, paused_by = x.by, pause_reason = x.reason,
       revision = x.revision, next_at = coalesce(x.next_at, s.next_at),
       passed_until = coalesce(x.passed_until, s.passed_until), updated_at = clock_timestamp()
  from json_to_record(cast($1 as json)) as x(
         until timestamptz, by text, reason text, revision bigint, next_at timestamptz, passed_until timestamptz)
 where {_NAMED}
returning s.name
"""
RESUME = f"""
update joblane.schedules s
   set paused_at = null, paused_until = null, paused_by = null, pause_reason = null, revision = x.revision,
       next_at = x.next_at, passed_until = x.passed_until,
       last_at = coalesce(x.last_at, s.last_at), last_task = coalesce(x.last_task, s.last_task),
       updated_at = clock_timestamp()
  from json_to_record(cast($1 as json)) as x(
         revision bigint, next_at timestamptz, passed_until timestamptz, last_at timestamptz, last_task text)
 where {_NAMED}
returning s.name
"""
DELETE = f"delete from joblane.schedules s where {_NAMED} returning s.name"

_DUE = f"""
select cast(pg_catalog.row_to_json(s) as text), cast(now() as text) from joblane.schedules s
 where (s.paused_at is null or s.paused_until is not null) and s.next_at <= now() + interval '{MAX_DELAY_SECONDS} s'
   and (s.origin = 'run_time' or s.next_at <= now() - interval '{UNDELIVERED.total_seconds():.0f} s')"""
DUE = f"{_DUE} and s.name <> all($2::text[]) order by s.next_at, s.name limit $1::integer for update skip locked"
"""The schedules that fire within the time of a message's delay, and schedules of the code with ticks to look for. An
index has them, since ``now()`` is stable. A locked one is being changed, and is left to the sweep that the change has
woken. ``$2``: names that this sweep leaves."""
DUE_BY_NAME = f"{_DUE} and s.name = $1 for update skip locked"
WITHOUT_TASK = """
select x.id from json_array_elements_text($1::json) as x(id)
 where not exists (select from joblane.tasks t where t.id = x.id)
"""
MOVE = """
update joblane.schedules s
   set next_at = x.next_at, passed_until = coalesce(x.passed_until, s.passed_until),
       last_at = coalesce(x.last_at, s.last_at),
       last_task = coalesce(x.last_task, s.last_task), problem = x.problem,
       paused_at = case when s.paused_until <= now() then null else s.paused_at end,
       paused_by = case when s.paused_until <= now() then null else s.paused_by end,
       pause_reason = case when s.paused_until <= now() then null else s.pause_reason end,
       paused_until = case when s.paused_until <= now() then null else s.paused_until end
  from json_to_recordset($1::json) as x(
         name text, next_at timestamptz, passed_until timestamptz, last_at timestamptz, last_task text, problem text)
 where s.name = x.name
"""
DEPLOYED = f"clock_timestamp() + interval '{UNDELIVERED.total_seconds():.0f} s'"
"""The time from which ticks of new times are looked for: EventBridge has them when the deploy has ended."""
SAME_TIMES = "(s.expression, s.timezone) = (excluded.expression, excluded.timezone)"
REGISTER = f"""
with declared as (
  select * from json_to_recordset($1::json) as x(
    name text, type text, payload jsonb, expression text, timezone text, missed text, ticks_a_day float8)
),
dropped as (
  delete from joblane.schedules s where s.origin = 'code' and not {PAUSED}
     and not exists (select from declared d where d.name = s.name)
),
gone as (
  update joblane.schedules s set problem = $2::text where s.origin = 'code' and {PAUSED}
     and not exists (select from declared d where d.name = s.name)
)
insert into joblane.schedules as s (name, origin, type, payload, expression, timezone, missed, ticks_a_day, revision,
                                    next_at, looked_for_from)
select d.name, 'code', d.type, d.payload, d.expression, d.timezone, d.missed, d.ticks_a_day, 0, {DEPLOYED}, {DEPLOYED}
  from declared d
on conflict (name) do update set
  type = excluded.type, payload = excluded.payload, missed = excluded.missed, ticks_a_day = excluded.ticks_a_day,
  expression = excluded.expression, timezone = excluded.timezone, problem = null,
  next_at = case when {SAME_TIMES} then s.next_at else greatest(s.next_at, {DEPLOYED}) end,
  looked_for_from = case when {SAME_TIMES} then s.looked_for_from else {DEPLOYED} end,
  updated_at = clock_timestamp()
 where s.origin = 'code' and (s.type, s.payload, s.missed, s.expression, s.timezone, s.problem) is distinct from
       (excluded.type, excluded.payload, excluded.missed, excluded.expression, excluded.timezone, null)
"""


class Origin(StrEnum):
    """Where a schedule was made."""

    CODE = "code"
    """In the code, by ``@task(…, schedule=…)``. ``joblane migrate`` registers it, EventBridge Scheduler fires it."""
    RUN_TIME = "run_time"
    """By a program, with ``jobs.schedules.put(…)``. The sweep fires it."""


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule in the database. Times are in UTC."""

    name: str
    """Name, unique in the stage. Of a schedule of the code: its type, a colon, its name."""
    origin: Origin
    """Where it was made."""
    type: str
    """Type of its tasks."""
    payload: Mapping[str, Any] = field(repr=False)
    """Payload of each task, as JSON values. Redacted fields are not masked."""
    tenant: str | None
    """Tenant of its tasks. None: none."""
    options: Mapping[str, Any] = field(repr=False)
    """Enqueue options of its tasks, by their names; durations in seconds."""
    expression: str
    """Times at which it fires: five fields of Unix cron."""
    timezone: str
    """Time zone of these times: a name of the IANA database."""
    missed: Missed
    """Policy for missed ticks."""
    ticks_a_day: float
    """Ticks of an average day."""
    paused_at: datetime | None
    """Time since which it is paused. None: it is not paused."""
    paused_until: datetime | None
    """Time at which the pause ends by itself. None: none, or it is not paused."""
    next_at: datetime | None
    """Time of the next tick. A time in the past: the sweep has not made its task yet. None: it is paused."""
    last_at: datetime | None
    """Time of the last tick that the sweep gave a task, at most 15 minutes ahead. None: none yet."""
    last_task: str | None
    """Id of the task of this tick. None: none yet."""
    problem: str | None
    """Why the last tick got no task, or why it has no ticks. None: there is no problem."""
    created_at: datetime
    """Time at which it was first put."""
    updated_at: datetime
    """Time at which it was last changed, paused or resumed."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> StoredSchedule:
        """Return the schedule of a row of ``joblane.schedules``, as ``row_to_json`` writes it."""
        plain = (
            "name", "type", "payload", "tenant", "options", "expression", "timezone", "ticks_a_day", "last_task",
            "problem",
        )  # fmt: skip
        until = _time(row["paused_until"])
        is_paused = row["paused_at"] is not None and (until is None or until > datetime.now(UTC))
        return cls(
            **{name: row[name] for name in plain},
            origin=Origin(row["origin"]),
            missed=Missed(row["missed"]),
            paused_at=_time(row["paused_at"]) if is_paused else None,
            paused_until=until if is_paused else None,
            next_at=None if is_paused else _next_tick(row),
            last_at=_time(row["last_at"]),
            created_at=_time(row["created_at"]),
            updated_at=_time(row["updated_at"]),
        )


@dataclass(frozen=True, slots=True)
class PutSchedule:
    """The result of ``jobs.schedules.put``."""

    name: str
    """Name of the schedule."""
    created: bool
    """True if no schedule had this name."""
    changed: bool
    """False if the schedule was the same already, so that nothing was written. True if it is new."""
    next_at: datetime | None
    """Time of its next tick, in UTC. None: it is paused."""


def listing(*, by_tenant: bool, by_type: bool) -> str:
    """Return the statement of a page of schedules in the order of their names, with or without filters."""
    filters = ["s.name > x.after", "s.origin = 'run_time'"]
    filters += ["s.tenant = x.tenant"] * by_tenant + ["s.type = x.type"] * by_type
    return f"""
select {ROW} from json_to_record(cast($1 as json)) as x(tenant text, type text, after text, number integer),
       lateral (select * from joblane.schedules s where {" and ".join(filters)}
                 order by s.name limit x.number) as s
 order by s.name
"""


def read(text: str) -> dict[str, Any]:
    """Read a document of the database."""
    return json.loads(text)  # type: ignore[no-any-return]


def by_schedules(moment: datetime) -> datetime:
    """Return a time of the database by the clock of the schedules: the same time. The test kit replaces it."""
    return moment.astimezone(UTC)


def by_database(moment: datetime) -> datetime:
    """Return a time of the schedules by the clock of the database: the same time. The test kit replaces it."""
    return moment


@overload
def _time(text: str) -> datetime: ...
@overload
def _time(text: str | None) -> datetime | None: ...
def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def _next_tick(row: Mapping[str, Any]) -> datetime:
    """Return the time of the next tick. ``next_at`` of the row is after the ticks that have a task already, or before
    those that the scheduler sends."""
    without_task = _time(str(row["next_at"]))
    try:
        schedule = schedule_of(row["expression"], row["timezone"])
    except DeclarationError:  # written by hand, or this machine lacks the time zone
        return without_task
    following = by_database(schedule.next_after(by_schedules(datetime.now(UTC))))
    return following if row["origin"] == Origin.CODE else min(without_task, following)


@lru_cache(maxsize=10_000)
def schedule_of(expression: str, timezone: str) -> Schedule:
    """Return the times of a schedule. Raises :class:`DeclarationError`."""
    return Schedule(expression, timezone)


def register(connection: Connection, tasks: Mapping[str, Task[Any, Any]]) -> None:
    """Write the schedules of the code, and remove others of the code. A paused one stays, with a problem.

    A schedule whose name one made at run time has is not written, and its ticks run without a row.
    """
    connection.run(REGISTER, json.dumps(declared_rows(tasks)), GONE)


def register_statement(tasks: Mapping[str, Task[Any, Any]]) -> str:
    """Return the statement of :func:`register` as SQL without parameters."""
    values = {"$1": literal(json.dumps(declared_rows(tasks))), "$2": literal(GONE)}
    return re.sub(r"\$[12]", lambda match: values[match[0]], REGISTER).strip()


def declared_rows(tasks: Mapping[str, Task[Any, Any]]) -> list[dict[str, Any]]:
    """Return the columns of the schedules that the tasks declare."""
    return [
        {
            "name": full_schedule_name(task.type, str(schedule.name)),
            "type": task.type,
            "payload": schedule.json_payload,
            "expression": schedule.text,
            "timezone": schedule.timezone,
            "missed": schedule.missed,
            "ticks_a_day": schedule.ticks_a_day,
        }
        for task in tasks.values()
        for schedule in task.schedules
    ]
