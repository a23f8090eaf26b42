"""A statement over many rows of ``tasks``. If the database refuses one of them, the statement is repeated row by row.

An operator may have written a value that no code writes, or a trigger of the application refuses the change of a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import DatabaseError

from joblane import telemetry
from joblane.errors import sqlstate, text_of
from joblane.record.driver.connection import TIMED_OUT, Row, is_of_row

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection

LOCKED = """select r.* from (select id from jsonb_array_elements_text($1::jsonb) as x(id) order by id collate "C") as x,
         lateral (select {columns} from joblane.tasks t
                   where t.id = x.id and {condition} for update skip locked) as r"""
"""Locks the rows of ids in their order, as every statement does, each by a look-up in the primary key."""
BACK_OFF = """
update joblane.tasks
   set sweep_at = case when sweep_at <= now() then now() + interval '1 hour' else sweep_at end,
       expire_at = case when expire_at <= now() then now() + interval '1 hour' else expire_at end
 where id = $1
"""


def run_rows(connection: Connection, statement: str, items: Sequence[str | Mapping[str, Any]]) -> list[Row]:
    """Run ``statement`` for all items, ids or objects with an ``id``, and return its rows.

    ``$1`` of the statement is a JSON array of them. If the database refuses it, each item gets a statement of its own.
    The refused rows are logged, and the sweep ignores them for an hour. No transaction may be open.

    Raises pg8000's errors if the database is unavailable, does not answer in time, or a lock is not released.
    """
    if not items:
        return []
    try:
        return connection.run(statement, json.dumps(list(items)))
    except DatabaseError as error:
        if not is_of_row(error) or not connection.idle:
            raise
    rows: list[Row] = []
    for item in items:
        try:
            rows += connection.run(statement, json.dumps([item]))
        except DatabaseError as error:
            if not is_of_row(error):
                raise
            leave_row(connection, item if isinstance(item, str) else item["id"], text_of(error))
    return rows


def leave_row(connection: Connection, id_: str, why: str) -> None:
    """Log that a row is unusable. The sweep then ignores it for an hour."""
    telemetry.logger().error(
        "a row of joblane.tasks cannot be handled: correct its values, or the trigger or constraint that refuses its "
        "change, or delete the task. It is tried again in an hour, and other tasks are not affected",
        extra={"task_id": id_, "error": why},
    )
    with suppress(DatabaseError):  # a constraint may refuse any change of the row
        connection.run(BACK_OFF, id_)


@contextmanager
def leaving_a_slow_row(connection: Connection, ids: Sequence[str]) -> Iterator[None]:
    """If a statement for one row alone takes too long, the sweep then ignores the row for an hour.

    Otherwise the row would be the first one of each sweep, and those behind it would never be reached. The error is
    raised: the duty has failed.
    """
    try:
        yield
    except DatabaseError as error:
        if len(ids) == 1 and sqlstate(error) == TIMED_OUT:
            with suppress(DatabaseError):
                connection.run(BACK_OFF, ids[0])
        raise
