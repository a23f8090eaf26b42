"""The live tasks and the latest runs of a stage, read once for all checks and figures of an operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar

from joblane.inspector.filter import PauseScope
from joblane.inspector.scope import Scope
from joblane.inspector.stage import pauses
from joblane.inspector.tasks.filter_sql import BOUND, check_number, reading
from joblane.inspector.tasks.listing import MOST_MINUTES
from joblane.inspector.views import Count, Pause
from joblane.names import OWN_TYPES
from joblane.record.driver.connection import Connection
from joblane.record.row.states import LIVE, State
from joblane.record.run_statistics import FAILED_OUTCOMES, bucket_of

K = TypeVar("K")
MOST_ARCHIVED = 1_000
"""Archived tasks are counted up to here: each is a page of the table, which nothing else reads."""

STUCK = "5 min"
"""A lease is stuck this long after its end: until then the message, or the next sweep, finds it."""

EDGE = """
edge as materialized (
  select created_at, id from joblane.tasks where finished_at is null order by created_at, id offset $1::int - 1 limit 1
)"""
OLDEST = "from joblane.tasks where finished_at is null order by created_at, id limit $1::int"
NEWEST = """from joblane.tasks
    where finished_at is null and (created_at, id) > ((select created_at from edge), (select id from edge))
    order by created_at desc, id desc limit $1::int"""
_READ = "select id, queue, type, state, tenant, due_at, lease_until, wait_kind"
LIVE_TASKS = f"""{EDGE},
live as (
  ({_READ} {OLDEST})
  union all
  ({_READ} {NEWEST})
)"""
"""Live tasks: the $1 oldest, which wait longest, and the $1 newest.

So neither a backlog nor tasks that are due in months hide the others."""


def _counted(live: str) -> str:
    """The rows of :data:`LIVE_ROWS` for the live tasks of one end.

    ``marked``: of a held task, that it waits for a limit; of an active one, that its lease ended long ago; of another,
    that it is due. As part of the key it costs less than a condition of each figure. The time is read once, and not for
    each task.
    """
    return f"""
select queue, type, state, paused, count(*),
       case when marked and state not in ('active', 'held') then count(*) else 0 end,
       case when state <> 'active' and (marked or state <> 'held')
            then (extract(epoch from clock_timestamp()) - extract(epoch from min(due_at)))::float8 end,
       case when marked and state = 'active' then count(*) else 0 end,
       min(id) filter (where marked and state = 'active'),
       case when marked and state = 'held' then count(*) else 0 end
  from (select id, queue, type, state, case when tenant = any($2::text[]) then tenant end as paused, due_at,
               case state when 'held' then wait_kind = 'limit'
                          when 'active' then lease_until < (select clock_timestamp()) - interval '{STUCK}'
                          else due_at <= (select clock_timestamp()) end as marked
          {live}) as live
 group by queue, type, state, paused, marked
"""


LIVE_ROWS = f"with {EDGE} {_counted(OLDEST)} union all {_counted(NEWEST)}"
"""Live tasks by lane, state and paused tenant ($2: the paused tenants). A group may have several rows.

Then: the number of tasks that are due and do not run; the wait of the task that was due first, negative if none is due
yet, of held tasks only of those that wait for a limit; the number of runs whose lease ended long ago, with the id of
one; the number of tasks that wait for a limit."""

STARTED = f"""
select type, queue, minute, bucket, count(*), count(*) filter (where outcome = 'completed'),
       count(*) filter (where outcome in {FAILED_OUTCOMES}), count(wait_ms), sum(wait_ms::float8)
  from (select type, queue, date_bin('1 min', started_at, to_timestamp(0)) as minute, outcome, wait_ms,
               {bucket_of("wait_ms")} as bucket
          from joblane.runs where started_at >= $1 and queue is not null and type is not null) as r
 group by grouping sets ((minute, type, queue), (type, queue, bucket))
"""
"""The runs since $1, by type, queue and minute; and again by type, queue and bucket of their waits."""
MINUTES = 15
"""Runs of the last minutes are judged."""
LATEST = f"""
select type, count(*) filter (where outcome is not null), count(*) filter (where outcome in {FAILED_OUTCOMES}),
       count(*) filter (where outcome = 'not_started'),
       coalesce(min(tenant) filter (where outcome is not null) <> max(tenant) filter (where outcome is not null), false)
  from joblane.runs where started_at >= now() - interval '{MINUTES} min' and type is not null
 group by type order by type
"""
ARCHIVED = f"""
select clock_timestamp(),
       (select count(*) from (select from joblane.tasks where (dead_sent_at is not null or dead_letter_unsent)
        and state = 'archived' and not cleared limit {MOST_ARCHIVED + 1}) as a)
