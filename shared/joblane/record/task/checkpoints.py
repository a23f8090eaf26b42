"""Checkpoints of a run: finished items, the cursor of a resumable task, values of steps, and its reported progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection


def done_items(connection: Connection, id_: str) -> set[str]:
    """Return the keys of the items that this attempt or an earlier one has finished."""
    return {row[0] for row in connection.run("select key from joblane.task_items where task_id = $1", id_)}


# The row lock lasts until the commit, which follows at once. A claim waits half a second for it.
MARK_ITEM = """
insert into joblane.task_items (task_id, key)
select id, $3 from joblane.tasks where id = $1 and lease_token = $2::uuid and state = 'active' for share
on conflict do nothing
returning key
"""


def mark_item(connection: Connection, id_: str, token: str, key: str) -> bool:
    """Mark an item in the open transaction. Return False if the lease is lost or the key was marked before."""
    return bool(connection.run(MARK_ITEM, id_, token, key))


def read_cursor(connection: Connection, id_: str) -> tuple[Any, int]:
    """Return the cursor and the number of items before it, or None and 0 if the task has no cursor yet."""
    rows = connection.run("select cursor, done from joblane.task_cursors where task_id = $1", id_)
    return (rows[0][0], rows[0][1]) if rows else (None, 0)


# Locked like MARK_ITEM.
MOVE_CURSOR = """
insert into joblane.task_cursors (task_id, cursor, done)
select id, $3::jsonb, $4::bigint from joblane.tasks where id = $1 and lease_token = $2::uuid
 and state = 'active' for share
on conflict (task_id) do update set cursor = excluded.cursor, done = excluded.done, at = clock_timestamp()
returning task_id
"""


def move_cursor(connection: Connection, id_: str, token: str, cursor: str, done: int) -> bool:
    """Move the cursor (JSON text) in the open transaction. Return False if the lease is lost."""
    return bool(connection.run(MOVE_CURSOR, id_, token, cursor, str(done)))


# Locked like MARK_ITEM. The row exists only if somebody has deleted the task's row by SQL, and not its steps.
MARK_STEP = """
insert into joblane.task_steps (task_id, name, value)
select id, $3, $4::json from joblane.tasks where id = $1 and lease_token = $2::uuid and state = 'active' for share
on conflict (task_id, name) do update set value = excluded.value, created_at = excluded.created_at
returning name
"""


def mark_step(connection: Connection, id_: str, token: str, name: str, value: str) -> bool:
    """Store the value of a step (JSON text) in the open transaction. Return False if the lease is lost."""
    return bool(connection.run(MARK_STEP, id_, token, name, value))


WRITE_PROGRESS = """
with owned as (
  select id, cancel_requested_at is not null as cancelled from joblane.tasks
   where id = $1 and lease_token = $2::uuid and state = 'active'
),
written as (
  insert into joblane.task_progress (task_id, done, total, note)
  select id, $3::bigint, $4::bigint, $5::text from owned where $3::bigint is not null
  on conflict (task_id) do update
     set done = excluded.done, total = excluded.total, note = excluded.note, at = clock_timestamp()
)
select cancelled from owned
"""


def write_progress(
    connection: Connection, id_: str, token: str, *, done: int | None, total: int | None, note: str | None
) -> bool | None:
    """Write progress unless ``done`` is None. Return True if the task has a cancel request, None if the lease is lost.

    The statement does not lock the task's row, because the run's own transaction may hold that lock.
    """
    numbers = [None if number is None else str(number) for number in (done, total)]
    rows = connection.run(WRITE_PROGRESS, id_, token, *numbers, note)
    return bool(rows[0][0]) if rows else None
