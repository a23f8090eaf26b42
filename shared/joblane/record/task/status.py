"""The status of a task: its row, the progress that its run reports, and the number of its finished items."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joblane.names import Queue
from joblane.record.row.states import ENDED, State, as_read


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress that a run last reported by ``ctx.progress``."""

    done: int
    """Number of items that are done."""
    total: int | None
    """Number of all items. None: the handler gave no total."""
    note: str | None
    """Note of the handler. None: the handler gave no note."""
    at: datetime
    """Time of the report, in UTC."""


@dataclass(frozen=True, slots=True)
class TaskWait:
    """The wait at which a task has stopped."""

    name: str
    """Name of the wait."""
    signal: str | None
    """Name of the signal for which it waits. None: it waits for a time, or for the next call of ``ctx.poll``."""
    since: datetime
    """Time of the first stop, in UTC."""
    until: datetime
    """Time at which the wait ends, in UTC."""


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """The state of one task. Times are in UTC."""

    id: str
    """Id of the task."""
    type: str
    """Type of the task."""
    queue: Queue
    """Queue of the task."""
    state: State
    """State of the task."""
    tenant: str | None
    """Tenant. None: the task has none."""
    owner: str | None
    """Owner. None: the task has none."""
    tags: tuple[str, ...]
    """Tags."""
    attempts: int
    """Number of attempts so far. A snooze, for example, does not count."""
    max_retry: int
    """Number of attempts after the first."""
    created_at: datetime
    """Time of the enqueue."""
    due_at: datetime
    """Time at which the task is due. After a failed attempt: time at which the next attempt is due."""
    deadline: datetime | None
    """Deadline. None: the task has none."""
    finished_at: datetime | None
    """Time at which the task ended. None: it has not ended."""
    cancel_requested: bool
    """True: the task was cancelled, or a cancel was requested while it runs."""
    progress: Progress | None
    """Progress that a run last reported. None: no run has reported progress."""
    items_done: int
    """Number of items that are committed by ``ctx.each`` or ``ctx.resume``."""
    result: Any
    """Return value of the handler, read from JSON. None: no result, or ``retention`` is over."""
    reason: str | None
    """Reason why the task was archived or cancelled. None: it was neither."""
    error_type: str | None
    """Class of the last error. None: no attempt has failed."""
    wait: TaskWait | None = None
    """Wait of ``ctx.sleep``, ``ctx.wait`` or ``ctx.poll`` at which the task waits now. None: it waits at none."""

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @classmethod
    def of(cls, row: list[Any]) -> TaskStatus:
        """From a row of :data:`STATUS`."""
        id_, type_, queue, state, tenant, owner, tags, attempts, max_attempts, *rest = row
        created_at, due_at, deadline, finished_at, cancel_requested, *rest = rest
        done, total, note, at, items, result, reason, error, wait, signal, since, until = rest
        return cls(
            id=id_,
            type=type_,
            queue=as_read(Queue, queue),
            state=as_read(State, state),
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
            wait=None if until is None else TaskWait(wait, signal, since, until),
        )


STATUS = """
select t.id, t.type, t.queue, t.state, t.tenant, t.owner, t.tags, t.attempts, t.max_attempts, t.created_at, t.due_at,
       t.deadline, t.finished_at, t.cancel_requested_at is not null, p.done, p.total, p.note, p.at,
       coalesce(c.done, (select count(*) from joblane.task_items i
        where i.task_id = t.id)), t.result, t.reason, t.error_type,
       w.name, w.signal, w.created_at, w.until
  from joblane.tasks t left join joblane.task_progress p on p.task_id = t.id left
   join joblane.task_cursors c on c.task_id = t.id left
   join joblane.task_waits w on w.task_id = t.id and w.run = t.runs and t.state = 'scheduled'
 where t.id = $1
"""
PROGRESS = """
select t.id, t.state, t.attempts, p.done, p.total, p.note, w.name, w.until
  from joblane.tasks t left
   join lateral (select * from joblane.task_progress where task_id = t.id limit 1) p on true left
   join lateral (select * from joblane.task_waits
        where task_id = t.id and run = t.runs and t.state = 'scheduled' limit 1) w on true
 where t.id = any($1::text[])
"""
"""With ``limit`` each task has look-ups of its own. A join of all of them could read the whole table of waits."""
