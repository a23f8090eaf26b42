"""What an action makes of rows: one statement over many ids, in whatever transaction is open.

The rows are locked in the order of their ids. One that somebody else holds is passed over, as is one that is gone or in
a state that does not allow the action: they are missing in the answer, and nobody waits for anybody.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pg8000.exceptions import DatabaseError
from pg8000.exceptions import Error as PostgresError

from joblane.errors import sqlstate
from joblane.inspector.filter import BulkAction
from joblane.limits import CONTENT_KEPT_FOR_MESSAGES
from joblane.queues import Queue, lane_name
from joblane.record import states
from joblane.record.claim import FINGERPRINT, HOLDER
from joblane.record.connection import Connection
from joblane.record.insert import MARK_SENT
from joblane.record.states import ARCHIVED_RETENTION, SWEEP_MARGIN_SECONDS, State
from joblane.record.transitions import CANCELLED
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import Message

WAITING = frozenset({State.SCHEDULED, State.PENDING, State.RETRY})
LIVE = WAITING | {State.ACTIVE}
ENDED = frozenset({State.COMPLETED, State.ARCHIVED, State.CANCELLED})

ALLOWED: Mapping[str, frozenset[State]] = {
    BulkAction.RUN: WAITING,
    BulkAction.RETRY: frozenset({State.ARCHIVED, State.CANCELLED}),
    BulkAction.ARCHIVE: WAITING,
    BulkAction.DELETE: WAITING | ENDED,
    BulkAction.CANCEL: LIVE,
    "replay": ENDED,
    "edit": WAITING | {State.ARCHIVED},
}
"""The states that allow an action."""

UNIQUE_VIOLATION = "23505"
ROUNDS = 3
"""A unique key may be taken at the same moment; asked again, the statement sees who has it."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A row that was changed. ``due_seconds``: until it is due, 0 or less for now."""

    id: str
    type: str
    queue: Queue
    tenant: str | None
    before: State
    after: State
    due_seconds: float
    schema: str | None
    headers: Mapping[str, str]


# --- The statements ------------------------------------------------------------------------------------------------

NOW = f"""
    state = 'pending', due_at = least(t.due_at, clock_timestamp()), sent_at = null, sends = 0,
    sweep_at = clock_timestamp() + interval '{SWEEP_MARGIN_SECONDS} s'"""
"""The sweep sends it where nobody has in a minute."""

# All that the claim resets where a redrive revives a task (`unbury`); a dead letter of the generation before is a
# leftover from then on.
REVIVED = f"""
    state = 'pending', generation = t.generation + 1, attempts = 0, snoozes = 0, used_ms = 0, suspect = false,
    company = 0, mismatch_since = null, cancel_requested_at = null, deadline = null, dead_sent_at = null,
    finished_at = null, expire_at = null, reason = null, error_type = null, error_message = null, fingerprint = null,
    due_at = clock_timestamp(), sent_at = null, sends = 0,
    sweep_at = clock_timestamp() + interval '{SWEEP_MARGIN_SECONDS} s'"""

BY_HAND = FINGERPRINT.format(row="t", error="Archived")
GIVEN_UP = f"""
    state = 'archived', reason = 'archived by ' || c.who, fingerprint = coalesce(t.fingerprint, {BY_HAND}),
    dead_sent_at = null, finished_at = clock_timestamp(),
    expire_at = clock_timestamp() + interval '{ARCHIVED_RETENTION.days} days', sweep_at = clock_timestamp()"""
"""The sweep, or the message where it comes first, sends the dead letter."""

# A dead letter that is sent back after this would revive a task without a payload: it is made a leftover.
CLEARED = f"""
    state = case when t.state in {states.LIVE} then 'cancelled' else t.state end,
    generation = t.generation + (t.state = 'archived')::int,
    dead_sent_at = case when t.state = 'archived' then coalesce(t.dead_sent_at, clock_timestamp()) end,
    finished_at = coalesce(t.finished_at, clock_timestamp()), sweep_at = null,
    reason = 'deleted by ' || c.who, error_message = null, unique_key = null,
    payload = null, result = null, headers = '{{}}', cleared = true,
    expire_at = clock_timestamp() + interval '{CONTENT_KEPT_FOR_MESSAGES.days} days'"""
BESIDES_CLEARED = """,
items as (delete from joblane.task_items where task_id in (select id from changed)),
cursors as (delete from joblane.task_cursors where task_id in (select id from changed)),
progress as (delete from joblane.task_progress where task_id in (select id from changed)),
attempts as (
  update joblane.task_attempts set error_message = null, traceback = null where task_id in (select id from changed)
)"""


def _in(states: Iterable[State]) -> str:
    return f"({', '.join(repr(str(state)) for state in sorted(states))})"


