"""The function that calls the handlers of a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joblane.handler.context import TaskContext
    from joblane.record.task.run_session import RunSession
    from joblane.tasks.task import Task
    from joblane.worker.run import Alarm


def call(task: Task[Any, Any], payload: Any, context: TaskContext, work: RunSession, _alarm: Alarm | None) -> Any:
    """Call a handler that is a ``def``, and flush its session, which may wait for a lock."""
    result = task.function(payload, context)
    if work.in_use:
        work.flush()
    return result


def call_of(task: Task[Any, Any]) -> Callable[..., Any]:
    """Return the function that calls the task's handler. Most tasks do not import asyncio."""
    if not task.is_async:
        return call
    from joblane.worker.async_call import call_async

    return call_async
