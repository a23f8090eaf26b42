"""Schedules: the rows of ``joblane.schedules``, their ticks, and the state on AWS of those that the code declares."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from joblane.enqueue.ticks import NAME_PATTERN, past_ticks, start_of_ids
from joblane.errors import DeclarationError, UnknownScheduleError
from joblane.inspector.actions import audit
from joblane.inspector.errors import SelectionError
from joblane.inspector.nearest import meant
from joblane.inspector.scope import Scope
from joblane.inspector.stage.aws import client
from joblane.inspector.tasks.detail import shown_payload
from joblane.inspector.tasks.filter_sql import BOUND, check_number, reading
from joblane.inspector.tasks.listing import COUNT_CAP
from joblane.inspector.views import (
    Count,
    SchedulePage,
    SchedulePause,
    ScheduleRow,
    ScheduleView,
    TickView,
)
from joblane.names import TYPE_PATTERN, cron_group_name, schedule_name
from joblane.record.driver.connection import Connection
from joblane.record.row.states import State, as_read
from joblane.record.schedules import GONE, PAUSED, UNDELIVERED, WITHOUT_TASK, Origin, schedule_of
from joblane.sqs.tick import written
from joblane.tasks.redaction import MASK

LARGEST_PAGE = 200
MAX_TEXT = 128
NEXT_TIMES = 5
PAST = 10
MISSED_SHOWN = 20
"""Times of missed ticks."""
NEAR = 50
"""Names before and after a wrong name, among which the meant one is searched."""
MISSING = "MISSING"
"""State of a schedule that does not exist on AWS, while other schedules of the stage do."""
POSITIONS = {"name": NAME_PATTERN, "ticks": re.compile(rf"\d[\d.e+-]{{0,24}} {NAME_PATTERN.pattern}")}
"""Sort order → the form of a position in it."""

COLUMNS = f"""s.name, s.origin, s.type, s.tenant, s.expression, s.timezone, s.missed, s.ticks_a_day,
       case when {PAUSED} then s.paused_at end, s.paused_until, s.paused_by, s.pause_reason, s.next_at, s.last_at,
       s.problem, s.updated_at, s.looked_for_from"""
# The columns of one index choose what is read, in the order of the page; the other fields choose what is shown.
PAGE = """
with read as materialized (
  select name, ticks_a_day, {position} as position, {matches} as matches from joblane.schedules
   where {chosen} and {after} order by {order} limit $2::int
),
found as (select name, ticks_a_day, position from read where matches order by {order} limit $3::int)
select l.number, l.position, f.position, """ + COLUMNS + """
  from (select count(*) as number, (select position from read order by {reverse} limit 1) from read) as l
       left join found f on true left join joblane.schedules s on s.name = f.name order by {shown}
"""  # fmt: skip
ORDERS: Mapping[str, Mapping[str, str]] = {
    "name": {
        "position": "name",
        "after": "name > $1",
        "order": "name",
        "reverse": "name desc",
        "shown": "f.name",
    },
    "ticks": {
        "position": "ticks_a_day || ' ' || name",
        "after": "($1 = '' or (ticks_a_day, name)"
        " < (cast(nullif(split_part($1, ' ', 1), '') as float8), split_part($1, ' ', 2)))",
        "order": "ticks_a_day desc, name desc",
        "reverse": "ticks_a_day, name",
        "shown": "f.ticks_a_day desc, f.name desc",
    },
}
"""Sort order → the parts of the statement: by name, or by the ticks a day, most first."""
COUNT = """
select count(*), count(*) filter (where matches)
  from (select {matches} as matches from joblane.schedules where {chosen} order by name limit $1::int) as read
