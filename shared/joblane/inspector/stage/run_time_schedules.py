"""Schedules that were created at run time: the rows of ``joblane.schedules``.

They change as by :class:`joblane.client.schedules.Schedules`, with an audit entry in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from joblane.enqueue.check import check
from joblane.enqueue.schedule_changes import Cancelled, ScheduleChanges
from joblane.enqueue.ticks import NAME_PATTERN
from joblane.enqueue.wake import wake
from joblane.errors import DeclarationError, ScheduleError, UnknownScheduleError
from joblane.inspector.actions import audit
from joblane.inspector.actions.single import insert, named, note_of, send_inserted
from joblane.inspector.errors import BusyError, SelectionError
from joblane.inspector.nearest import meant
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.detail import shown_payload
from joblane.inspector.tasks.filter_sql import BOUND, check_number, reading
from joblane.inspector.tasks.listing import COUNT_CAP
from joblane.inspector.views import (
    ActionResult,
    Count,
    Relative,
    RunTimeSchedulePage,
    RunTimeScheduleRow,
    RunTimeScheduleView,
)
from joblane.names import TYPE_PATTERN
from joblane.record.driver.connection import Connection
from joblane.record.row.states import State, as_read
from joblane.record.schedules import schedule_of
from joblane.tasks.redaction import MASK

LARGEST_PAGE = 200
MAX_TEXT = 128
NEXT_TIMES = 5
NEAR = 50
"""Names before and after a wrong name, among which the meant one is searched."""

COLUMNS = """s.name, s.type, s.tenant, s.expression, s.timezone, s.missed, s.paused_at, s.next_at, s.last_at,
       s.last_task, t.type, t.state, s.problem"""
TASK = "left join lateral (select t.type, t.state from joblane.tasks t where t.id = s.last_task limit 1) t on true"
# The columns of one index choose what is read, in the order of the names; the other fields choose what is shown.
PAGE = """
with read as materialized (
  select name, {matches} as matches from joblane.schedules where {chosen} and name > $1 order by name limit $2::int
),
last as (select count(*) as number, max(name) as name from read),
found as (select name from read where matches order by name limit $3::int)
select l.number, l.name, """ + COLUMNS + """
  from last l left join found f on true left join joblane.schedules s on s.name = f.name
""" + TASK + " order by f.name"  # fmt: skip
COUNT = """
select count(*), count(*) filter (where matches)
  from (select {matches} as matches from joblane.schedules where {chosen} order by name limit $1::int) as read
"""
ONE = f"""
select {COLUMNS}, s.payload, s.options, s.created_at, s.updated_at from joblane.schedules s {TASK} where s.name = $1
"""
NEAREST = f"""
(select name from joblane.schedules where name >= $1 order by name limit {NEAR})
union all (select name from joblane.schedules where name < $1 order by name desc limit {NEAR})
"""


# --- Queries -------------------------------------------------------------------------------------------------------


def listing(
    scope: Scope,
    *,
    tenant: str | None,
    type_: str | None,
    text: str | None,
    problem: bool,
    after: str | None,
    limit: int,
) -> RunTimeSchedulePage:
    """A page in the order of the names. Raises :class:`SelectionError`."""
    check_number("limit", limit, LARGEST_PAGE)
    _check(tenant=tenant, text=text, after=after)
    if type_ is not None and (not isinstance(type_, str) or not TYPE_PATTERN.fullmatch(type_)):
        raise SelectionError("type", f"no type has the name {type_!r}")
    if type(problem) is not bool:
        raise SelectionError("problem", "true or false is required")
    given = [
        ("tenant = {}", tenant),
        ("problem is not null", problem or None),
        ("type = {}", type_),
        ("strpos(lower(name), lower({})) > 0", text),
    ]
    wanted = [(condition, value) for condition, value in given if value is not None]
    by_index = wanted[:1] if wanted and wanted[0][1] is not text else []
    others = wanted[len(by_index) :]
    most = BOUND if others else limit + 1
    with reading(scope.connection) as connection:
        rows = _run(connection, PAGE, by_index, others, after or "", str(most), str(limit + 1))
        [[read, matching]] = _run(connection, COUNT, by_index, others, str(BOUND if others else COUNT_CAP + 1))
    exact = read < BOUND if others else read <= COUNT_CAP
    count = Count(min(matching, COUNT_CAP), exact=exact and matching <= COUNT_CAP)
    number, last = rows[0][:2]
    found = tuple(_row(row[2:]) for row in rows if row[2] is not None)
    if len(found) > limit:
        return RunTimeSchedulePage(found[:limit], count, found[limit - 1].name)
    is_bounded = bool(others) and number == most
    return RunTimeSchedulePage(found, count, last if is_bounded else None, last if is_bounded else None)


def _run(
    connection: Connection,
    sql: str,
    by_index: list[tuple[str, Any]],
    others: list[tuple[str, Any]],
    *parameters: str,
) -> list[list[Any]]:
    values = list(parameters)

    def joined(conditions: list[tuple[str, Any]]) -> str:
        parts = []
        for condition, value in conditions:
            if "{}" in condition:
                values.append(value)
            parts.append(condition.format(f"${len(values)}"))
        return " and ".join(parts) or "true"

    return connection.run(sql.format(chosen=joined(by_index), matches=joined(others)), *values)


def _check(**texts: str | None) -> None:
    for field, text in texts.items():
        if text is not None and (not isinstance(text, str) or not NAME_PATTERN.fullmatch(text)):
            raise SelectionError(field, f"1 to {MAX_TEXT} ASCII letters, digits and punctuation are required")


def one(scope: Scope, name: str) -> RunTimeScheduleView:
    """All details of a schedule. Raises :class:`UnknownScheduleError`."""
    with reading(scope.connection) as connection:
        row = _read(connection, name)
        entries = audit.entries(scope, target=target_of(name), limit=audit.SHOWN_OF_TARGET)
    shown, (payload, options, created_at, updated_at) = _row(row[:13]), row[13:]
    return RunTimeScheduleView(
        row=shown,
        payload=shown_payload(scope.task(shown.type), payload),
        options=_options(options),
        next=_next(shown),
        created_at=created_at,
        updated_at=updated_at,
        audit=entries,
    )


def target_of(name: str) -> str:
    """Return the name of a schedule in the audit."""
    return f"schedule:{name}"


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


def _row(row: list[Any]) -> RunTimeScheduleRow:
    name, type_, tenant, text, timezone, missed, paused_at, next_at, last_at, last_task, *task, problem = row
    last = None if last_task is None else _relative(last_task, *task)
    next_at = next_at if paused_at is None else None
    made = RunTimeScheduleRow(name, type_, tenant, text, timezone, missed, paused_at, next_at, last_at, last, problem)
    if made.next_at is not None and last_at is not None and last_at > (now := datetime.now(UTC)):
        return replace(made, next_at=next(_after(made, now), made.next_at))  # the tasks of the next ticks are made
    return made


def _relative(id_: str, type_: str | None, state: str | None) -> Relative:
    return Relative(id_, type_, None if state is None else as_read(State, state))


def _next(row: RunTimeScheduleRow) -> tuple[datetime, ...]:
    """The times of the next ticks from the next one on."""
    if row.next_at is None:
        return tuple(islice(_after(row, datetime.now(UTC)), NEXT_TIMES))
    return (row.next_at, *islice(_after(row, row.next_at), NEXT_TIMES - 1))


def _after(row: RunTimeScheduleRow, moment: datetime) -> Iterator[datetime]:
    """The times after a moment; none if the text or the time zone is no longer valid."""
    with suppress(DeclarationError):
        yield from schedule_of(row.text, row.timezone).after(moment)


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without the values of headers."""
    return {
        name: dict.fromkeys(value, MASK) if name == "headers" and isinstance(value, Mapping) else value
        for name, value in options.items()
    }


