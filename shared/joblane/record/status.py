"""The status of a task: its row, the progress that its run reports, and the number of its finished items."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joblane.queues import Queue
from joblane.record.states import ENDED, State


@dataclass(frozen=True, slots=True)
class Progress:
    """The last progress that ``ctx.progress`` reported. ``total``: None if the handler gave none."""

    done: int
    total: int | None
    note: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """The status of one task. ``result``: the handler's return value, during the retention. Times are aware.

    ``items_done``: items that ``ctx.each`` finished, or items up to the cursor of ``ctx.resume``.
    """

    id: str
    type: str
    queue: Queue
    state: State
    tenant: str | None
    owner: str | None
    tags: tuple[str, ...]
    attempts: int
    max_retry: int
    created_at: datetime
    due_at: datetime
    deadline: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    progress: Progress | None
    items_done: int
    result: Any
    reason: str | None
    error_type: str | None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @classmethod
    def of(cls, row: list[Any]) -> TaskStatus:
        """Read a row of :data:`STATUS`."""
        id_, type_, queue, state, tenant, owner, tags, attempts, max_attempts, *rest = row
        (
            created_at,
            due_at,
            deadline,
            finished_at,
            cancel_requested,
            done,
            total,
            note,
            at,
            items,
            result,
            reason,
            error,
        ) = rest
        return cls(
            id=id_,
            type=type_,
            queue=Queue(queue),
            state=State(state),
            tenant=tenant,
            owner=owner,
            tags=tuple(tags),
            attempts=attempts,
            max_retry=max_attempts - 1,
            created_at=created_at,
            due_at=due_at,
            deadline=deadline,
            finished_at=finished_at,
            cancel_requested=cancel_requested,
            progress=None if at is None else Progress(done, total, note, at),
            items_done=items,
            result=result,
            reason=reason,
            error_type=error,
        )


STATUS = """
select t.id, t.type, t.queue, t.state, t.tenant, t.owner, t.tags, t.attempts, t.max_attempts, t.created_at, t.due_at,
       t.deadline, t.finished_at, t.cancel_requested_at is not null, p.done, p.total, p.note, p.at,
       coalesce(c.done, (select count(*) from joblane.task_items i
        where i.task_id = t.id)), t.result, t.reason, t.error_type
  from joblane.tasks t left join joblane.task_progress p on p.task_id = t.id left
   join joblane.task_cursors c on c.task_id = t.id
 where t.id = $1
"""
