"""The limits with their values, and the tasks that have their slots and wait for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from joblane.record.flow.limit_changes import LIVE_CHANGE, is_of_each_key, keys_of, level_of
from joblane.record.row.states import LEVELS, LIVE_SQL, Level, Passed
from joblane.record.sql_functions import VERSION
from joblane.tasks.limit import PERIODS, Rate

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection

MOST_COUNTED = 10_000


class LimitKind(StrEnum):
    """The tasks that a limit counts together."""

    SHARED = "shared"
    """Those of all types that declare it."""
    TOTAL = "total"
    """Those of a type."""
    EACH_KEY = "each-key"
    """Those of each key of a type: the values that hold for keys without values of their own."""
    KEY = "key"
    """Those of one key."""


@dataclass(frozen=True, slots=True)
class LimitValues:
    """The numbers that a limit has in one place: declared, changed, or in force."""

    at_a_time: int | None
    """Tasks at a time. 0: none starts. None: any number, or not changed."""
    rate: Rate | None
    """Starts in a time. None: any number, or not changed."""


@dataclass(frozen=True, slots=True)
class LimitChange:
    """Values that an operator has set, instead of the declared ones."""

    values: LimitValues
    """The values that are set. None in it: as declared."""
    reason: str | None
    """Reason that was given."""
    by: str | None
    """Who set it."""
    since: datetime
    """Time of the change, in UTC."""
    until: datetime | None
    """Time until which it holds, in UTC. None: until it is reset."""
    kind: LimitKind
    """The limit for which it is set. Of the limit of a key: ``key``, or ``each-key``."""


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """A limit: its values, the tasks that have its slots, and those that wait. Tasks are counted up to 10,000."""

    name: str
    """Name of the shared limit, or the task type."""
    key: str | None
    """The key. None: it is not the limit of one key."""
    kind: LimitKind
    """The tasks that it counts together."""
    declared: LimitValues
    """The values of the declaration. Both None: no task declares the limit any more."""
    change: LimitChange | None
    """The values that an operator has set. Of a key: for this key, else for each key. None: nothing is set."""
    in_force: LimitValues
    """The values that hold now."""
    taken: int
    """Tasks that have a slot of it: those that run, those below, and those that wait for a wider limit."""
    running: int
    """Tasks that run."""
    turns: int
    """Tasks that may start, and whose messages are on their way."""
    timed: int
    """Tasks that start later, at the times that its rate has given them."""
    held: int
    """Tasks that wait for a slot of it."""
    oldest_held_at: datetime | None
    """Time from which the oldest of them was due, in UTC. None: none waits."""
    next_start_at: datetime | None
    """Time at which the next task can start by its rate, in UTC. None: now, or it has no rate."""
    delayed_until: datetime | None = None
    """Time until which a handler has delayed it by ``RateLimited``, in UTC. A reset ends it. None: none has."""

    @property
    def own_change(self) -> LimitChange | None:
        """The change that a reset removes. None: nothing is set for it. Something may be set for each key."""
        return self.change if self.change is not None and self.change.kind is self.kind else None

    @property
    def is_declared(self) -> bool:
        """False if no task declares it any more, and only the values hold that an operator has set."""
        return self.declared != LimitValues(None, None)


def _counts(level: Level) -> str:
    column = level.column
    return f"""(
  select pg_catalog.json_build_array(
           count(*), count(*) filter (where state = 'active'),
           count(*) filter (where state = 'pending' and passed = '{Passed.ALL}' and due_at <= now()),
           count(*) filter (where state in ('pending', 'retry') and passed = '{level.time}' and due_at > now()))
    from (select state, passed, due_at from joblane.tasks
           where {column} is not null and {column} >= n.low and {column} < n.high and passed {level.has_slot}
             and state in {LIVE_SQL} limit {MOST_COUNTED}) as x)"""


COUNTS = " ".join(f"when {number} then {_counts(level)}" for number, level in LEVELS.items())
STATUS = f"""
select n.name, clock_timestamp(), d.slots, extract(epoch from d.step)::float8, d.burst,
       c.slots, extract(epoch from c.step)::float8, c.burst, c.reason, c.changed_by, c.since, c.until, c.name,
       l.slots, extract(epoch from l.step)::float8, l.burst,
       r.next_at - coalesce(l.step, interval '0') * greatest(coalesce(l.burst, 1) - 1, 0)::float8, r.delayed_until,
       w.held, w.oldest, case n.level {COUNTS} end
  from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[]) with ordinality
       as n(name, own, low, high, level, place)
  cross join lateral joblane.limit_of_{VERSION}(n.name) as l
  left join joblane.limits d on d.name = n.own
  left join joblane.rates r on r.name = n.name
  left join lateral (
    select * from joblane.limit_changes x where x.name in (n.name, n.own) and {LIVE_CHANGE.format(row="x")}
     order by x.name <> n.name limit 1) as c on true
  cross join lateral (
    select count(*) as held, min(due_at) as oldest
      from (select due_at from joblane.tasks where wait_kind = 'limit' and waits_for >= n.low and waits_for < n.high
               and state = 'held' order by waits_for, place, seq limit {MOST_COUNTED}) as x) as w
 order by n.place
