"""How a task stands."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from aws_lambda_powertools.event_handler.api_gateway import Router
from pydantic import BaseModel, Field

from functions.api.access import ADMINS, Caller, Who
from functions.api.record import jobs
from functions.api.refusals import not_found
from joblane import State, TaskStatus

router = Router()


class TaskProgress(BaseModel):
    """As last told by the task. ``total`` null: not known."""

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
    result: Any = Field(description="What the task returned, while it is kept.")
    created_at: datetime
    finished_at: datetime | None


@router.get("/tasks/<task_id>", summary="Look at a task of yours, or as an admin at your tenant's", tags=["tasks"])
def show_task(task_id: str, caller: Who) -> TaskState:
    task = jobs().get(task_id)
    if task is None or not may_see(caller, task):
        raise not_found()
    told = task.progress
    return TaskState(
        task_id=task.id,
        type=task.type,
        state=task.state,
        progress=None if told is None else TaskProgress(done=told.done, total=told.total, note=told.note),
        items_done=task.items_done,
        result=task.result,
        created_at=task.created_at,
        finished_at=task.finished_at,
    )


def may_see(caller: Caller, task: TaskStatus) -> bool:
    """A task's owner, and the admins of its tenant.

    Only of what this API enqueued, which alone has an owner: elsewhere the tenant is a sender's word, and no proof. An
    owner who is of another tenant now does not see what was done for the one before.
    """
    if task.owner is None:
        return False
    tenant = None if caller.tenant_id is None else str(caller.tenant_id)
    if task.owner == caller.user_id:
        return task.tenant in (None, tenant)
    return tenant is not None and task.tenant == tenant and caller.rank in ADMINS
