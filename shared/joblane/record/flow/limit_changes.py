"""Changes of limits by operators.

What is set here is in force in place of what is declared, until it is reset or its time is over. A change is written in
the caller's transaction, which holds the locks of the limit: no claim decides by the old values after that. Lowering
stops no task. After the commit, :func:`serve_changed` gives the slots that a raised limit has.

The tasks to which a rate has given a time get new times when the rate changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import SequenceMatcher
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from joblane.errors import EnqueueError, LimitError, sqlstate
from joblane.record.flow.free_slots import Turn, serve_in_steps
from joblane.record.flow.wrong_times import wrong_times
from joblane.record.sql_functions import VERSION
from joblane.tasks.limit import Rate, check_key, problem_of_number, problem_of_rate
from joblane.tasks.options import is_storable

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection
    from joblane.record.flow.free_slots import Call

PATIENCE = "3s"
"""The time that a change waits for a claim, or for a task that another transaction has locked."""
BATCH = 50
"""The most limits that are served or planned by one statement."""

DECLARED = "select name from joblane.limits order by name"
SHARED_NAME = "name !~ '[:/]'"

# The widest limit of a task is the limit itself, that of its type, or a shared one.
LOCK = f"""
select joblane.lock_limits_{VERSION}(
  array(select jsonb_array_elements_text($1::jsonb)
        union all select name from joblane.limits where $2::boolean and {SHARED_NAME}))
"""
LIVE_CHANGE = "({row}.until is null or {row}.until > clock_timestamp())"
UNDECLARED = f"""
select c.name from joblane.limit_changes c
 where {LIVE_CHANGE.format(row="c")} and not exists (
   select from joblane.limits d
    where d.name = case when strpos(c.name, '/') > 0 then split_part(c.name, '/', 1) || '/' else c.name end)
 order by c.name limit 1000
"""
SET = f"""
insert into joblane.limit_changes as c (name, slots, step, burst, reason, changed_by, until)
select $1, $2::integer, pg_catalog.make_interval(secs => $3::float8), $4::integer, $5, $6, $7::timestamptz
 where $7::timestamptz is null or $7::timestamptz > clock_timestamp()
on conflict (name) do update set
  slots = coalesce(excluded.slots, case when {LIVE_CHANGE.format(row="c")} then c.slots end),
  step = coalesce(excluded.step, case when {LIVE_CHANGE.format(row="c")} then c.step end),
  burst = coalesce(excluded.burst, case when {LIVE_CHANGE.format(row="c")} then c.burst end),
  until = coalesce(excluded.until, case when {LIVE_CHANGE.format(row="c")} then c.until end),
  reason = excluded.reason, changed_by = excluded.changed_by, since = clock_timestamp()
returning name
"""
RESET = """
delete from joblane.limit_changes where name = any(array(select jsonb_array_elements_text($1::jsonb)))
returning name, (until is null or until > clock_timestamp())
"""
ROWS = """
select pg_catalog.to_jsonb(c) from joblane.limit_changes c
 where name = any(array(select jsonb_array_elements_text($1::jsonb)))
"""
RESTORE = """
insert into joblane.limit_changes
select * from pg_catalog.jsonb_populate_recordset(null::joblane.limit_changes, $1::jsonb) on conflict do nothing
"""
"""A limit that another operator has set meanwhile stays."""
ENDED = f"""
select name from joblane.limit_changes
 where until <= clock_timestamp() order by name limit {BATCH}
"""
WAITING = """
select t.key_limit, t.total_limit, t.shared_limit from joblane.tasks t
 where t.wait_kind = 'limit' and t.waits_for = $1 and t.state = 'held' order by t.place, t.seq limit 1
"""
# The keys for which tasks wait, and the limits of the first task of each.
WAITING_KEYS = f"""
select n.name, t.key_limit, t.total_limit, t.shared_limit
  from joblane.waiting_limits_{VERSION}($1, $2, {BATCH}) as n(name),
       lateral (select w.key_limit, w.total_limit, w.shared_limit from joblane.tasks w
                 where w.wait_kind = 'limit' and w.waits_for = n.name and w.state = 'held'
                 order by w.waits_for, w.place, w.seq limit 1) as t
 order by n.name
