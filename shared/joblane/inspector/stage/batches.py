"""Batches: their members by state, their callbacks, and their seal."""

from __future__ import annotations

import json
from typing import Any

from joblane.enqueue.wake import wake
from joblane.inspector.actions import audit
from joblane.inspector.errors import SelectionError, UnknownBatchError
from joblane.inspector.scope import Scope
from joblane.inspector.tasks import listing
from joblane.inspector.tasks.filter_sql import LARGEST_PAGE, check_number, reading
from joblane.inspector.views import BatchRow, BatchView, Relative, archived_members
from joblane.record.driver.connection import Connection
from joblane.record.flow.batches import SEAL
from joblane.record.row.states import State, as_read
from joblane.record.task.insert import BATCH_TAG
from joblane.sqs.message import ID_PATTERN

MOST_MEMBERS = 50_000
"""Members of a batch that are counted, in about 50 ms: they are next to each other in the table."""
DEAD_SHOWN = 20
MOST_ARCHIVED = 20_000

ROW = """
select b.id, b.created_at, b.sealed_at, b.on_end, e.type, e.state, b.on_success, s.type, s.state{more}
  from {batches} b
  left join lateral (select t.type, t.state from joblane.tasks t where t.id = b.on_end limit 1) e on true
  left join lateral (select t.type, t.state from joblane.tasks t where t.id = b.on_success limit 1) s on true
"""
LATEST = (
    ROW.format(
        batches="(select * from joblane.batches order by created_at desc, id desc limit $1::int)",
        more=", coalesce(a.number, 0), a.latest",
    )
    + f"""
  left join (select batch, count(*) as number, max(finished_at) as latest
               from (select batch, finished_at from joblane.tasks
                      where (dead_sent_at is not null or dead_letter_unsent) and state = 'archived'
                      order by created_at desc, id desc limit {MOST_ARCHIVED}) as t
              group by 1) as a on a.batch = b.id
 order by b.created_at desc, b.id desc
"""
)
ONE = ROW.format(batches="(select * from joblane.batches where id = $1)", more="")
LOCK = "select sealed_at is not null from joblane.batches where id = $1 for update"
# Without an order, only the index of tags can be used. It needs both conditions.
MEMBERS = f"""
select m.state, count(*)
  from (select state from joblane.tasks where tags <> '{{}}' and tags @> array[$1::text] limit {MOST_MEMBERS + 1}) as m
 group by m.state
"""


def batches(scope: Scope, limit: int) -> tuple[BatchRow, ...]:
    check_number("limit", limit, LARGEST_PAGE)
    with reading(scope.connection) as connection:
        return tuple(map(_row, connection.run(LATEST, str(limit))))


def batch(scope: Scope, id_: str) -> BatchView:
    """Read a batch. Raises :class:`UnknownBatchError`."""
    with reading(scope.connection) as connection:
        row = _read(connection, id_)
        members = {as_read(State, state): number for state, number in connection.run(MEMBERS, f"{BATCH_TAG}{id_}")}
        exact = sum(members.values()) <= MOST_MEMBERS
        has_dead = members.get(State.ARCHIVED) or not exact
        dead = listing.tasks(scope, archived_members(id_), None, None, DEAD_SHOWN).tasks if has_dead else ()
    return BatchView(row, members, exact, dead)


def seal(scope: Scope, id_: str, reason: str | None) -> BatchView:
    """Seal a batch whose creator cannot do it any more.

    Raises :class:`UnknownBatchError`, and :class:`SelectionError` if it is sealed.
    """
    with audit.action(scope, "seal_batch", f"{BATCH_TAG}{id_}", reason) as doing:
        _read(doing.connection, id_)
        [[is_sealed]] = doing.connection.run(LOCK, id_)
        if is_sealed:
            raise SelectionError("id", f"the batch {id_!r} is sealed already")
        doing.connection.run(SEAL, json.dumps({"id": id_}))
    wake(scope.sqs, scope.prefix)  # it sends the messages of the callbacks
    return batch(scope, id_)


def _read(connection: Connection, id_: str) -> BatchRow:
    rows = connection.run(ONE, id_) if isinstance(id_, str) and ID_PATTERN.fullmatch(id_) else []
    if not rows:
        raise UnknownBatchError(str(id_))
    return _row(rows[0])


def _row(row: list[Any]) -> BatchRow:
    id_, created_at, sealed_at, *callbacks = row
    on_end, on_success = _callback(*callbacks[:3]), _callback(*callbacks[3:6])
    return BatchRow(id_, created_at, sealed_at, on_end, on_success, *callbacks[6:])


def _callback(id_: str | None, type_: str | None, state: str | None) -> Relative | None:
    return None if id_ is None else Relative(id_, type_, None if state is None else as_read(State, state))
