"""Children of a run for whose results it waits: ``ctx.run``, ``ctx.gather``, and their asynchronous forms.

The run enqueues them and stops in one transaction. Each of their ends releases the task, as the end of a parent
releases a child. A later run reads how they have ended, and remembers their results as one step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from joblane.errors import ChildFailed, EnqueueError, JobError, StepError
from joblane.handler.steps import MAX_VALUE_BYTES
from joblane.handler.waits import Waits
from joblane.record.task.stop import Stop
from joblane.record.task.waits import MARK_FAILED, read_children
from joblane.tasks.job import MAX_PARENTS, Job
from joblane.tasks.task import Task

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from joblane.enqueue.result import Enqueued

MOST_CHILDREN = MAX_PARENTS
"""The maximum number of children of one wait. They are its parents in ``task_parents``."""
CHILDREN_KEPT = timedelta(days=30)
"""A child keeps its result at least this long, because another one may take long."""
OF_ITS_OWN = "leave it out: a child that its parent waits for is always a new task, with an id of its own"


@dataclass
class Children:
    """The children of one run. :class:`~joblane.handler.context.TaskContext` documents them.

    ``task``: the task that waits. ``key_limit``: the limit of its key. ``enqueue``: enqueues jobs in a session of the
    run.
    """

    waits: Waits
    task: Task[Any, Any]
    task_id: str
    key_limit: str | None
    enqueue: Callable[[Session, list[Job]], Sequence[Enqueued | JobError]]

    def gather(self, call: str, name: str, jobs: Iterable[Job], session: Callable[[], Session]) -> list[Any]:
        """Return the results of the children. ``call``: for errors. ``session``: returns the session of the run."""
        given = self._given(call, name, jobs)
        found = self._found(name, given)
        return found if isinstance(found, list) else self._end(name, given, found, session())

    async def agather(self, call: str, name: str, jobs: Iterable[Job], session: Callable[[], Session]) -> list[Any]:
        given = self._given(call, name, jobs)
        awaited = self.waits.steps.loops.work.awaited
        found = await awaited(self._found, name, given)
        return found if isinstance(found, list) else await awaited(self._end, name, given, found, session())

    def _given(self, call: str, name: str, jobs: Iterable[Job]) -> list[Job]:
        self.waits.check(name, call)
        if not isinstance(jobs, Iterable):
            raise StepError(name, f"jobs: a list of Job(task, payload) is required, not {type(jobs).__name__}")
        given = list(jobs)
        if len(given) > MOST_CHILDREN:
            raise StepError(
                name, f"at most {MOST_CHILDREN:,} jobs, not {len(given):,}; divide them among several waits"
            )
        for number, job in enumerate(given):
            if not isinstance(job, Job):
                raise StepError(name, f"job {number}: a Job(task, payload) is required, not {type(job).__name__}")
            if not isinstance(job.task, Task):
                given_type = type(job.task).__name__
                raise StepError(name, f"job {number}: task: a function declared by @task is required, not {given_type}")
        return given

    def _found(self, name: str, jobs: list[Job]) -> list[Any] | dict[str, str] | None:
        """Return the results. None: the jobs have to be enqueued. A mapping: the ends of those that failed."""
        steps = self.waits.steps
        self.waits.refuse_kind(name, of_children=True)
        wait = steps.history.waits.get(name)
        if wait is None:
            if jobs:
                steps.check_number(name)
            return None if jobs else []
        if wait.children != len(jobs):
            raise StepError(
                name,
                f"an earlier run has enqueued {wait.children} jobs here, and this run gives {len(jobs)}; put "
                "code that reads a clock or changing rows into a step, or give the wait another name",
            )
        if (stored := steps.history.steps.get(name)) is None:
            return self._read(name, jobs)
        values: list[Any] | dict[str, str] = json.loads(stored)
        if isinstance(values, dict):
            raise ChildFailed(name, values)
        return values

    def _read(self, name: str, jobs: list[Job]) -> list[Any] | dict[str, str]:
        """Read how the children have ended, and stop again if one has not."""
        steps = self.waits.steps
        rows = steps.loops.read(partial(read_children, name=name, most_bytes=2 * MAX_VALUE_BYTES))
        for number, (job, (_, type_, *_)) in enumerate(zip(jobs, rows, strict=True)):
            if type_ is not None and type_ not in job.task.types:
                raise StepError(
                    name,
                    f"job {number}: an earlier run has enqueued a task of {type_!r} here, and this run gives "
                    f"{job.task.type!r}; give the wait another name",
                )
        if any(is_live for _, _, _, is_live, *_ in rows):
            raise self.waits.stopped(Stop(name))
        if failed := {id_: state for id_, _, state, *_ in rows if state != "completed"}:
            return failed
        values = [json.loads(result or "null") for *_, result in rows]
        size = len(json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode())
        if (rows[0][4] or 0) > 2 * MAX_VALUE_BYTES or size > MAX_VALUE_BYTES:
            raise StepError(
                name,
                f"the results of the children have more than {MAX_VALUE_BYTES:,} bytes as JSON together; return less, "
                "for example the keys of rows or objects that the children have written",
            )
        return steps.keep(name, values)  # type: ignore[no-any-return]

    def _end(self, name: str, jobs: list[Job], failed: dict[str, str] | None, session: Session) -> list[Any]:
        """Stop, with new children, or raise that children did not complete.

        That is remembered if the handler catches it and its work commits: a later run must not take another way.
        """
        if failed is not None:
            from sqlalchemy import text

            value = json.dumps(failed)
            session.execute(text(MARK_FAILED), {"id": self.task_id, "name": name, "value": value})
            self.waits.steps.history.steps[name] = value
            raise ChildFailed(name, failed)
        children = [self._child(number, job) for number, job in enumerate(jobs)]
        with session.begin_nested():  # a handler that catches the error leaves none of them
            enqueued = self.enqueue(session, children)
            for result in enqueued:
                if isinstance(result, JobError):
                    raise result
        ids = [result.id for result in enqueued if not isinstance(result, JobError)]
        raise self.waits.stopped(Stop(name, children=ids))

    def _child(self, number: int, job: Job) -> Job:
        """Return a job as a child. Raises :class:`EnqueueError` for a child that could not end, or is no new task."""

        def refuse(option: str, problem: str) -> EnqueueError:
            error = EnqueueError(option, problem)
            error.args = (f"job {number}: {error}",)
            return error

        for option, default in (("task_id", None), ("on_conflict", "raise"), ("debounce", None)):
            if getattr(job, option) != default:
                raise refuse(option, OF_ITS_OWN)
        after = job.after if isinstance(job.after, (list, tuple)) else ()
        if self.task_id in [getattr(parent, "id", parent) for parent in after]:
            raise refuse("after", "it cannot wait for the task that waits for it")
        if not self.task.may_enqueue(job.task.type):
            granted = (*self.task.grants.run, job.task.type)
            raise refuse(
                "task",
                f"{self.task.type!r} does not declare that it waits for {job.task.type!r}, so IAM refuses the messages "
                f"on AWS; add grants=Grants(run={granted!r}) in its handler.py",
            )
        flow = job.task.flow
        if self.key_limit is not None and flow is not None and flow.ordered:
            limits = flow.row(job.task.type, job.task.write(job.payload), job.tenant, job.key).get("limits", [None])
            if limits[0] == self.key_limit:
                raise refuse(
                    "key",
                    f"it is in the order of {self.key_limit!r}, in which the task that waits for it comes first, so it "
                    "could never start; give it another key, or another type",
                )
        retention = job.task.retention if job.retention is None else job.retention
        if isinstance(retention, timedelta) and timedelta(0) <= retention < CHILDREN_KEPT:
            return replace(job, retention=CHILDREN_KEPT)
        return job
