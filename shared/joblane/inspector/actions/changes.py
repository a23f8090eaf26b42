"""The changes of rows by an action: one statement for many ids, in the open transaction.

The rows are locked in the order of their ids. The statement skips rows that another transaction has locked, missing
rows, and rows whose state does not allow the action. They are absent from the answer, and no transaction waits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pg8000.exceptions import DatabaseError

from joblane import telemetry
from joblane.enqueue.follow_up import FollowUp
from joblane.errors import sqlstate, text_of
from joblane.inspector.filter import ALLOWED, BulkAction
from joblane.names import Queue
from joblane.record.driver.connection import UNIQUE_VIOLATION, Connection, is_of_row
from joblane.record.flow.free_slots import LimitNames, Turn
from joblane.record.row.conditions import AT_WAIT, HAS_TIME, HOLDER, MOST_RELEASED, SKIPPED_TICK
from joblane.record.row.states import ENDED, LIVE_SQL, State, in_sql
from joblane.record.row.transitions import (
    ARCHIVED,
    CANCEL_REQUESTED,
    DELETED,
    FINGERPRINT,
    NOW,
    REVIVED,
    TO_SEND,
    WOKEN,
    Columns,
    assignments,
)
from joblane.record.sql_functions import VERSION
from joblane.sqs.client import Entry, Sqs

ROUNDS = 3
"""A unique key may be taken at the same moment; when the statement is repeated, it sees the holder."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A changed row. ``due_seconds``: the time until it is due; 0 or less means now."""

    id: str
    type: str
    queue: Queue
    tenant: str | None
    before: State
    after: State
    due_seconds: float
    schema: str | None
    headers: Mapping[str, str]
    limits: LimitNames

    @property
    def has_ended(self) -> bool:
        """True if its children have to be released, or cancelled."""
        return self.after in ENDED

    @property
    def frees(self) -> bool:
        """True if its slots are free now, so that its limits have to be served after the commit."""
        return self.after in ENDED and any(self.limits)


# --- The statements ------------------------------------------------------------------------------------------------

RUN_NOW: Columns = TO_SEND | {
    "due_at": f"least(t.due_at, {NOW})",
    "first_due_at": f"case when t.seq is not null then least(t.first_due_at, {NOW}) end",
    "wait_kind": "null",
    "place": "null",
}
"""A scheduled task has its place in an order from now on. A child does not wait for its parents any more."""
RUN_ALONE = f""",
parents as (
  delete from joblane.task_parents where ctid = any(array(
    select e.ctid from joblane.task_parents e
     where e.child = any(array(select id from changed)) limit {MOST_RELEASED} for update skip locked))
)"""
"""The callback of a batch has a row for each member. The other rows change nothing, and the sweep deletes them."""
ARCHIVE: Columns = ARCHIVED | {
    "reason": "'archived by ' || c.who",
    "fingerprint": f"coalesce(t.fingerprint, {FINGERPRINT.format(row='t', error='Archived')})",
    "sweep_at": NOW,
}
"""The error of the last attempt stays, if there was an attempt. The dead letter is sent by the sweep, or earlier when
the task's message arrives."""
DELETE: Columns = DELETED | {"reason": "'deleted by ' || c.who"}
DELETE_DEPENDENT = """,
items as (delete from joblane.task_items where task_id in (select id from changed)),
cursors as (delete from joblane.task_cursors where task_id in (select id from changed)),
steps as (delete from joblane.task_steps where task_id in (select id from changed)),
waits as (delete from joblane.task_waits where task_id in (select id from changed)),
signals as (delete from joblane.task_signals where task_id in (select id from changed)),
progress as (delete from joblane.task_progress where task_id in (select id from changed)),
attempts as (
  update joblane.task_attempts set error_message = null, traceback = null where task_id in (select id from changed)
  returning fingerprint, type
),
messages as (
  select c.fingerprint, c.type from joblane.causes c
   where c.message <> ''
     and (c.fingerprint, c.type) in (select fingerprint, type from attempts
                                     union all
                                     select t.fingerprint, t.type from joblane.tasks t join changed using (id))
     and not exists (select from joblane.tasks t
                      where t.fingerprint = c.fingerprint collate "default" and t.type = c.type
                        and t.id not in (select id from changed) offset 0)
   order by c.fingerprint, c.type for no key update of c
),
emptied as (
  update joblane.causes c set message = '' from messages m where c.fingerprint = m.fingerprint and c.type = m.type
)"""
"""The message of a cause is deleted with its last task, and a later run that fails with it brings it back. The index of
tasks by cause has the default collation."""


