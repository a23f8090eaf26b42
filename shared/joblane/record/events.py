"""The events that are not sent yet: reading them, and deleting those that the bus has accepted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection

SENT_BY_WORKER_SECONDS = 15
"""The sweep leaves a younger event to the worker that has just ended the task."""
COLUMNS = "id, detail ->> 'kind', detail ->> 'finished_at', detail::text"
BY_ID = f"select {COLUMNS} from joblane.events where id = any($1::text[]) order by created_at, id"
OLDEST = f"""
select {COLUMNS}, created_at::text as at from joblane.events
 where (created_at, id) > ($1::timestamptz, $2) and created_at <= now() - pg_catalog.make_interval(secs => $4::float8)
   and detail ->> 'kind' <> all($5::text[])
 order by created_at, id limit $3::int
"""
REMOVE = "delete from joblane.events where id = any($1::text[])"
# An earlier statement may have ended the task once more: the caller compares the ids.
OF_TASKS = "select joblane.event(t) from joblane.tasks t where t.id = any($1::text[])"


class Unsent(NamedTuple):
    """An event that is not sent yet. ``detail``: its fields as JSON. The others are fields of it, as texts."""

    id: str
    kind: str
    finished_at: str
    detail: str


def events_by_id(connection: Connection, ids: Iterable[str]) -> list[Unsent]:
    """Return those of the events that are not sent yet, in the order in which they were written."""
    return [Unsent(*row) for row in connection.run(BY_ID, list(ids))]


def oldest_events(
    connection: Connection,
    after: tuple[str, str],
    count: int,
    *,
    older_than_seconds: float = SENT_BY_WORKER_SECONDS,
    without: Collection[str] = (),
) -> list[tuple[Unsent, str]]:
    """Return events that no worker sends any more, with their times, oldest first, after a time and an id.

    ``without``: kinds to leave out.
    """
    rows = connection.run(OLDEST, *after, str(count), str(older_than_seconds), list(without))
    return [(Unsent(*row), at) for *row, at in rows]


def remove_events(connection: Connection, ids: Sequence[str]) -> None:
    """Delete events that the bus has accepted."""
    if ids:
        connection.run(REMOVE, list(ids))


def events_of_tasks(connection: Connection, task_ids: Iterable[str]) -> list[dict[str, Any]]:
    """Return the fields of the events of tasks, as their rows are now."""
    return [detail for (detail,) in connection.run(OF_TASKS, list(task_ids))]