"""
PLAN = f"select joblane.plan_limits_{VERSION}($1::text[], $2)"
END_DELAYS = """
update joblane.rates set delayed_until = null
 where name = any(array(select jsonb_array_elements_text($1::jsonb))) and delayed_until > clock_timestamp()
returning name
"""


@dataclass(frozen=True, slots=True)
class Given:
    """Values of a limit as they are given to :meth:`joblane.client.limits.Limits.set`. None: not given."""

    max_per_key: int | None
    max_total: int | None
    total: int | None
    rate: Rate | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class NewValues:
    """Values to set for a limit. None: the value stays as it is."""

    slots: int | None = None
    rate: Rate | None = None


def level_of(name: str) -> int:
    """Return 1 for the limit of a key or of each key, 2 for that of a type, 3 for a shared one."""
    return 1 if "/" in name else 2 if ":" in name else 3


def is_of_each_key(name: str) -> bool:
    """True for ``type/``, which has the values of each key."""
    return name.endswith("/") and name.count("/") == 1


def keys_of(name: str) -> tuple[str, str]:
    """Return two texts between which are the names of all keys of ``type/``."""
    return name, f"{name[:-1]}0"  # 0 is the character after the slash


# --- What is changed -----------------------------------------------------------------------------------------------


def declared_names(connection: Connection) -> list[str]:
    return [row[0] for row in connection.run(DECLARED)]


def undeclared_names(connection: Connection) -> list[str]:
    """Return the limits, and those of keys, for which values are set, and which no task declares any more."""
    return [row[0] for row in connection.run(UNDECLARED)]


def known_names(connection: Connection) -> list[str]:
    """Return the declared limits, and those for which only an operator's values are left."""
    return sorted([*declared_names(connection), *undeclared_names(connection)])


def names_of(known: Iterable[str], name: object, key: object = None) -> list[str]:
    """Return the limits of a type, its total first, that of one of its keys, or a shared one.

    Raises :class:`LimitError`.
    """
    known = set(known)
    names = sorted({each.partition("/")[0] for each in known})
    if not isinstance(name, str) or name not in names:
        near = sorted(names, key=lambda each: -SequenceMatcher(None, each, str(name)).ratio())
        listed = f"there are, the nearest first: {', '.join(near)}" if near else "no task declares a limit"
        raise LimitError("name", f"no limit, and no type with a limit, is named {name!r}; {listed}")
    if key is None:
        return [each for each in (name, f"{name}/") if each in known] or [f"{name}/"]
    try:
        check_key(key)
    except EnqueueError as error:
        raise LimitError("key", error.problem) from None
    if not known & {f"{name}/", f"{name}/{key}"}:
        what = "is a shared limit, which has no keys" if ":" not in name else "declares no key"
        raise LimitError("key", f"{name} {what}")
    return [f"{name}/{key}"]


def _wanted(declared: Iterable[str], name: str, key: str | None, given: Given) -> dict[str, NewValues]:
    """Return the values to set, by the names of the limits. Raises :class:`LimitError` before anything is written."""
    named = {"max_per_key": given.max_per_key, "max_total": given.max_total, "total": given.total}
    numbers = {field: value for field, value in named.items() if value is not None}
    for field, number in numbers.items():
        if (problem := problem_of_number(number)) is not None:
            raise LimitError(field, problem)
    rate = given.rate
    if rate is not None and (problem := problem_of_rate(rate)) is not None:
        raise LimitError("rate", problem)
    names = names_of(declared, name, key)
    of_keys, others = [each for each in names if "/" in each], [each for each in names if "/" not in each]
    is_shared = ":" not in name
    homes = {
        "max_per_key": of_keys,
        "max_total": [] if is_shared else others,
        "total": others if is_shared else [],
    }
    for field in numbers:
        if not homes[field]:
            raise LimitError(field, _misplaced(field, name, key, is_shared=is_shared))
    if not numbers and rate is None:
        raise LimitError("total" if is_shared else "max_per_key", "give a number of tasks, a rate, or both")
    found = {homes[field][0]: NewValues(slots=number) for field, number in numbers.items()}
    if rate is not None:  # that of each key, if the type has keys
        home = (of_keys or others)[0]
        found[home] = NewValues(found.get(home, NewValues()).slots, rate)
    return found


