"""What an operator does to one task.

Each is one transaction: the row is locked, changed and noted in the audit. Its message is sent after the commit, and by
the sweep a minute later where this process dies in between.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from joblane.enqueue.check import check
from joblane.enqueue.wake import wake
from joblane.errors import UnreadablePayloadError
from joblane.inspector.actions import audit
from joblane.inspector.actions.audit import Action
from joblane.inspector.actions.changes import ALLOWED, change, entry_of, send
from joblane.inspector.actions.enqueue import insert, named, note_of, send_inserted
from joblane.inspector.errors import ActionError
from joblane.inspector.filter import BulkAction
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import BULK_TYPE
from joblane.inspector.tasks.row import Record, check_id, read
from joblane.inspector.views import ActionResult
from joblane.job import Job
from joblane.record.claim import HOLDER
from joblane.record.insert import NewTask
from joblane.record.states import State
from joblane.redaction import restored

CLEARED = "its payload was cleared, by its retention or by an operator, so it can neither run again nor be replayed"
IS_PAUSED = "its type, queue or tenant is paused: it waits until that is resumed"


def change_state(scope: Scope, action: BulkAction, id_: str, reason: str | None) -> ActionResult:
    with _on(scope, action, id_, reason) as (doing, found):
        changed = change(doing.connection, action, [id_], who=doing.who)
        if not changed:
            raise _refusal(doing, action, found, _problem(doing, action, found))
        one = changed[0]
        doing.details |= {"before": one.before, "after": one.after}
    if one.after is State.ARCHIVED and action is BulkAction.ARCHIVE:
        wake(scope.sqs, scope.prefix)  # it sends the dead letter
    if one.after is not State.PENDING:
        return ActionResult(id_, action, one.before, one.after)
    failed = send(scope.connection, scope.sqs, {id_: entry_of(scope.prefix, one)})
    return ActionResult(id_, action, one.before, one.after, note=IS_PAUSED if found.paused else note_of(failed))


def _problem(doing: Action, action: BulkAction, found: Record) -> str | None:
    """What kept a row from being changed, where it is not its state."""
    if found.state not in ALLOWED[action]:
        return None
    if action is BulkAction.CANCEL:
        return "it was asked to stop already, and does so at its next check or at its end"
    if action is BulkAction.DELETE:
        return "its content is gone already"
    if found.cleared:
        return CLEARED
    holder = f"select {HOLDER.format(key='t.unique_key', id='t.id')} from joblane.tasks t where t.id = $1"
    return f"its unique key is held by task {doing.connection.run(holder, found.id)[0][0]!r}"


# --- Another payload -----------------------------------------------------------------------------------------------

# `payload_digest` stays, as in store.REPLACE: by it the message of an external sender is known as the row's own.
EDIT = "update joblane.tasks set payload = $2::jsonb, schema = $3, mismatch_since = null where id = $1"


def edit(scope: Scope, id_: str, payload: Mapping[str, Any], reason: str | None) -> ActionResult:
    """Its unique key stays, and so does what ``ctx.each`` and ``ctx.resume`` have done of it."""
    with _on(scope, "edit", id_, reason) as (doing, found):
        _allow(doing, "edit", found)
        if found.between_invocations:
            raise _refusal(doing, "edit", found, "an attempt is under way, between two invocations; cancel it first")
        ready = _ready(scope, found, payload)
        if ready.payload == found.payload:
            raise _refusal(doing, "edit", found, "this is the payload that it has")
        document = json.dumps(ready.payload, ensure_ascii=False)
        doing.connection.run(EDIT, id_, document, ready.task.schema_digest)
        doing.details |= _difference(ready, found)
    return ActionResult(id_, "edit", found.state, found.state)


def replay(scope: Scope, id_: str, payload: Mapping[str, Any] | None, reason: str | None) -> ActionResult:
    """The new task has queue, tenant, owner, tags and headers of the old one; the rest is as declared now."""
    with _on(scope, "replay", id_, reason) as (doing, found):
        _allow(doing, "replay", found)
        if found.type == BULK_TYPE:
            raise _refusal(doing, "replay", found, "its filter was for then; begin such an action anew by its command")
        ready = _ready(scope, found, payload)
        inserted = insert(doing.connection, ready)
        doing.connection.run("update joblane.tasks set replay_of = $2 where id = $1", ready.id, id_)
        doing.details |= {"new_id": ready.id} | ({} if payload is None else _difference(ready, found))
    failed = send_inserted(scope, inserted)
    note = IS_PAUSED if found.paused else note_of(failed)
    return ActionResult(id_, "replay", found.state, State.PENDING, new_id=ready.id, note=note)


def _ready(scope: Scope, found: Record, edited: Mapping[str, Any] | None) -> NewTask:
    """A job like the task that was found, checked. ``edited`` None: with its payload, read as the worker reads it."""
    task = named(scope, found.type)
    try:
        if edited is None:
            payload = task.read(found.payload, found.schema)
        else:
            payload = task.read(restored(task.payload, edited, found.payload), task.schema_digest)
    except UnreadablePayloadError as error:
        if edited is not None:
            raise
        raise UnreadablePayloadError(f"{error}; replay it with a payload that is mended") from None
    job = Job(
        task,
        payload,
        queue=found.queue if found.queue in task.lanes else None,
        tenant=found.tenant,
        owner=found.owner,
        tags=found.tags,
        headers=found.headers,
    )
    return check(job, record=True, prefix=scope.prefix)


def _difference(ready: NewTask, found: Record) -> dict[str, Any]:
    """Names of the declared fields that differ. Others are keys that a sender chose: how many of them were dropped."""
    old = found.payload if isinstance(found.payload, dict) else {}
    fields = [name for name in ready.payload if old.get(name) != ready.payload[name] or name not in old]
    dropped = len(old.keys() - ready.payload.keys())
    return {"fields": fields} | ({"dropped": dropped} if dropped else {})


# --- The row, locked -----------------------------------------------------------------------------------------------


@contextmanager
def _on(scope: Scope, name: str, id_: str, reason: str | None) -> Iterator[tuple[Action, Record]]:
    """An action on one task, whose row is locked. Raises :class:`UnknownTaskError`."""
    with audit.action(scope, name, check_id(id_), reason) as doing:
        yield doing, read(doing.connection, id_, lock=True)


def _allow(doing: Action, name: str, found: Record) -> None:
    if found.state not in ALLOWED[name]:
        raise _refusal(doing, name, found)
    if found.cleared:
        raise _refusal(doing, name, found, CLEARED)


def _refusal(doing: Action, name: str, found: Record, problem: str | None = None) -> ActionError:
    last = audit.last(doing.connection, found.id)
    return ActionError(found.id, name, found.state, ALLOWED[name], last, problem=problem)
