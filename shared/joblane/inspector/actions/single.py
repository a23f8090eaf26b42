"""Actions on one task, and a new task by hand.

Each action is one transaction: it locks the row, changes it and writes the audit entry. The task's message is sent
after the commit; if this process dies in between, the sweep sends it a minute later.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from joblane.enqueue.check import check, delay_seconds
from joblane.enqueue.follow_up import FollowUp
from joblane.enqueue.insert import insert_tasks
from joblane.enqueue.wake import wake
from joblane.errors import EnqueueError, JobError, UnreadablePayloadError
from joblane.inspector.actions import audit
from joblane.inspector.actions.audit import Action
from joblane.inspector.actions.changes import Changed, change, entry_of, send, serve_freed
from joblane.inspector.errors import ActionError, SelectionError
from joblane.inspector.filter import ALLOWED, BULK_TYPE, BulkAction
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import unknown_type
from joblane.inspector.tasks.row import Record, check_id, read
from joblane.inspector.tasks.waits import keeps_wait
from joblane.inspector.tasks.why_held import keeps_slot, keeps_time, passed_over
from joblane.inspector.views import ActionResult
from joblane.quotas import MAX_DELAY_SECONDS
from joblane.record.driver.connection import Connection
from joblane.record.row.conditions import HOLDER
from joblane.record.row.states import ENDED, State
from joblane.record.task.insert import BATCH_TAG, NewTask
from joblane.sqs.traceparent import headers_of_later
from joblane.tasks.job import Job, options_from_json
from joblane.tasks.limit import Flow
from joblane.tasks.redaction import restored
from joblane.tasks.task import Task

CLEARED = "its payload was cleared, by retention or by an operator, so it can neither run again nor be replayed"
SKIPPED = "A tick that was skipped never runs; `joblane replay` makes a new task with its payload"
IS_PAUSED = "its type, queue or tenant is paused: it waits until the pause ends"


def change_state(scope: Scope, action: BulkAction, id_: str, reason: str | None) -> ActionResult:
    later: str | None = None
    with on_task(scope, action, id_, reason) as (doing, found):
        if action is BulkAction.RETRY:
            later = passed_over(doing.connection, found)  # a retry gives it a new place
        rows = change(doing.connection, action, [id_], who=doing.who)
        if not rows:
            raise refusal(doing, action, found, _problem(scope, doing, action, found))
        changed = rows[0]
        doing.details |= {"before": changed.before, "after": changed.after}
    if changed.after is State.ARCHIVED and action is BulkAction.ARCHIVE:
        wake(scope.sqs, scope.prefix)  # it sends the dead letter
    serve_freed(scope.connection, scope.sqs, scope.prefix, rows)
    acted = sent(scope, action, found, changed)
    if later is None:
        return acted
    return replace(acted, note="; ".join(filter(None, (acted.note, f"{later}; it runs after them"))))


def sent(scope: Scope, action: str, found: Record, changed: Changed) -> ActionResult:
    """Send the message of a row that was changed to ``pending``, after the commit, and return the result."""
    if changed.after is not State.PENDING:
        return ActionResult(found.id, action, changed.before, changed.after)
    failed = send(scope.sqs, {found.id: entry_of(scope.prefix, changed)})
    note = IS_PAUSED if found.paused else note_of(failed)
    return ActionResult(found.id, action, changed.before, changed.after, note=note)


def _problem(scope: Scope, doing: Action, action: BulkAction, found: Record) -> str | None:
    """The reason why a row was not changed; None if its state is the reason."""
    if found.state not in ALLOWED[action]:
        return None
    if action is BulkAction.RUN:
        if found.is_limited:
            return keeps_slot(found)
        return keeps_time(doing.connection, found) or keeps_wait(scope, doing.connection, found)
    if action is BulkAction.CANCEL:
        return "cancellation was requested already; the run stops at its next check, or when it returns"
    if action is BulkAction.DELETE:
        return "its content is cleared already"
    return _retry_problem(doing, found)


def _retry_problem(doing: Action, found: Record) -> str:
    if found.cleared:
        return CLEARED
    if found.is_skipped_tick:
        return f"{found.reason}. {SKIPPED}"
    holder = f"select {HOLDER.format(key='t.unique_key', id='t.id')} from joblane.tasks t where t.id = $1"
    return f"its unique key is held by task {doing.connection.run(holder, found.id)[0][0]!r}"


# --- Another payload -----------------------------------------------------------------------------------------------

# `payload_digest` stays, as in insert.REPLACE: it identifies the message of an external producer as the row's own.
EDIT = "update joblane.tasks set payload = $2::jsonb, schema = $3, mismatch_since = null where id = $1"


def edit(scope: Scope, id_: str, payload: Mapping[str, Any], reason: str | None) -> ActionResult:
    """Change the payload. The unique key, the limits the steps, and the progress of ``ctx.each`` and
    ``ctx.resume`` stay."""
    with on_task(scope, "edit", id_, reason) as (doing, found):
        _allow(doing, "edit", found)
        if found.between_invocations:
            raise refusal(doing, "edit", found, "an attempt continues in the next invocation; cancel the task first")
        ready = _ready(scope, found, payload)
        if ready.payload == found.payload:
            raise refusal(doing, "edit", found, "the payload is unchanged")
        if _changes_key(ready, found):
            instead = "replay it" if found.state in ENDED else "cancel it, and replay it"
            problem = f"the payload gives its limits another key, and an edit does not change them; {instead} instead"
            raise refusal(doing, "edit", found, problem)
        document = json.dumps(ready.payload, ensure_ascii=False)
        doing.connection.run(EDIT, id_, document, ready.task.schema_digest)
        doing.details |= _difference(ready, found)
    return ActionResult(id_, "edit", found.state, found.state)


def _changes_key(ready: NewTask, found: Record) -> bool:
    """True if the limits of a row have the key of its payload, and the edited payload gives another one."""
    flow = ready.task.flow
    if flow is None or not flow.key:
        return False
    old, new = found.key_limit, _key_limit(flow, found, ready.payload)
    with suppress(EnqueueError):
        return old != new and old == _key_limit(flow, found, ready.task.as_written(found.payload))
    return False  # the old payload gives no key, so the task has one that the enqueue gave it


def _key_limit(flow: Flow, found: Record, payload: Mapping[str, Any]) -> str | None:
    name: str | None = flow.row(found.type, payload, found.tenant).get("limits", [None])[0]
    return name


def replay(scope: Scope, id_: str, payload: Mapping[str, Any] | None, reason: str | None) -> ActionResult:
    """The new task gets the queue, tenant, owner, tags and headers of the old task, and all else as declared now."""
    with on_task(scope, "replay", id_, reason) as (doing, found):
        _allow(doing, "replay", found)
        if found.type == BULK_TYPE:
            problem = "a bulk action cannot be replayed, as its filter is out of date; start a new action"
            raise refusal(doing, "replay", found, problem)
        ready = _ready(scope, found, payload)
        inserted = insert(doing.connection, ready)
        doing.connection.run("update joblane.tasks set replay_of = $2 where id = $1", ready.id, id_)
        doing.details |= {"new_id": ready.id} | ({} if payload is None else _difference(ready, found))
    failed = send_inserted(scope, inserted)
    note = IS_PAUSED if found.paused else note_of(failed)
    return ActionResult(id_, "replay", found.state, State.PENDING, new_id=ready.id, note=note)


def _ready(scope: Scope, found: Record, edited: Mapping[str, Any] | None) -> NewTask:
    """A checked job like ``found``. ``edited`` None: with its own payload, read as the worker reads it."""
    task = named(scope, found.type)
    try:
        if edited is None:
            payload = task.read(found.payload, found.schema)
        else:
            payload = task.read(restored(task.payload, edited, found.payload), task.schema_digest)
    except UnreadablePayloadError as error:
        if edited is not None:
            raise
        raise UnreadablePayloadError(f"{error}; replay it with a corrected payload") from None
    batch = f"{BATCH_TAG}{found.batch}"  # a replay is no member
    job = Job(
        task,
        payload,
        queue=found.queue if found.queue in task.lanes else None,
        tenant=found.tenant,
        owner=found.owner,
        tags=[tag for tag in found.tags if tag != batch],
        headers=headers_of_later(found.headers),
    )
    return check(job, record=True, prefix=scope.prefix)


def _difference(ready: NewTask, found: Record) -> dict[str, Any]:
    """The names of the declared fields that differ, and the number of dropped keys. The names of undeclared keys are
    not shown: a producer chose them."""
    old = found.payload if isinstance(found.payload, dict) else {}
    fields = [name for name in ready.payload if old.get(name) != ready.payload[name] or name not in old]
    dropped = len(old.keys() - ready.payload.keys())
    return {"fields": fields} | ({"dropped": dropped} if dropped else {})


# --- The row, locked -----------------------------------------------------------------------------------------------


@contextmanager
def on_task(scope: Scope, name: str, id_: str, reason: str | None) -> Iterator[tuple[Action, Record]]:
    """An action on one task, with its row locked. Raises :class:`UnknownTaskError`."""
    with audit.action(scope, name, check_id(id_), reason) as doing:
        yield doing, read(doing.connection, id_, lock=True)


def _allow(doing: Action, name: str, found: Record) -> None:
    if found.state not in ALLOWED[name]:
        raise refusal(doing, name, found)
    if found.cleared:
        raise refusal(doing, name, found, CLEARED)


def refusal(doing: Action, name: str, found: Record, problem: str | None = None) -> ActionError:
    last = audit.last(doing.connection, found.id)
    return ActionError(found.id, name, found.state, ALLOWED[name], last, problem=problem)


# --- A new task -------------------------------------------------------------------------------------------------------


def named(scope: Scope, type_: str) -> Task[Any, Any]:
    """The task of a type, by its present or a former name. Raises :class:`SelectionError`."""
    task = scope.task(type_)
    if task is None:
        raise SelectionError("type", unknown_type(type_, scope.tasks))
    return task


def enqueue(
    scope: Scope, type_: str, payload: Mapping[str, Any], options: Mapping[str, Any], reason: str | None
) -> ActionResult:
    """The audit entry is about the new task, and names the given options."""
    task = named(scope, type_)
    given = restored(task.payload, payload, None)  # refuses a masked field that was copied from another task
    job = Job(task, task.read(given, task.schema_digest), **options_from_json(options))
    ready = check(job, record=True, prefix=scope.prefix)
    with audit.action(scope, "enqueue", ready.id, reason) as doing:
        inserted = insert(doing.connection, ready)
        doing.target = inserted.id
        doing.changed = inserted.changed
        doing.details |= {"type": task.type, "queue": inserted.queue, "options": sorted(options)}
    failed = send_inserted(scope, inserted)
    after = inserted.state or (
        State.SCHEDULED if inserted.due_seconds > 0 else State.HELD if inserted.waits else State.PENDING
    )
    id_ = inserted.id
    return ActionResult(id_, "enqueue", None, after, new_id=id_ if inserted.created else None, note=note_of(failed))


# --- Writing a new row, and sending its message --------------------------------------------------------------------


def insert(connection: Connection, ready: NewTask) -> NewTask:
    """Write the row in the open transaction. Raises the error of a conflict."""
    inserted = insert_tasks(connection.run, [ready])[0]
    if isinstance(inserted, JobError):
        raise inserted
    return inserted


def send_inserted(scope: Scope, inserted: NewTask) -> dict[str, str]:
    """Send the message after the commit, if SQS can delay it until it is due, and serve the limits of a replaced task.

    Returns failures, like :func:`send`.
    """
    if inserted.freed:
        FollowUp(freed=[inserted.freed]).act(scope.sqs, scope.prefix, scope.database.call)
    if inserted.state is not None or inserted.due_seconds > MAX_DELAY_SECONDS:
        return {}
    entry = inserted.entry
    entry.delay_seconds = delay_seconds(inserted.due_seconds)
    return send(scope.sqs, {inserted.id: entry})


def note_of(failed: Mapping[str, str]) -> str | None:
    """The remark about messages that could not be sent."""
    for why in failed.values():
        return f"its message could not be sent; the next sweep sends it ({why})"
    return None