def _misplaced(field: str, name: str, key: str | None, *, is_shared: bool) -> str:
    if is_shared:
        return f"{name} is a shared limit: give total"
    if field == "total":
        return f"{name} is a task type: give max_total, or max_per_key"
    if key is not None:
        return "the limit of all tasks of a type has no key: leave out the key"
    return f"{name} does not declare {field}, so its tasks have no such limit; declare it, and deploy"


def _until(until: object) -> str | None:
    """Return the end of a change as text. Raises :class:`LimitError`."""
    if until is None:
        return None
    if not isinstance(until, datetime) or until.tzinfo is None:
        raise LimitError("until", "an aware datetime is required, for example datetime.now(UTC) + …")
    try:
        until = until.astimezone(UTC)
    except OverflowError:
        until = datetime.max.replace(tzinfo=UTC)
    if not is_storable(until):
        raise LimitError("until", "a time that the calendar has is required")
    return until.isoformat()


# --- The change, in the caller's transaction -----------------------------------------------------------------------


def set_limit(
    connection: Connection, name: str, key: str | None, given: Given, *, who: str, reason: str | None
) -> tuple[list[str], dict[str, Any]]:
    """Write changes in the open transaction. What is not given stays as it was set. Raises :class:`LimitError`.

    Returns the limits, and the details of the audit.
    """
    until = _until(given.until)
    wanted = _wanted(declared_names(connection), name, key, given)
    _lock(connection, wanted)
    before = _before(connection, wanted)
    for limit, values in wanted.items():
        rate = values.rate
        step, burst = (None, None) if rate is None else (rate.step.total_seconds(), rate.burst)
        if not connection.run(SET, limit, values.slots, step, burst, reason, who, until):
            raise LimitError("until", "a time in the future is required, by the database's clock")
    _give_times(connection, wanted)
    details = {"set": {limit: _values(values) for limit, values in wanted.items()}} | before
    return list(wanted), details if until is None else details | {"until": until}


def reset_limit(connection: Connection, name: str, key: str | None) -> tuple[list[str], dict[str, Any]]:
    """Remove what is set for a limit, and end its delay by a handler, in the open transaction.

    Returns the limits, and the details of the audit. Raises :class:`LimitError` if there is neither.
    """
    names = names_of(known_names(connection), name, key)
    _lock(connection, names)
    before = _before(connection, names)
    was_set = [name for name, was_live in connection.run(RESET, json.dumps(names)) if was_live]
    delayed = [row[0] for row in connection.run(END_DELAYS, json.dumps(names))]
    if not was_set and not delayed:
        raise LimitError("name", f"nothing is set for {' and '.join(names)}; `joblane limits` shows what is")
    changed = [name for name in names if name in was_set or name in delayed]
    _give_times(connection, changed)
    return changed, {"limits": was_set} | before | ({"delays": delayed} if delayed else {})


def restore(connection: Connection, names: Sequence[str], before: str) -> None:
    """Restore what was set for limits, in the open transaction. ``before``: rows, as details of the audit have them."""
    _lock(connection, names)
    connection.run(RESET, json.dumps(list(names)))
    connection.run(RESTORE, before)
    _give_times(connection, names)


def _before(connection: Connection, names: Iterable[str]) -> dict[str, Any]:
    """Return the rows that a change replaces, for the details of the audit; nothing if there are none."""
    rows = [row for (row,) in connection.run(ROWS, json.dumps(list(names)))]
    return {"before": rows} if rows else {}