"""
ONE = f"select {COLUMNS}, s.payload, s.options, s.created_at from joblane.schedules s where s.name = $1"
NEAREST = f"""
(select name from joblane.schedules where name >= $1 order by name limit {NEAR})
union all (select name from joblane.schedules where name < $1 order by name desc limit {NEAR})
"""
# The ids of a schedule's ticks differ only in their times, so the last ticks are at the end of the range in the index.
TICKS = f"""
select s.name, t.id, t.state, a.duration_ms
  from jsonb_to_recordset($1::jsonb) as s(name text, low text, high text),
       lateral (select id, state from joblane.tasks where id >= s.low collate "C" and id < s.high collate "C"
                 order by id desc limit {PAST}) as t
       left join lateral (select duration_ms from joblane.runs where task_id = t.id
                           order by task_id desc, run desc limit 1) as a on true
"""
OF_CODE = f"select {COLUMNS} from joblane.schedules s where s.origin = 'code' order by s.name"
UPDATED_AT, LOOKED_FOR_FROM = 15, 16
"""The positions of these columns in :data:`COLUMNS`."""
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ")


# --- Queries -------------------------------------------------------------------------------------------------------


def listing(
    scope: Scope,
    *,
    tenant: str | None,
    type_: str | None,
    text: str | None,
    origin: str | None,
    problem: bool,
    paused: bool,
    sort: str,
    after: str | None,
    limit: int,
) -> SchedulePage:
    """A page. Raises :class:`SelectionError`."""
    check_number("limit", limit, LARGEST_PAGE)
    for field, value, valid in (("origin", origin, tuple(Origin)), ("sort", sort, tuple(ORDERS))):
        if value not in (None, *valid):
            raise SelectionError(field, f"{', '.join(valid)} are valid")
    for field, flag in (("problem", problem), ("paused", paused)):
        if type(flag) is not bool:
            raise SelectionError(field, "true or false is required")
    _check(tenant=tenant, text=text)
    if type_ is not None and (not isinstance(type_, str) or not TYPE_PATTERN.fullmatch(type_)):
        raise SelectionError("type", f"no type has the name {type_!r}")
    if after is not None and (not isinstance(after, str) or not POSITIONS[sort].fullmatch(after)):
        raise SelectionError("after", "the position that the previous page returned is required")
    by_index = [
        ("origin = 'code'", origin == Origin.CODE or None),
        ("tenant = {}", tenant),
        ("problem is not null", problem or None),
        (PAUSED, paused or None),
        ("type = {}", type_),
    ]
    given = [each for each in by_index if each[1] is not None]
    chosen = given[:1] if sort == "name" else []
    others = [
        *by_index,
        ("origin = 'run_time'", origin == Origin.RUN_TIME or None),
        ("strpos(lower(name), lower({})) > 0", text),
    ]
    others = [each for each in others if each[1] is not None and each not in chosen]
    most = BOUND if others else limit + 1
    with reading(scope.connection) as connection:
        rows = _run(connection, PAGE, chosen, others, after or "", str(most), str(limit + 1), **ORDERS[sort])
        [[read, matching]] = _run(connection, COUNT, chosen, others, str(BOUND if others else COUNT_CAP + 1))
        shown = [row for row in rows if row[2] is not None][:limit]
        found = _rows(scope, connection, [row[3:] for row in shown])
    exact = read < BOUND if others else read <= COUNT_CAP
    count = Count(min(matching, COUNT_CAP), exact=exact and matching <= COUNT_CAP)
    number, position = rows[0][:2]
    if len(rows) > limit:
        return SchedulePage(found, count, shown[-1][2])
    if others and number == most:
        return SchedulePage(found, count, position, position.rpartition(" ")[2])
    return SchedulePage(found, count, None)


def _run(
    connection: Connection,
    sql: str,
    chosen: Sequence[tuple[str, Any]],
    others: Sequence[tuple[str, Any]],
    *parameters: str,
    **parts: str,
) -> list[list[Any]]:
    values = list(parameters)

    def joined(conditions: Sequence[tuple[str, Any]]) -> str:
        found = []
        for condition, value in conditions:
            if "{}" in condition:
                values.append(value)
            found.append(condition.format(f"${len(values)}"))
        return " and ".join(found) or "true"

    return connection.run(sql.format(chosen=joined(chosen), matches=joined(others), **parts), *values)


def _check(**texts: str | None) -> None:
    for field, text in texts.items():
        if text is not None and (not isinstance(text, str) or not NAME_PATTERN.fullmatch(text)):
            raise SelectionError(field, f"1 to {MAX_TEXT} ASCII letters, digits and punctuation are required")


def one(scope: Scope, name: str) -> ScheduleView:
    """All details of a schedule. Raises :class:`UnknownScheduleError`."""
    with reading(scope.connection) as connection:
        row = _read(connection, name)
        [shown] = _rows(scope, connection, [row[:-3]])
        entries = audit.entries(scope, target=target_of(name), limit=audit.SHOWN_OF_TARGET)
    payload, options, created_at = row[-3:]
    task = scope.task(shown.type)
    return ScheduleView(
        row=shown,
        payload=shown_payload(task, payload),
        options=_options(options),
        overlap=None if task is None else task.overlap,
        next=_next(shown),
        created_at=created_at,
        updated_at=row[UPDATED_AT],
        audit=entries,
    )


def of_code(scope: Scope) -> tuple[ScheduleRow, ...]:
    """All schedules of the code that are registered, without their states on AWS."""
    return _rows(scope, scope.connection, scope.connection.run(OF_CODE), on_aws=False)


def paused_of_code(scope: Scope) -> dict[str, SchedulePause]:
    """The pauses of schedules of the code, by their names."""
    rows = scope.connection.run(OF_CODE)
    return {row[0]: pause for row in rows if (pause := _pause(row)) is not None}


def target_of(name: str) -> str:
    """Return the name of a schedule in the audit."""
    return f"schedule:{name}"


def read(connection: Connection, name: str) -> ScheduleRow:
    """A schedule without its ticks. Raises :class:`UnknownScheduleError`."""
    return _row(_read(connection, name)[:-3])


def _read(connection: Connection, name: str) -> list[Any]:
    is_name = isinstance(name, str) and NAME_PATTERN.fullmatch(name)
    rows = connection.run(ONE, name) if is_name else []
    if not rows:
        raise unknown(connection, name)
    return rows[0]


def unknown(connection: Connection, name: str) -> UnknownScheduleError:
    """The error for a name that no schedule has, with the nearest names."""
    error = UnknownScheduleError(str(name))
    is_name = isinstance(name, str) and NAME_PATTERN.fullmatch(name)
    known = [near for (near,) in connection.run(NEAREST, name)] if is_name else []
    if question := meant(name, known):
        error.args = (f"{error}. {question.strip()}",)
    return error


def _rows(
    scope: Scope, connection: Connection, rows: Sequence[list[Any]], *, on_aws: bool = True
) -> tuple[ScheduleRow, ...]:
    """The rows of :data:`COLUMNS`, with their ticks."""
    found = [_row(row) for row in rows]
    ticks = _ticks(connection, found)
    missing = _missing(connection, {row[0]: row[LOOKED_FOR_FROM] for row in rows}, found)
    states = _states_on_aws(scope) if on_aws and missing else {}
    return tuple(
        replace(
            one,
            ticks=_with_missing(one, ticks[one.name], missing.get(one.name, ())),
            missing=len(missing.get(one.name, ())),
            missing_at=tuple(missing.get(one.name, ())[:MISSED_SHOWN]),
            on_aws=_state(one, states) if one.is_of_code else None,
        )
        for one in found
    )


def _row(row: list[Any]) -> ScheduleRow:
    name, origin, type_, tenant, text, timezone, missed, ticks_a_day, *_, next_at, last_at, problem, _, _ = row
    pause = _pause(row)
    made = ScheduleRow(
        name, origin, type_, tenant, text, timezone, missed, ticks_a_day, pause, next_at, last_at, (), problem,
        can_be_deleted=origin != Origin.CODE or problem == GONE,
    )  # fmt: skip
    if pause is not None and pause.until is None:
        return replace(made, next_at=None)
    now = datetime.now(UTC)
    if made.is_of_code or (last_at is not None and last_at > now):  # the tasks of the next ticks are made
        since = now if pause is None or pause.until is None else pause.until - timedelta(microseconds=1)
        return replace(made, next_at=next(_after(made, since), made.next_at))
    return made


def _pause(row: list[Any]) -> SchedulePause | None:
    since, until, by, reason = row[8:12]
    return None if since is None else SchedulePause(since, until, by, reason)


def _next(row: ScheduleRow) -> tuple[datetime, ...]:
    """The times of the next ticks from the next one on."""
    if row.next_at is None:
        return tuple(islice(_after(row, datetime.now(UTC)), NEXT_TIMES))
    return (row.next_at, *islice(_after(row, row.next_at), NEXT_TIMES - 1))


def _after(row: ScheduleRow, moment: datetime) -> Iterator[datetime]:
    """The times after a moment; none if the text or the time zone is no longer valid."""
    with suppress(DeclarationError):
        yield from schedule_of(row.text, row.timezone).after(moment)


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without the values of headers."""
    return {
        name: dict.fromkeys(value, MASK) if name == "headers" and isinstance(value, Mapping) else value
        for name, value in options.items()
    }