"""
"""The limits of the names $1. $2: the names with their declared values. $3, $4: the range of names that their tasks
have. $5: their levels."""
CHANGED_KEYS = f"""
select name from joblane.limit_changes c where name > $1 and name < $2 and {LIVE_CHANGE.format(row="c")}
 order by name limit 100
"""
# The keys for which tasks wait, each with its first task, which waits longest.
OLDEST_KEYS = f"""
select n.name
  from joblane.waiting_limits_{VERSION}($1, $2, 1000) as n(name),
       lateral (select w.due_at from joblane.tasks w
                 where w.wait_kind = 'limit' and w.waits_for = n.name and w.state = 'held'
                 order by w.waits_for, w.place, w.seq limit 1) as t
 order by t.due_at, n.name limit $3::integer
"""


def status_of(connection: Connection, name: str) -> LimitStatus:
    """Read one limit by its name in ``joblane.limits``, or ``type/key``."""
    return statuses(connection, [name])[0]


def statuses(connection: Connection, names: Sequence[str]) -> tuple[LimitStatus, ...]:
    """Read limits by their names, as :func:`status_of`, in one statement."""
    own = [base + slash for base, slash, _ in (name.partition("/") for name in names)]
    ends = [keys_of(name) if is_of_each_key(name) else (name, f"{name}\x01") for name in names]
    levels = [str(level_of(name)) for name in names]
    rows = connection.run(STATUS, [*names], own, [low for low, _ in ends], [high for _, high in ends], levels)
    return tuple(_status(*row) for row in rows)


def _status(name: str, now: datetime, *row: Any) -> LimitStatus:
    base, _, key = name.partition("/")
    change = None
    if row[10] is not None:
        change = LimitChange(_values(row[3:6]), row[6], row[7], row[8], row[9], kind_of(row[10]))
    next_at, delayed_until, held, oldest, (taken, running, turns, timed) = row[14:]
    return LimitStatus(
        name=base,
        key=key or None,
        kind=kind_of(name),
        declared=_values(row[0:3]),
        change=change,
        in_force=_values(row[11:14]),
        taken=taken,
        running=running,
        turns=turns,
        timed=timed,
        held=held,
        oldest_held_at=oldest,
        next_start_at=next_at if next_at is not None and next_at > now else None,
        delayed_until=delayed_until if delayed_until is not None and delayed_until > now else None,
    )


def kind_of(name: str) -> LimitKind:
    if is_of_each_key(name):
        return LimitKind.EACH_KEY
    return {1: LimitKind.KEY, 2: LimitKind.TOTAL, 3: LimitKind.SHARED}[level_of(name)]


def changed_keys(connection: Connection, name: str) -> list[str]:
    """Return the limits of the keys of ``type/`` for which something is set."""
    return [row[0] for row in connection.run(CHANGED_KEYS, *keys_of(name))]


def oldest_keys(connection: Connection, name: str, most: int) -> list[str]:
    """Return the limits of the keys of ``type/`` whose tasks wait longest, of the first 1,000 keys with such tasks."""
    return [row[0] for row in connection.run(OLDEST_KEYS, *keys_of(name), most)]


def _values(row: Iterable[Any]) -> LimitValues:
    slots, step, burst = row
    return LimitValues(slots, rate_of(step, burst))


def rate_of(step: float | None, burst: int | None) -> Rate | None:
    """Return a rate of starts that are ``step`` seconds apart, in the shortest usual period with whole starts."""
    if step is None:
        return None
    for per in PERIODS:
        starts = round(per.total_seconds() / step)
        if starts and abs(starts * step - per.total_seconds()) < 1e-4 * step + 1e-6 * starts:
            return Rate(starts, per, burst or 1)
    return Rate(1, timedelta(seconds=step), burst or 1)
