"""Tasks by filter, a page at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.scope import Scope
from joblane.inspector.tasks import selection
from joblane.inspector.tasks.filter_sql import (
    LARGEST_PAGE,
    aimed,
    check_number,
    checked,
    cursor_of,
    mark_of,
    page_cursor,
    page_position,
    reading,
)
from joblane.inspector.tasks.row import shown_tags
from joblane.inspector.tasks.selection import TOOK_MS, is_narrow, select
from joblane.inspector.views import Count, TaskPage, TaskRow
from joblane.names import Queue
from joblane.record.driver.connection import Connection
from joblane.record.row.states import State, as_read
from joblane.record.run_statistics import FAILED_OUTCOMES
from joblane.sweep.causes import VERSION

COUNT_CAP = 10_000
"""Tasks and schedules are counted up to here."""
MOST_STEPS = 50
"""The steps of a count for an action, which search a million rows. A count without an action takes one."""
COLUMNS = (
    "id, type, queue, state, tenant, tags, attempts, max_attempts, created_at, due_at, finished_at, reason, error_type,"
    " error_message, fingerprint"
)
"""Columns in the order that :func:`row_of` reads."""
LAST_RUNS = f"""
select r.id, ({TOOK_MS})::float8::bigint,
       (select {VERSION.format(at="a.started_at")} from joblane.runs a where a.task_id = r.id and a.run = r.runs)
  from joblane.tasks r where r.id = any($1::text[]) and r.runs > 0
"""
"""The duration of the last run of a task, and the version that was deployed at its start."""
MOST_MINUTES = 240
FAILURES = f"""
select t.id, t.type, t.queue, t.state, t.tenant, t.tags, a.attempt, t.max_attempts, t.created_at, t.due_at,
       a.finished_at, t.reason, a.error_type, a.error_message, a.fingerprint
  from (select * from joblane.task_attempts  -- a failed run is never on the row of its task
         where started_at >= now() - make_interval(mins => $1::int + 30) and finished_at is not null
           and finished_at >= now() - make_interval(mins => $1::int)
           and outcome in {FAILED_OUTCOMES}
         order by finished_at desc limit $2::int) as a
  join joblane.tasks t on t.id = a.task_id order by a.finished_at desc
"""
"""The last failed runs by their end. A run that took more than 30 minutes longer than the period is left out."""


def tasks(
    scope: Scope,
    filter_: Filter,
    action: BulkAction | None,
    after: str | None,
    limit: int,
    *,
    oldest_first: bool = False,
) -> TaskPage:
    check_number("limit", limit, LARGEST_PAGE)
    chosen = _chosen(scope, filter_, action)
    mark = mark_of(chosen, action, *(["oldest first"] if oldest_first else []))
    position = page_position(mark, after)
    with reading(scope.connection) as connection:
        narrow = is_narrow(connection, chosen)
        found = select(
            COLUMNS,
            chosen,
            position,
            limit + 1,
            narrow=narrow,
            oldest_first=oldest_first,
            acting=action is not None,
        )
        page = _page(connection.run(found.sql, *found.parameters), limit, mark)
        return replace(page, tasks=_with_last_runs(connection, page.tasks))


def _page(rows: Iterable[list[Any]], limit: int, mark: str) -> TaskPage:
    matching: list[TaskRow] = []
    for *columns, matches, reached in rows:
        if len(matching) == limit:
            return TaskPage(tuple(matching), page_cursor(mark, matching[-1].created_at, matching[-1].id))
        row = row_of(columns)
        matching += [row] if matches else []
        if reached:
            return TaskPage(tuple(matching), page_cursor(mark, row.created_at, row.id), row.created_at)
    return TaskPage(tuple(matching), None)


def _with_last_runs(connection: Connection, rows: Sequence[TaskRow]) -> tuple[TaskRow, ...]:
    """The rows with the durations and the versions of their last runs."""
    found = {id_: last for id_, *last in connection.run(LAST_RUNS, [row.id for row in rows])} if rows else {}
    return tuple(replace(row, **dict(zip(("took_ms", "version"), found.get(row.id, ()), strict=False))) for row in rows)


def failures(scope: Scope, minutes: int, limit: int) -> tuple[TaskRow, ...]:
    """The last failed runs, latest end first. ``finished_at`` and the error belong to the run."""
    check_number("minutes", minutes, MOST_MINUTES)
    check_number("limit", limit, LARGEST_PAGE)
    rows = scope.connection.run(FAILURES, str(minutes), str(limit))
    return tuple(map(row_of, rows))


def count(scope: Scope, filter_: Filter, action: BulkAction | None) -> Count:
    chosen, number, exact = _chosen(scope, filter_, action), 0, False
    with reading(scope.connection) as connection:
        steps = _steps(connection, chosen, COUNT_CAP + 1, acting=action is not None)
        for found, after in islice(steps, 1 if action is None else MOST_STEPS):
            number += found
            exact = after is None and number <= COUNT_CAP
            if number > COUNT_CAP:
                break
    return Count(min(number, COUNT_CAP), exact=exact)


def count_all(connection: Connection, filter_: Filter) -> int:
    """Count the tasks of a bulk action without a cap, in steps. ``filter_``: as for :func:`ids`."""
    return sum(number for number, _ in _steps(connection, filter_, None, acting=True))


def _steps(
    connection: Connection, filter_: Filter, most: int | None, *, acting: bool
) -> Iterator[tuple[int, str | None]]:
    """Count in statements that read a bounded number of rows: each number, and the position of the next statement."""
    narrow, after = is_narrow(connection, filter_), None
    while True:
        counting = selection.count(filter_, after, most, narrow=narrow, acting=acting)
        [[number, created_at, id_]] = connection.run(counting.sql, *counting.parameters)
        after = None if id_ is None else cursor_of(created_at, id_)
        yield number, after
        if after is None:
            return


def _chosen(scope: Scope, filter_: Filter, action: BulkAction | None) -> Filter:
    """The checked filter; with an action, limited to tasks that allow it."""
    found = checked(scope, filter_)
    return found if action is None else aimed(found, action)


def ids(connection: Connection, filter_: Filter, after: str | None, limit: int) -> tuple[list[str], str | None]:
    """Up to ``limit`` ids, oldest first, after a position (None: from the first), and the position to continue from.

    The position is None after the last task. There may be a position and no ids. For bulk actions: ``filter_`` is the
    result of :func:`checked`, and its ``created_before`` has passed, so that no new task can match during the walk.
    """
    with reading(connection):
        narrow = is_narrow(connection, filter_)
        found = select("created_at, id", filter_, after, limit, narrow=narrow, oldest_first=True, acting=True)
        rows = connection.run(found.sql, *found.parameters)
    matching: list[str] = []
    for created_at, id_, matches, reached in rows:
        matching += [id_] if matches else []
        if reached or len(matching) == limit:
            return matching, cursor_of(created_at, id_)
    return matching, None


def row_of(row: list[Any]) -> TaskRow:
    """The view of a row of :data:`COLUMNS`."""
    id_, type_, queue, state, tenant, tags, attempts, max_attempts, *rest = row
    queue, state = as_read(Queue, queue), as_read(State, state)
    return TaskRow(id_, type_, queue, state, tenant, shown_tags(tags), attempts, max_attempts - 1, *rest)