def _statement(action: str, become: str, *, only: str = "true", chosen: str = "chosen", besides: str = "") -> str:
    return f"""
with chosen as materialized (
  select t.id, t.state as before, t.unique_key, $2::text as who from joblane.tasks t
   where t.id in (select jsonb_array_elements_text($1::jsonb)) and t.state in {_in(ALLOWED[action])} and {only}
   order by t.id for no key update of t skip locked
),
changed as (
  update joblane.tasks t set {become}
    from {chosen} c where t.id = c.id
  returning t.id, t.type, t.queue, t.tenant, c.before, t.state, t.due_at, t.schema, t.headers
){besides}
select id, type, queue, tenant, before, state, extract(epoch from due_at - clock_timestamp())::float8, schema, headers
  from changed order by id
"""


# Of several that want one key the first gets it; a key is held from the moment the row is live again.
RETRY = _statement(
    BulkAction.RETRY,
    REVIVED,
    only=f"not t.cleared and {HOLDER.format(key='t.unique_key', id='t.id')} is null",
    chosen="""(select distinct on (coalesce(unique_key, id)) id, before, who from chosen
               order by coalesce(unique_key, id), id)""",
)
STATEMENTS: Mapping[BulkAction, str] = {
    BulkAction.RUN: _statement(BulkAction.RUN, NOW),
    BulkAction.RETRY: RETRY,
    BulkAction.ARCHIVE: _statement(BulkAction.ARCHIVE, GIVEN_UP),
    BulkAction.DELETE: _statement(BulkAction.DELETE, CLEARED, only="not t.cleared", besides=BESIDES_CLEARED),
    BulkAction.CANCEL: _statement(
        BulkAction.CANCEL, CANCELLED, only="(t.state <> 'active' or t.cancel_requested_at is null)"
    ),
}

FREE_EXPIRED = f"""
update joblane.tasks t set unique_key = null
  from (select h.id from joblane.tasks h
         where h.unique_key in (select w.unique_key from joblane.tasks w
                                 where w.id in (select jsonb_array_elements_text($1::jsonb)))
           and h.state in {states.LIVE} and h.unique_expires_at <= clock_timestamp()
         order by h.id for no key update skip locked) as expired
 where t.id = expired.id
"""
"""Take the keys that tasks want from holders that have had them for longer than they may."""


def change(connection: Connection, action: BulkAction, ids: Sequence[str], *, who: str) -> list[Changed]:
    """Do ``action`` to the tasks, in the transaction that is open or in one of its own. Returns what was changed.

    What is pending then is to be sent after the commit, by :func:`send`; the sweep does it where nobody does. The
    sweep also sends the dead letters of what is archived.
    """
    document = json.dumps(list(ids))
    if action is BulkAction.RETRY:
        connection.run(FREE_EXPIRED, document)
    for last in (False,) * (ROUNDS - 1) + (True,):
        try:
            return [_changed(row) for row in _fenced(connection, STATEMENTS[action], document, who)]
        except DatabaseError as error:
            if last or sqlstate(error) != UNIQUE_VIOLATION:
                raise
    raise AssertionError


def _fenced(connection: Connection, statement: str, document: str, who: str) -> list[list[object]]:
    """Run it so that its failure leaves the open transaction as it was."""
    if connection.idle or statement is not RETRY:
        return connection.run(statement, document, who)
    connection.execute_simple("savepoint change")
    try:
        rows = connection.run(statement, document, who)
    except DatabaseError:
        connection.execute_simple("rollback to savepoint change")
        raise
    connection.execute_simple("release savepoint change")
    return rows


def _changed(row: list[object]) -> Changed:
    id_, type_, queue, tenant, before, after, due, schema, headers = row
    return Changed(id_, type_, Queue(queue), tenant, State(before), State(after), due, schema, headers)  # type: ignore[arg-type]


# --- Sending -------------------------------------------------------------------------------------------------------


def entry_of(prefix: str, changed: Changed) -> Entry:
    """The message of a row that is due."""
    message = Message(changed.type, changed.id, rec=True, schema=changed.schema, headers=changed.headers)
    return Entry(lane_name(prefix, changed.queue, changed.type), message.encode(), group=changed.tenant)


def send(connection: Connection, sqs: Sqs, entries: Mapping[str, Entry]) -> dict[str, str]:
    """Send the messages of rows, by id, and mark those as sent. Returns what SQS did not take: id → why.

    Call it after the commit. The rows are safe: the sweep sends what fails here.
    """
    ids = list(entries)
    failed = sqs.send_many(list(entries.values())) if ids else {}
    if sent := [id_ for position, id_ in enumerate(ids) if position not in failed]:
        with suppress(PostgresError, OSError):  # the action is done; a second send is harmless
            connection.run(MARK_SENT, json.dumps(sent))
    return {ids[position]: why for position, why in failed.items()}