BULK = "case when $3::text is not null then $3::text when t.bulk is not null then '' end"
"""The bulk action that has changed the row last; empty after an action on it alone."""


def _statement(
    action: str, become: Columns, *, only: str = "true", chosen: str = "chosen", more: str = "", then: str = "null"
) -> str:
    """Return the statement of an action. ``then``: an expression that is evaluated for each changed row ``t``."""
    return f"""
with chosen as materialized (
  select t.id, t.state as before, t.unique_key, $2::text as who from joblane.tasks t
   where t.id = any(array(select jsonb_array_elements_text($1::jsonb)))
     and t.state in {in_sql(ALLOWED[action])} and {only}
   order by t.id for no key update of t skip locked
),
changed as (
  update joblane.tasks t set {assignments(become)}, bulk = {BULK}
    from {chosen} c where t.id = c.id
  returning t.id, t.type, t.queue, t.tenant, c.before, t.state, t.due_at, t.schema, t.headers,
            t.key_limit, t.total_limit, t.shared_limit, {then}
){more}
select id, type, queue, tenant, before, state,
       (extract(epoch from due_at) - extract(epoch from clock_timestamp()))::float8, schema, headers,
       key_limit, total_limit, shared_limit
  from changed order by id
"""


# If several rows need the same unique key, the first gets it. A key is held from the moment the row is live again.
RETRY = _statement(
    BulkAction.RETRY,
    REVIVED | TO_SEND,
    only=f"not t.cleared and not {SKIPPED_TICK} and {HOLDER.format(key='t.unique_key', id='t.id')} is null",
    chosen="""(select distinct on (coalesce(unique_key, id)) id, before, who from chosen
               order by coalesce(unique_key, id), id)""",
    then=f"joblane.wait_again_{VERSION}(t.id, t.batch)",
)
NOT_LIMITED = "(t.state <> 'held' or t.wait_kind = 'parents')"
NOT_AT_WAIT = f"not (t.state = 'scheduled' and t.due_at > clock_timestamp() and {AT_WAIT})"
"""A run before the time of its wait would only stop there again."""
STATEMENTS: Mapping[BulkAction, str] = {
    BulkAction.RUN: _statement(
        BulkAction.RUN, RUN_NOW, only=f"not ({HAS_TIME}) and {NOT_LIMITED} and {NOT_AT_WAIT}", more=RUN_ALONE
    ),
    BulkAction.RETRY: RETRY,
    BulkAction.ARCHIVE: _statement(BulkAction.ARCHIVE, ARCHIVE),
    BulkAction.DELETE: _statement(BulkAction.DELETE, DELETE, only="not t.cleared", more=DELETE_DEPENDENT),
    BulkAction.CANCEL: _statement(
        BulkAction.CANCEL, CANCEL_REQUESTED, only="(t.state <> 'active' or t.cancel_requested_at is null)"
    ),
}

SKIP = _statement(
    "skip",
    WOKEN,
    only=AT_WAIT,
    more=""",
over as (
  update joblane.task_waits w set until = least(w.until, clock_timestamp()) from joblane.tasks t
   where t.id = any(array(select id from changed)) and w.task_id = t.id and w.run = t.runs
)""",
)
"""The end of the wait is now. The run that follows sees a signal that has come, and otherwise the wait expires."""