"""


@dataclass(frozen=True, slots=True)
class Latest:
    """The runs of a type in the last :data:`MINUTES`. ``tenants``: those that have ended are of several tenants."""

    type: str
    ended: int
    failed: int
    not_started: int
    tenants: bool


@dataclass(slots=True)
class Recorded:
    """The stage now, as the database has it. ``tasks``, ``waits``: by queue and type."""

    at: datetime
    archived: Count
    live: int = 0
    tasks: dict[tuple[str, str], Counter[State]] = field(default_factory=dict)
    waits: dict[tuple[str, str], float] = field(default_factory=dict)
    minutes: dict[tuple[str, datetime], list[Any]] = field(default_factory=dict)
    """Runs by queue and minute: started, completed, failed, with a known wait; and the sum of their waits in ms."""
    type_minutes: dict[tuple[str, str, datetime], list[Any]] = field(default_factory=dict)
    """The same by queue, type and minute."""
    buckets: dict[tuple[str, str], Counter[int]] = field(default_factory=dict)
    """Histograms of the waits, by queue and type: see :mod:`joblane.record.run_statistics`."""
    pauses: dict[tuple[str, str], Pause] = field(default_factory=dict)
    waiting: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Tasks that are due and wait, by the pause that keeps them."""
    paused_waits: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    """The longest waits in seconds, by the pause that keeps the tasks, and by type."""
    due: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Tasks that are due and do not run, by queue and type."""
    held: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)
    """Tasks that wait for a limit, and the longest wait in seconds, by queue and type."""
    stuck: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Runs whose lease ended long ago, and the id of one, by type."""


@dataclass(frozen=True)
class Glance(Scope):
    """A scope in one operation, whose checks read the live tasks and the latest runs once. ``minutes``: of the runs."""

    minutes: int = 1

    @cached_property
    def recorded(self) -> Recorded:
        with reading(self.connection) as connection:
            return read(connection, self.minutes)

    @cached_property
    def latest(self) -> tuple[Latest, ...]:
        with reading(self.connection) as connection:
            return tuple(Latest(*row) for row in connection.run(LATEST))

    def is_late(self, type_: str, seconds: float) -> bool:
        """True if tasks of a type wait longer than its ``target_wait``. False for a type that no code declares."""
        task = self.task(type_)
        return task is not None and seconds > task.target_wait.total_seconds()


def glance(scope: Scope, minutes: int = 1) -> Glance:
    """Raises :class:`~joblane.inspector.errors.SelectionError`."""
    check_number("minutes", minutes, MOST_MINUTES)
    return Glance(**{each.name: getattr(scope, each.name) for each in fields(Scope)}, minutes=minutes)


def read(connection: Connection, minutes: int) -> Recorded:
    [[at, archived]] = connection.run(ARCHIVED)
    recorded = Recorded(at, Count(min(archived, MOST_ARCHIVED), exact=archived <= MOST_ARCHIVED))
    recorded.pauses = {(pause.scope, pause.name): pause for pause in pauses.current(connection)}
    tenants = [name for kind, name in recorded.pauses if kind is PauseScope.TENANT]
    for queue, type_, state, tenant, number, *numbers in connection.run(LIVE_ROWS, str(BOUND), tenants):
        recorded.live += number
        if state in LIVE:  # or ended by an update of its row, which the next sweep completes
            recorded.tasks.setdefault((queue, type_), Counter())[State(state)] += number
            _add(recorded, (queue, type_), tenant, numbers)
    for type_, queue, minute, bucket, *numbers in connection.run(STARTED, last_minutes(at, minutes)[0]):
        if minute is None:
            if bucket is not None:
                recorded.buckets.setdefault((queue, type_), Counter())[bucket] += numbers[0]
            continue
        _sum(recorded.minutes, (queue, minute), numbers)
        _sum(recorded.type_minutes, (queue, type_, minute), numbers)
    return recorded


def _sum(by: dict[K, list[Any]], key: K, numbers: Sequence[Any]) -> None:
    by[key] = [mine + (its or 0) for mine, its in zip(by.get(key, [0] * len(numbers)), numbers, strict=True)]


def _add(recorded: Recorded, lane: tuple[str, str], tenant: str | None, numbers: Sequence[Any]) -> None:
    """Add a row of :data:`LIVE_ROWS`. A held task is not late by itself: its limit decides."""
    due, waited, stuck, example, held = numbers
    number, one = recorded.stuck.get(lane[1], (0, ""))
    if example is not None:
        recorded.stuck[lane[1]] = (number + stuck, one or example)
    if waited is None:
        return
    number, longest = recorded.held.get(lane, (0, 0.0))
    if held:
        recorded.held[lane] = (number + held, max(waited, longest))
        return
    recorded.due[lane] += due
    found = [pause for pause in _pauses_of(*lane, tenant) if pause in recorded.pauses]
    recorded.waiting.update(dict.fromkeys(found, due))
    for waits, key in [(recorded.paused_waits.setdefault(each, {}), lane[1]) for each in found]:
        waits[key] = max(waited, waits.get(key, 0.0))
    if waited >= 0 and not found:
        recorded.waits[lane] = max(waited, recorded.waits.get(lane, 0.0))


def _pauses_of(queue: str, type_: str, tenant: str | None) -> list[tuple[PauseScope, str]]:
    """The pauses that would keep a task from running. A pause of a queue excludes Joblane's own types."""
    found = [(PauseScope.TYPE, type_)]
    found += [] if type_.startswith(OWN_TYPES) else [(PauseScope.QUEUE, queue)]
    return found if tenant is None else [*found, (PauseScope.TENANT, tenant)]


def last_minutes(at: datetime, minutes: int) -> list[datetime]:
    """The start of each minute, oldest first, up to the current minute."""
    last = at.replace(second=0, microsecond=0)
    return [last - timedelta(minutes=back) for back in reversed(range(minutes))]
