"""The route for the state of a task."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from aws_lambda_powertools.event_handler.api_gateway import Router
from pydantic import BaseModel, Field

from functions.api.access import ADMINS, Caller, Who
from functions.api.refusals import not_found
from functions.api.storage import jobs
from joblane import State, TaskStatus

router = Router()


class TaskProgress(BaseModel):
    """The last progress that the task reported. ``total`` null: unknown."""

    done: int
    total: int | None
    note: str | None


class TaskState(BaseModel):
    success: bool = True
    task_id: str
    type: str
    state: State
    progress: TaskProgress | None
    items_done: int
    result: Any = Field(description="The task's result, during its retention.")
    created_at: datetime
    finished_at: datetime | None


@router.get("/tasks/<task_id>", summary="Show a task of yours or, for admins, of your tenant", tags=["tasks"])
def show_task(task_id: str, caller: Who) -> TaskState:
    task = jobs().get(task_id)
    if task is None or not may_see(caller, task):
        raise not_found()
    progress = task.progress
    return TaskState(
        task_id=task.id,
        type=task.type,
        state=task.state,
        progress=None
        if progress is None
        else TaskProgress(done=progress.done, total=progress.total, note=progress.note),
        items_done=task.items_done,
        result=task.result,
        created_at=task.created_at,
        finished_at=task.finished_at,
    )


def may_see(caller: Caller, task: TaskStatus) -> bool:
    """Return true for the task's owner and for the admins of its tenant.

    Only tasks of this API have an owner. The tenant of other tasks comes from their sender and is not verified, so they
    are not shown. An owner who is in another tenant now does not see the tasks of the previous tenant.
    """
    if task.owner is None:
        return False
    tenant = None if caller.tenant_id is None else str(caller.tenant_id)
    if task.owner == caller.user_id:
        return task.tenant in (None, tenant)
    return tenant is not None and task.tenant == tenant and caller.rank in ADMINS
