"""The calls of handlers, inside of their hooks. Most processes have no hooks, and do not import them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joblane.tasks.event_kinds import AROUND

if TYPE_CHECKING:
    from joblane.handler.context import TaskContext
    from joblane.record.task.run_session import RunSession
    from joblane.tasks.task import Task
    from joblane.worker.run import Alarm


def call_of(task: Task[Any, Any]) -> Callable[..., Any]:
    """Return the function that calls the task's handler. Most tasks do not import asyncio.

    Raises :class:`DeclarationError` for an asynchronous hook around a plain handler.
    """
    if AROUND:
        from joblane.tasks.hooks import check_async

        check_async(AROUND, [task])
    if not task.is_async:
        return call
    from joblane.worker.async_call import call_async

    return call_async


def call(task: Task[Any, Any], payload: Any, context: TaskContext, work: RunSession, alarm: Alarm | None) -> Any:
    """Call a handler that is a ``def``, and flush its session, which may wait for a lock."""
    function = task.function
    if AROUND:
        from joblane.worker.hooks import hooked

        function = hooked(task, context, work, alarm)
    result = function(payload, context)
    if work.in_use:
        work.flush()
    return result
