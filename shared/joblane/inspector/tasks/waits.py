"""The waits and signals of one task, why it waits, and the open waits of a stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from joblane.inspector.durations import lasting, stamp
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import Filter
from joblane.inspector.scope import Scope
from joblane.inspector.shell import argument
from joblane.inspector.tasks.filter_sql import (
    LARGEST_PAGE,
    check_number,
    checked,
    mark_of,
    page_cursor,
    page_position,
    position_of,
    reading,
)
from joblane.inspector.tasks.listing import COLUMNS, row_of
from joblane.inspector.tasks.row import Record
from joblane.inspector.views import Attempt, Signal, Wait, WaitPage, WaitRow
from joblane.record.driver.connection import Connection, Row
from joblane.record.row.states import State, WaitKind
from joblane.record.task.waits import SIGNAL_PATTERN
from joblane.tasks.redaction import MASK
from joblane.tasks.scrubbing import scrubber

MOST_READ = 20_000
"""The maximum number of waits that a page reads. Waits whose signal has come stay until their task is removed."""

OPEN = """
select w.name, w.signal, w.created_at, w.until from joblane.task_waits w
 where w.task_id = $1 and w.run = $2::int and w.until is not null
"""


def shown_names(scope: Scope, type_: str, payload: Any) -> Callable[[str], str]:
    """Return a function that removes redacted values from the name of a step, wait or signal: a handler chooses it."""
    declared = scope.task(type_)
    return (lambda _: MASK) if declared is None else scrubber(declared.payload, payload)


def open_wait(scope: Scope, connection: Connection, record: Record) -> Wait | None:
    """Return the wait at which a scheduled task waits; None if it does not wait."""
    if record.state is not State.SCHEDULED:
        return None
    show = shown_names(scope, record.type, record.payload)
    for name, signal, since, until in connection.run(OPEN, record.id, record.runs):
        return Wait(show(name), signal and show(signal), since, until, "open")
    return None


# --- The waits and signals of one task -----------------------------------------------------------------------------


def wait_of(record: Record, row: Row, show: Callable[[str], str]) -> Wait:
    name, signal, since, until, expired_at, run = row
    for_children = until is None and record.wait_kind is WaitKind.PARENTS
    is_open = run == record.runs and (record.state is State.SCHEDULED or for_children)
    state = "expired" if expired_at is not None else "open" if is_open else "over"
    return Wait(show(name), signal and show(signal), since, until, state)


def signal_of(row: Row, show: Callable[[str], str], waits: Sequence[Row], last: Attempt | None) -> Signal:
    """``waits``: rows as for :func:`wait_of`. ``last``: the last run."""
    name, sent_by, sent_at, *_, size = row
    has_run = last is not None and (last.finished_at is None or last.finished_at > sent_at)
    expiries = [expired_at for _, signal, _, _, expired_at, _ in waits if signal == name]
    too_late = bool(expiries) and all(at is not None and at < sent_at for at in expiries)
    return Signal(show(name), sent_by, sent_at, size, unread=too_late or not has_run)


# --- Why a task waits ----------------------------------------------------------------------------------------------


def wait_text(record: Record, wait: Wait, last: Attempt | None = None) -> str:
    """Say for what a task waits, and the commands that continue it. ``last``: its last run."""
    assert wait.until is not None  # it does not wait for children
    what = "" if wait.name == wait.signal else f' at "{wait.name}"'
    what += f' for the signal "{wait.signal}"' if wait.signal is not None else ""
    until = wait.until or record.due_at
    text = f"waits{what} until {stamp(until)}, {lasting(record.now - wait.since)} so far"
    if wait.signal is None and record.due_at < until and record.due_at != record.deadline:
        text += f", and calls its function again at {stamp(record.due_at)}"
        text += f"; its last call was at {stamp(last.finished_at)}" if last and last.finished_at else ""
    id_ = argument(record.id)
    send = f"To send it: `joblane signal {id_} {argument(wait.signal)} VALUE`. " if wait.signal is not None else ""
    return f"{text}. {send}To end the wait: `joblane skip {id_}`"


def keeps_wait(scope: Scope, connection: Connection, record: Record) -> str | None:
    """Say why a task that waits is not run; None if it does not wait."""
    wait = open_wait(scope, connection, record)
    return None if wait is None else f"it {wait_text(record, wait)}"


# --- The open waits of a stage -------------------------------------------------------------------------------------

_READ = f"""
  select w.task_id, w.name, w.signal, w.created_at, w.until, w.run from joblane.task_waits w
   where w.expired_at is null and (w.until, w.task_id) > ($1::timestamptz, $2)
   order by w.until, w.task_id limit {MOST_READ}
"""
# The row of each task is looked up by its id, until the page is full: a join might read all tasks.
PAGE = f"""
with waits as materialized ({_READ})
select {", ".join(f"t.{column.strip()}" for column in COLUMNS.split(","))}, t.payload,
       w.name, w.signal, w.created_at, w.until
  from waits w
  cross join lateral (
    select * from joblane.tasks t
     where t.id = w.task_id and t.runs = w.run and t.state = 'scheduled' limit 1) t
 where ($3::text is null or t.type = $3) and ($4::text is null or t.tenant = $4)
   and ($5::text is null or w.signal = $5)
 order by w.until, w.task_id limit $6::int
"""
LAST = f"select w.until, w.task_id from ({_READ}) as w order by w.until, w.task_id offset {MOST_READ - 1}"
"""The last wait that a page has read; no row if it has read all."""


def waits(
    scope: Scope, *, type_: str | None, tenant: str | None, signal: str | None, after: str | None, limit: int
) -> WaitPage:
    check_number("limit", limit, LARGEST_PAGE)
    if signal is not None and (not isinstance(signal, str) or not SIGNAL_PATTERN.fullmatch(signal)):
        raise SelectionError("signal", "1 to 100 printable ASCII characters are required")
    chosen = checked(scope, Filter(types=() if type_ is None else (type_,), tenant=tenant))
    mark = mark_of(chosen, "waits", signal)
    position = page_position(mark, after)
    start = (datetime.now(UTC), "") if position is None else position_of(position)
    with reading(scope.connection) as connection:
        rows = connection.run(PAGE, start[0].isoformat(), start[1], type_, tenant, signal, str(limit + 1))
        more = [] if len(rows) > limit else connection.run(LAST, start[0].isoformat(), start[1])
    found = tuple(_row(scope, row) for row in rows[:limit])
    if len(rows) > limit:
        return WaitPage(found, page_cursor(mark, found[-1].until, found[-1].task.id))
    return WaitPage(found, page_cursor(mark, *more[0]) if more else None)


def _row(scope: Scope, row: Row) -> WaitRow:
    *columns, payload, name, signal, since, until = row
    task = row_of(columns)
    show = shown_names(scope, task.type, payload)
    return WaitRow(task, show(name), signal and show(signal), since, until)
