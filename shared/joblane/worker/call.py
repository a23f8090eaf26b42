"""The function that calls the handlers of a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joblane.tasks.event_kinds import AROUND
from joblane.worker.run import call

if TYPE_CHECKING:
    from joblane.tasks.task import Task


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
