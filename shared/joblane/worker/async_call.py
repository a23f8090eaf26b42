"""The call of an ``async def`` handler, on the process's event loop.

At the timeout its task is cancelled. If it has not ended a second later, because it blocks the loop or has swallowed
the cancellation, the alarm interrupts the loop at any point. Such a loop is discarded, with its connections.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from joblane import telemetry
from joblane.record.driver.event_loop import process_loop
from joblane.tasks.event_kinds import AROUND
from joblane.worker.blocked_loop import watched
from joblane.worker.outcome import is_project_code

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from joblane.handler.context import TaskContext
    from joblane.record.task.run_session import RunSession
    from joblane.tasks.task import Task
    from joblane.worker.run import Alarm

_reported: set[str] = set()
"""The names of coroutines that were reported as left."""


def call_async(task: Task[Any, Any], payload: Any, context: TaskContext, work: RunSession, alarm: Alarm | None) -> Any:
    """Run the handler to its end, and flush its session. ``alarm`` None: without a time limit."""
    function = task.function
    if AROUND:
        from joblane.worker.hooks import hooked

        function = hooked(task, context, work, alarm)
    try:
        return process_loop.run(lambda: _handle(function(payload, context), context, work, alarm))
    finally:
        if alarm is not None:
            alarm.cancel = None
            if alarm.struck:
                process_loop.discard()


def call_listener(listener: Coroutine[Any, Any, Any], alarm: Alarm) -> None:
    """Run a listener to its end, or until its time is over."""
    try:
        process_loop.run(lambda: _listen(listener, alarm))
    finally:
        alarm.cancel = None
        if alarm.struck:
            process_loop.discard()


async def _listen(listener: Coroutine[Any, Any, Any], alarm: Alarm) -> None:
    own = asyncio.current_task()
    assert own is not None
    alarm.cancel = own.cancel
    timer = asyncio.get_running_loop().call_later(alarm.seconds, alarm.expire)
    try:
        await listener
    finally:
        timer.cancel()


async def _handle(
    handler: Coroutine[Any, Any, Any], context: TaskContext, work: RunSession, alarm: Alarm | None
) -> Any:
    loop, own = asyncio.get_running_loop(), asyncio.current_task()
    assert own is not None
    work.handler_at = work.handler_at[0], own
    before = asyncio.all_tasks(loop)
    timer = None
    if alarm is not None:
        alarm.cancel = own.cancel
        timer = loop.call_later(alarm.seconds, alarm.expire)
    try:
        with watched(loop, context.log_fields):
            result = await handler
            await work.awaited(work.flush)
        _report(asyncio.all_tasks(loop) - before, context)
        return result
    finally:
        if timer is not None:
            timer.cancel()
        work.has_left_tasks = bool(asyncio.all_tasks(loop) - before)


def _report(tasks: Iterable[asyncio.Task[Any]], context: TaskContext) -> None:
    """Log, once for each coroutine function, that its tasks were left."""
    for task in tasks:
        code = getattr(task.get_coro(), "cr_code", None)
        name = code.co_qualname if code is not None and is_project_code(code.co_filename) else None
        if name is not None and name not in _reported:
            _reported.add(name)
            telemetry.logger().warning(
                f"the handler has ended before its asyncio task {name}, which the process may never continue; await "
                "every task, for example in an asyncio.TaskGroup",
                extra=context.log_fields,
            )
