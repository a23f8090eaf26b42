"""The results of Django's tasks, read from the task table on Django's connection."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import connections
from django.tasks import TaskResult, TaskResultStatus
from django.tasks.base import TaskError
from django.utils import timezone

from joblane import errors
from joblane.django.failures import CLASS_LINE, path_of, path_of_name
from joblane.django.payload import DjangoTask
from joblane.record.driver.values import read_json
from joblane.record.row.states import State
from joblane.sqs.message import ID_PATTERN

STATUS: Mapping[State, Any] = {
    State.SCHEDULED: TaskResultStatus.READY,
    State.PENDING: TaskResultStatus.READY,
    State.HELD: TaskResultStatus.READY,
    State.RETRY: TaskResultStatus.READY,
    State.ACTIVE: TaskResultStatus.RUNNING,
    State.COMPLETED: TaskResultStatus.SUCCESSFUL,
    State.ARCHIVED: TaskResultStatus.FAILED,
    State.CANCELLED: TaskResultStatus.FAILED,
}
RESULT = """
select json_build_object('type', t.type, 'state', t.state, 'payload', t.payload, 'result', t.result,
    'reason', t.reason, 'created_at', t.created_at, 'due_at', t.due_at, 'finished_at', t.finished_at,
    'attempts', t.attempts,
    'runs', (select json_agg(json_build_object('attempt', a.attempt, 'started_at', a.started_at,
                'request_id', a.request_id, 'error_type', a.error_type, 'traceback', a.traceback) order by a.run)
               from joblane.runs a where a.task_id = t.id and a.generation = t.generation))::text
  from joblane.tasks t where t.id = %s
"""


def read_row(alias: str, result_id: str) -> dict[str, Any] | None:
    """Return the row of :data:`RESULT` of a task, read on Django's connection ``alias``. None: the id is unknown."""
    if not isinstance(result_id, str) or not ID_PATTERN.fullmatch(result_id):
        return None
    with connections[alias].cursor() as cursor:
        cursor.execute(RESULT, [result_id])
        found = cursor.fetchone()
    return read_json(found[0]) if found else None


def run_after(row: Mapping[str, Any]) -> datetime | None:
    """Return the ``run_after`` of a task that is not due yet."""
    return _time(row["due_at"]) if row["state"] == State.SCHEDULED else None


def result_of(row: Mapping[str, Any], payload: DjangoTask, task: Any, result_id: str) -> Any:
    """Return the result of a row of :data:`RESULT`, which has this payload."""
    state = State(row["state"])
    runs = row["runs"] or []
    failures = [TaskError(**_failure(run)) for run in runs if run["error_type"]]
    if STATUS[state] == TaskResultStatus.FAILED and not (runs and runs[-1]["error_type"]):
        failures.append(TaskError(**_end_without_error(state, row["reason"])))
    workers = {run["attempt"]: run["request_id"] or "" for run in runs if run["attempt"] <= row["attempts"]}
    result = TaskResult(
        task=task,
        id=result_id,
        status=STATUS[state],
        enqueued_at=_time(row["created_at"]),
        started_at=_time(runs[0]["started_at"]) if runs else None,
        last_attempted_at=_time(runs[-1]["started_at"]) if runs else None,
        finished_at=_time(row["finished_at"]),
        args=payload.args,
        kwargs=payload.kwargs,
        backend=task.backend,
        errors=failures,
        worker_ids=list(workers.values()),
    )
    object.__setattr__(result, "_return_value", row["result"])
    return result


def _time(text: str | None) -> datetime | None:
    """Return a time as Django writes it: aware, or naive without ``USE_TZ``."""
    if text is None:
        return None
    time = datetime.fromisoformat(text).astimezone(UTC)
    return time if settings.USE_TZ else timezone.make_naive(time)


def _failure(run: Mapping[str, Any]) -> dict[str, str]:
    traceback, name = run["traceback"] or "", run["error_type"]
    paths = CLASS_LINE.findall(traceback)
    has_path = bool(paths) and paths[-1].endswith(f".{name}")  # a timeout that a task has hidden is added without one
    path = paths[-1] if has_path else path_of_name(name)
    return {"exception_class_path": path, "traceback": CLASS_LINE.sub("", traceback)}


def _end_without_error(state: State, reason: str | None) -> dict[str, str]:
    """Return the error of a task that failed without one: a process was lost, a deadline passed, it was cancelled."""
    path = path_of(errors.TaskCancelled if state is State.CANCELLED else errors.JobError)
    return {"exception_class_path": path, "traceback": f"{reason or state}\n"}
