"""The result of an enqueue, and the tasks whose messages are sent."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from joblane.enqueue.check import is_past
from joblane.errors import EnqueueError, JobError
from joblane.names import Queue
from joblane.quotas import MAX_DELAY_SECONDS
from joblane.record.row.states import State
from joblane.record.task.insert import NewTask
from joblane.tasks.job import Job


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The result of an enqueue: a task that was accepted."""

    id: str
    """Id of the task."""
    type: str
    """Type of the task."""
    queue: Queue
    """Queue in which the task waits."""
    state: State
    """``pending`` if the task is due, ``held`` if it waits for its parents, ``scheduled`` if it is due later. For an
    existing task: its state."""
    sent: bool
    """True if this call has sent the message. False if it is sent after the commit of the session, or later by the
    sweep, or if an existing task has its message already."""
    created: bool = True
    """False if an existing task held the unique key and was returned, replaced or pushed."""
    past: bool = False
    """True if ``process_at`` was in the past, so that the task is due now."""


def check_each(check: Callable[[Job], NewTask], jobs: Iterable[Job]) -> list[NewTask]:
    """Check the jobs of one call. Raises :class:`EnqueueError` with the position of a wrong one."""
    tasks: list[NewTask] = []
    seen: set[str] = set()
    for position, job in enumerate(jobs):
        try:
            task = check(job)
        except EnqueueError as error:
            error.args = (f"job {position}: {error}",)
            raise
        except AttributeError as error:
            if isinstance(job, Job):
                raise
            raise not_a_job(f"job {position}", job) from error
        if task.id in seen:
            raise EnqueueError("task_id", f"{task.id!r} is the id of two jobs of this call")
        seen.add(task.id)
        tasks.append(task)
    return tasks


def not_a_job(field: str, given: object) -> EnqueueError:
    """Return the error of a callback or a job of a list that is no :class:`Job`."""
    return EnqueueError(field, f"a Job is required, not {type(given).__name__}; write Job(task, payload)")


def near_tasks(inserted: Sequence[object]) -> list[NewTask]:
    """Return the tasks whose messages SQS can delay until they are due."""
    return [task for task in inserted if isinstance(task, NewTask) and _is_near(task)]


def _is_near(task: NewTask) -> bool:
    return task.state is None and task.due_seconds <= MAX_DELAY_SECONDS


def to_send(inserted: Sequence[NewTask | JobError]) -> list[NewTask]:
    """Return the tasks that have something to send after the commit. The commit may come later: the time counts, not
    the delay."""
    now = datetime.now(UTC)
    return [
        replace(task, delay=None, at=now + timedelta(seconds=max(0.0, task.due_seconds)))
        for task in inserted
        if isinstance(task, NewTask) and (_is_near(task) or task.freed)
    ]


def results(inserted: Sequence[NewTask | JobError], sent: Container[str] = ()) -> list[Enqueued | JobError]:
    """Return the results of an insert. ``sent``: the ids of the tasks whose messages were sent."""
    return [new if isinstance(new, JobError) else _result(new, sent=new.id in sent) for new in inserted]


def _result(new: NewTask, *, sent: bool) -> Enqueued:
    result = enqueued(new, new.due_seconds, sent=sent)
    return result if new.created else replace(result, state=new.state or result.state, created=False)


def enqueued(new: NewTask, due_seconds: float, *, sent: bool) -> Enqueued:
    state = State.SCHEDULED if due_seconds > 0 else State.HELD if new.waits else State.PENDING
    return Enqueued(new.id, new.task.type, new.queue, state, sent, past=is_past(new.at))
