"""Enqueueing by hand, and the declared types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from joblane.enqueue.check import check, delay_seconds
from joblane.enqueue.follow_up import FollowUp
from joblane.enqueue.insert import insert_tasks
from joblane.errors import EnqueueError, JobError
from joblane.inspector.actions import audit
from joblane.inspector.actions.changes import send
from joblane.inspector.errors import SelectionError
from joblane.inspector.schedule_words import in_words
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import unknown_type
from joblane.inspector.views import ActionResult, TypeView
from joblane.quotas import MAX_DELAY_SECONDS
from joblane.record.driver.connection import Connection
from joblane.record.row.states import State
from joblane.record.task.insert import NewTask
from joblane.tasks.job import OPTIONS, Job, check_names
from joblane.tasks.redaction import restored, shown_schema
from joblane.tasks.task import Task


def types(scope: Scope) -> tuple[TypeView, ...]:
    return tuple(
        TypeView(
            type=task.type,
            queues=task.lanes,
            max_retry=task.max_retry,
            timeout_seconds=task.timeout.total_seconds(),
            retention_seconds=task.retention.total_seconds(),
            batch_size=task.batch_size,
            memory_mb=task.memory_mb,
            schedules=tuple(in_words(schedule.text, schedule.timezone) for schedule in task.schedules),
            ordered=task.flow is not None and task.flow.ordered,
            schema=shown_schema(task.payload, task.schema),
            target_wait_seconds=task.target_wait.total_seconds(),
            max_concurrency=task.max_concurrency,
            key=task.flow.key if task.flow else (),
            limits=limits_of(task),
        )
        for task in sorted(scope.tasks.values(), key=lambda task: task.type)
    )


def limits_of(task: Task[Any, Any]) -> tuple[str, ...]:
    """The names under which the limits of a type are found."""
    names = task.flow.names(task.type) if task.flow else ()
    return tuple(dict.fromkeys(name.removesuffix("/") for name in names if name is not None))


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
    job = Job(task, task.read(given, task.schema_digest), **_options(options))
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


# --- Options from JSON ---------------------------------------------------------------------------------------------


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a job; null means left out. The enqueue checks the values."""
    check_names(given)
    options = {}
    for name, value in given.items():
        if value is not None:
            try:
                options[name] = OPTIONS[name].values.from_json(value)
            except ValueError as error:
                raise EnqueueError(name, str(error)) from None
    return options
