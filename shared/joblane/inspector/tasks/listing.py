"""Tasks by filter, a page at a time."""

from __future__ import annotations

from typing import Any

from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.scope import Scope
from joblane.inspector.tasks import filter_sql
from joblane.inspector.tasks.filter_sql import LARGEST_PAGE, aimed, check_number, checked, cursor_of, reading, select
from joblane.inspector.views import Count, Page, TaskRow
from joblane.queues import Queue
from joblane.record.connection import Connection
from joblane.record.states import State

COUNT_CAP = 10_000
"""Rows are counted up to here."""
COLUMNS = (
    "id, type, queue, state, tenant, tags, attempts, max_attempts, created_at, due_at, finished_at, reason, error_type,"
    " error_message, fingerprint"
)
"""Columns in the order that :func:`row_of` reads."""


def tasks(scope: Scope, filter_: Filter, action: BulkAction | None, after: str | None, limit: int) -> Page:
    check_number("limit", limit, LARGEST_PAGE)
    found = select(COLUMNS, _chosen(scope, filter_, action), after, limit + 1, acting=action is not None)
    with reading(scope.connection) as connection:
        rows = [row_of(row) for row in connection.run(found.sql, *found.parameters)]
    if len(rows) <= limit:
        return Page(tuple(rows), None)
    last = rows[limit - 1]
    return Page(tuple(rows[:limit]), cursor_of(last.created_at, last.id))


def count(scope: Scope, filter_: Filter, action: BulkAction | None) -> Count:
    counting = filter_sql.count(_chosen(scope, filter_, action), COUNT_CAP + 1, acting=action is not None)
    with reading(scope.connection) as connection:
        [[number]] = connection.run(counting.sql, *counting.parameters)
    return Count(min(number, COUNT_CAP), exact=number <= COUNT_CAP)


def _chosen(scope: Scope, filter_: Filter, action: BulkAction | None) -> Filter:
    """The checked filter; with an action, limited to tasks that allow it."""
    found = checked(scope, filter_)
    return found if action is None else aimed(found, action)


def ids(connection: Connection, filter_: Filter, after: str | None, limit: int) -> list[tuple[str, str]]:
    """Up to ``limit`` pairs of a position and an id, oldest first, after a position (None: from the first).

    For bulk actions: ``filter_`` is the result of :func:`checked`, and its ``created_before`` has passed, so that no
    new task can match during the walk.
    """
    found = select("created_at, id", filter_, after, limit, oldest_first=True, acting=True)
    with reading(connection):
        rows = connection.run(found.sql, *found.parameters)
    return [(cursor_of(created_at, id_), id_) for created_at, id_ in rows]


def row_of(row: list[Any]) -> TaskRow:
    """The view of a row of :data:`COLUMNS`."""
    id_, type_, queue, state, tenant, tags, attempts, max_attempts, *rest = row
    return TaskRow(id_, type_, Queue(queue), State(state), tenant, tuple(tags), attempts, max_attempts - 1, *rest)