def ended_changes(connection: Connection) -> list[str]:
    """Return the limits with an expired change, a batch at most."""
    return [name for (name,) in connection.run(ENDED)]


def end_change(connection: Connection, name: str) -> None:
    """Remove an expired change, in a transaction of its own. The sweep then serves the limit.

    Its values are not in force any more, but tasks may wait for times that an ended rate has given them.
    """
    with _skipping_locked(), transaction(connection):
        _lock(connection, [name])
        connection.run(RESET, json.dumps([name]))
        _give_times(connection, [name])


@contextmanager
def _skipping_locked() -> Iterator[None]:
    """Leave a limit that stays locked to the next sweep."""
    from pg8000.exceptions import Error as PostgresError  # a remote inspector has no driver

    from joblane.record.driver.connection import LOCK_NOT_AVAILABLE

    try:
        yield
    except PostgresError as error:
        if sqlstate(error) != LOCK_NOT_AVAILABLE:
            raise


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """Open a transaction for a change, and commit it at the end of the block. An exception rolls back."""
    connection.execute_simple("begin")
    try:
        connection.execute_simple(f"set local lock_timeout = '{PATIENCE}'")
        yield
        connection.commit()
    except BaseException:
        if connection.usable:
            connection.rollback()
        raise


def _lock(connection: Connection, names: Iterable[str]) -> None:
    """Take the locks of limits until the end of the transaction: no claim decides by the old values after that."""
    widest = {each for name in names for each in (name, name.split("/")[0])}
    connection.run(LOCK, json.dumps(sorted(widest)), any(level_of(name) < 3 for name in widest))


def _give_times(connection: Connection, names: Iterable[str]) -> None:
    """Give new times to the tasks that wait for the times of these limits, in the open transaction.

    The keys of ``type/`` get theirs after the commit, in parts.
    """
    by_level: dict[int, list[str]] = {}
    for name in names:
        if not is_of_each_key(name):
            by_level.setdefault(level_of(name), []).append(name)
    for level, found in by_level.items():
        connection.run(PLAN, found, level)


# --- After its commit ----------------------------------------------------------------------------------------------


def serve_changed(call: Call, changed: Iterable[str]) -> Iterator[list[Turn]]:
    """Give new times to tasks that wait for a rate of their key, and serve limits, in transactions of its own.

    Yield the tasks whose messages are to be sent. The sweep completes what an interrupted call leaves. ``call``: as for
    :func:`~joblane.record.flow.free_slots.serve_in_steps`.
    """
    for name in changed:
        if is_of_each_key(name):
            call(partial(_plan_keys, name))
            yield from _serve_keys(call, name)
        elif waiting := call(methodcaller("run", WAITING, name)):
            yield from serve_in_steps(call, waiting)


def _plan_keys(name: str, connection: Connection) -> None:
    for names in wrong_times(connection, *keys_of(name)):
        for start in range(0, len(names), BATCH):
            plan_anew(connection, names[start : start + BATCH])


def plan_anew(connection: Connection, names: Sequence[str]) -> None:
    """Give new times to the tasks of limits, in a transaction of its own. It changes nothing where a task is locked."""
    with _skipping_locked(), transaction(connection):
        _lock(connection, names)
        _give_times(connection, names)


def _serve_keys(call: Call, name: str) -> Iterator[list[Turn]]:
    position, end = keys_of(name)
    while rows := call(methodcaller("run", WAITING_KEYS, position, end)):
        yield from serve_in_steps(call, [row[1:] for row in rows])
        position = rows[-1][0]


# --- For the audit -------------------------------------------------------------------------------------------------


def target_of(name: object, key: object) -> str:
    return f"limit:{name}" if key is None else f"limit:{name}/{key}"


def _values(values: NewValues) -> dict[str, Any]:
    found: dict[str, Any] = {} if values.slots is None else {"at_a_time": values.slots}
    if values.rate is not None:
        rate = values.rate
        found["rate"] = {"starts": rate.starts, "per_seconds": rate.per.total_seconds(), "burst": rate.burst}
    return found
