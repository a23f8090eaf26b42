"""The run of a Django task: what a task can ask of it, and the tasks that it enqueues."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from joblane.enqueue.drivers import opened
from joblane.handler.context import TaskContext, enqueue_within
from joblane.tasks.job import Job, JobOptions
from joblane.tasks.task import Task

RUN: ContextVar[TaskContext | None] = ContextVar("joblane_run", default=None)
"""The run in this context. None: outside of a run."""


def current_run() -> TaskContext | None:
    """Return the :class:`joblane.TaskContext` of the Django task that runs now, or None outside of a worker.

    ``progress``, ``check``, ``remaining``, ``deadline``, ``settings`` and ``logger`` can be used. A Django task has no
    ``session``, ``enqueue``, ``each`` and ``resume``: it works on Django's connection.
    """
    return RUN.get()


def enqueue_in_run(ctx: TaskContext, task: Task[Any, Any], payload: Any, connection: Any, options: JobOptions) -> None:
    """Enqueue a task in the transaction of a run, as :meth:`joblane.TaskContext.enqueue` does."""
    enqueue_within(ctx, opened(connection, None, None, is_async=False), Job(task, payload, **options))