# --- Actions -------------------------------------------------------------------------------------------------------


def pause(scope: Scope, name: str, reason: str | None) -> RunTimeScheduleView:
    with _on(scope, "pause_schedule", name, reason) as on:
        (is_changed, cancelled), _ = on.changes.pause(on.run, name=name)
        if not is_changed:
            raise SelectionError("name", f"the schedule {name!r} is paused already")
    _wake(scope, cancelled)
    return one(scope, name)


def resume(scope: Scope, name: str, reason: str | None) -> RunTimeScheduleView:
    """The tasks of the ticks within the next 15 minutes are created here; the sweep creates the others."""
    with _on(scope, "resume_schedule", name, reason) as on:
        is_changed, tasks = on.changes.resume(on.run, name=name, task=scope.task(on.schedule.type))
        if not is_changed:
            raise SelectionError("name", f"the schedule {name!r} is not paused")
        inserted = [insert(on.doing.connection, task) for task in tasks]
    for task in inserted:
        send_inserted(scope, task)
    return one(scope, name)


def delete(scope: Scope, name: str, reason: str | None) -> RunTimeScheduleRow:
    with _on(scope, "delete_schedule", name, reason) as on:
        (_, cancelled), _ = on.changes.delete(on.run, name=name)
    _wake(scope, cancelled)
    return on.schedule


def run(scope: Scope, name: str, reason: str | None) -> ActionResult:
    """The audit has the id of the task."""
    with _on(scope, "run_schedule", name, reason) as on:
        (job, links), _ = on.changes.job_now(on.run, name=name, task=named(scope, on.schedule.type))
        ready = check(job, record=True, prefix=scope.prefix)
        inserted = insert(on.doing.connection, replace(ready, links={**ready.links, **links}))
        on.doing.details |= {"id": inserted.id}
    failed = send_inserted(scope, inserted)
    after = State.HELD if inserted.waits else State.PENDING
    return ActionResult(inserted.id, "run_schedule", None, after, new_id=inserted.id, note=note_of(failed))


@dataclass(frozen=True, slots=True)
class _Action:
    """An action on a schedule. ``schedule``: as it was before."""

    doing: audit.Action
    changes: ScheduleChanges
    schedule: RunTimeScheduleRow

    def run(self, sql: str, *documents: str) -> list[list[Any]]:
        """Run a statement once for each document, in the transaction of the action."""
        return self.doing.connection.run_each(sql, *documents)


@contextmanager
def _on(scope: Scope, action: str, name: str, reason: str | None) -> Iterator[_Action]:
    """An action on one schedule. Raises :class:`UnknownScheduleError` and :class:`BusyError`."""
    target = target_of(name)
    try:
        with audit.action(scope, action, target, reason) as doing:
            schedule = _row(_read(doing.connection, name)[:13])
            doing.details |= {"type": schedule.type, "tenant": schedule.tenant}
            yield _Action(doing, ScheduleChanges(scope.prefix), schedule)
    except ScheduleError as error:
        if error.field == "name":  # the name is valid, so another transaction holds it
            raise BusyError(target) from error
        raise


def _wake(scope: Scope, cancelled: Cancelled) -> None:
    """Start a sweep if tasks wait for what the cancelled ticks have given back."""
    if cancelled.limits or cancelled.parents:
        wake(scope.sqs, scope.prefix)