# --- Ticks ---------------------------------------------------------------------------------------------------------


def _ticks(connection: Connection, rows: Sequence[ScheduleRow]) -> dict[str, list[TickView]]:
    """The last recorded ticks by the name of the schedule, newest first."""
    starts = {row.name: start_of_ids(row.name, row.origin) for row in rows}
    # A time begins with a digit, so the name of another schedule that begins with this one's is not in the range. Ticks
    # that are created ahead have no outcome yet.
    now = written(datetime.now(UTC))
    ranges = [{"name": name, "low": f"{start}0", "high": f"{start}{now};"} for name, start in starts.items()]
    found: dict[str, list[TickView]] = defaultdict(list)
    for name, id_, state, duration_ms in connection.run(TICKS, json.dumps(ranges)) if ranges else ():
        if time := TIME.match(id_, len(starts[name])):
            found[name].append(TickView(datetime.fromisoformat(time[0]), id_, as_read(State, state), duration_ms))
    return found


def _missing(
    connection: Connection, since: Mapping[str, datetime], rows: Sequence[ScheduleRow]
) -> dict[str, list[datetime]]:
    """The ticks of the last day that did not come, of schedules of the code, by their names, newest first.

    ``since``: the name of a schedule → the time from which its ticks are looked for.
    """
    now = datetime.now(UTC)
    expected: dict[str, list[datetime]] = {}
    for row in rows:
        if row.is_of_code and row.problem != GONE:
            with suppress(DeclarationError):
                moments = past_ticks(schedule_of(row.text, row.timezone), since[row.name], now, most=None)
                expected[row.name] = [at for at in moments if at <= now - UNDELIVERED]
    ids = [f"{name}:{written(at)}" for name, moments in expected.items() for at in moments]
    absent = {id_ for (id_,) in connection.run(WITHOUT_TASK, json.dumps(ids))} if ids else set()
    return {
        name: [at for at in reversed(moments) if f"{name}:{written(at)}" in absent]
        for name, moments in expected.items()
    }


def _with_missing(row: ScheduleRow, ticks: Sequence[TickView], missing: Sequence[datetime]) -> tuple[TickView, ...]:
    """The last ticks, newest first: recorded ones, and missing ones."""
    absent = [TickView(at, f"{row.id_prefix}{written(at)}", None) for at in missing[:PAST]]
    return tuple(sorted([*ticks, *absent], key=lambda tick: tick.at, reverse=True)[:PAST])


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


def _state(row: ScheduleRow, states: Mapping[str, str]) -> str | None:
    """The state on AWS. A schedule that is two on AWS has the worse state."""
    if not states:
        return None
    try:
        number = len(schedule_of(row.text, row.timezone).expressions)
    except DeclarationError:
        return None
    own_name = row.name.removeprefix(f"{row.type}:")
    found = [states.get(schedule_name(row.type, own_name, n), MISSING) for n in range(1, number + 1)]
    return next((state for state in found if state != "ENABLED"), "ENABLED")