FREE_EXPIRED = f"""
update joblane.tasks t set unique_key = null
  from (select h.id from joblane.tasks h
         where h.unique_key = any(array(select w.unique_key from joblane.tasks w
                                         where w.id = any(array(select jsonb_array_elements_text($1::jsonb)))))
           and h.finished_at is null
           and (h.unique_expires_at <= clock_timestamp() or h.state not in {LIVE_SQL})
         order by h.id for no key update skip locked) as expired
 where t.id = expired.id
"""
"""Free the unique keys that tasks need from holders whose ``unique_for`` has passed."""


def change(
    connection: Connection, action: BulkAction, ids: Sequence[str], *, who: str, bulk: str | None = None
) -> list[Changed]:
    """Apply ``action`` to the tasks, in the open transaction or in a transaction of its own. Returns the changed rows.

    ``bulk``: the id of the bulk action, None for an action on a single task. A bulk action leaves out a row that the
    database refuses to change.

    Call :func:`send` for the pending rows after the commit; otherwise the sweep sends their messages. The sweep also
    sends the dead letters of archived rows.
    """
    document, fenced = json.dumps(list(ids)), action is BulkAction.RETRY or bulk is not None
    if action is BulkAction.RETRY:
        connection.run(FREE_EXPIRED, document)
    for last in (False,) * (ROUNDS - 1) + (True,):
        try:
            return [_changed(row) for row in _run(connection, fenced, STATEMENTS[action], document, who, bulk)]
        except DatabaseError as error:
            if not last and sqlstate(error) == UNIQUE_VIOLATION:
                continue
            if bulk is None or not is_of_row(error):
                raise
            if len(ids) == 1:
                fields = {"task_id": ids[0], "error": text_of(error)}
                telemetry.logger().warning("the database refuses to change a task; it is skipped", extra=fields)
                return []
            break
    return [row for id_ in ids for row in change(connection, action, [id_], who=who, bulk=bulk)]


def end_wait(connection: Connection, id_: str, *, who: str) -> Changed | None:
    """Set the end of the open wait of a task to now, in the open transaction. None: it does not wait.

    Call :func:`send` after the commit, as for :func:`change`.
    """
    rows = connection.run(SKIP, json.dumps([id_]), who, None)
    return _changed(rows[0]) if rows else None


def _run(connection: Connection, fenced: bool, statement: str, *parameters: str | None) -> list[list[object]]:
    """Run the statement. ``fenced``: behind a savepoint, so that its failure does not abort the open transaction."""
    if connection.idle or not fenced:
        return connection.run(statement, *parameters)
    connection.execute_simple("savepoint change")
    try:
        rows = connection.run(statement, *parameters)
    except DatabaseError:
        connection.execute_simple("rollback to savepoint change")
        raise
    connection.execute_simple("release savepoint change")
    return rows


def _changed(row: list[object]) -> Changed:
    id_, type_, queue, tenant, before, after, due, schema, headers, *limits = row
    return Changed(id_, type_, Queue(queue), tenant, State(before), State(after), due, schema, headers, limits)  # type: ignore[arg-type]


# --- Sending -------------------------------------------------------------------------------------------------------


def entry_of(prefix: str, changed: Changed) -> Entry:
    """The message of a due row."""
    turn = Turn(changed.id, changed.type, changed.queue, changed.tenant, changed.schema, changed.headers)
    return turn.entry(prefix)


def serve_freed(connection: Connection, sqs: Sqs, prefix: str, rows: Sequence[Changed]) -> None:
    """Start the tasks that wait for the limits of ended ones, or for the ended ones themselves.

    Call it after the commit; otherwise the sweep does it. The sweep also releases the children that are too many.
    """
    freed = [row.limits for row in rows if row.frees]
    ended = [row.id for row in rows if row.has_ended]
    FollowUp(freed=freed, ended=ended).act(sqs, prefix, lambda step: step(connection))


def send(sqs: Sqs, entries: Mapping[str, Entry]) -> dict[str, str]:
    """Send the messages of rows, by id. Returns the messages that failed: id → why.

    Call it after the commit. Nothing is lost if it fails: the sweep then sends the messages.
    """
    ids = list(entries)
    failed = sqs.send_many(list(entries.values())) if ids else {}
    return {ids[position]: why for position, why in failed.items()}
