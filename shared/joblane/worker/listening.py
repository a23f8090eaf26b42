"""The calls of listeners, see :func:`joblane.tasks.listeners.on`. Most workers have none, and do not import it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any

from joblane import telemetry
from joblane.errors import TaskTimeout, text_of
from joblane.record.driver.database import DATABASE_ERRORS
from joblane.record.events import events_of_tasks
from joblane.tasks.events import Event
from joblane.tasks.listeners import Listener, listeners
from joblane.worker.run import KILL_MARGIN_SECONDS, LOOP_SECONDS

if TYPE_CHECKING:
    from joblane.record.driver.database import Database
    from joblane.tasks.task import Task
    from joblane.worker.invocation import Invocation
    from joblane.worker.printed import Printed
    from joblane.worker.run import Alarm


class Listening:
    """Calls the listeners of a process, one after the other."""

    def __init__(self, task: Task[Any, Any], database: Database, alarm: Alarm, printed: Printed | None) -> None:
        self._task, self._database, self._alarm, self._printed = task, database, alarm, printed

    def hear(self, ends: Mapping[str, str], invocation: Invocation) -> None:
        """Call the listeners of ends, given as id of the event → id of the task. Raises only KeyboardInterrupt."""
        by_id = {id_: listeners(id_.rpartition(":")[2], self._task) for id_ in ends}
        task_ids = [ends[id_] for id_, found in by_id.items() if found]
        if not task_ids:
            return
        try:
            details = self._database.call(events_of_tasks, task_ids)
        except DATABASE_ERRORS as error:
            telemetry.logger().warning(
                "listeners were not called, because the database did not answer",
                extra={"task_type": self._task.type, "task_ids": task_ids, "error": text_of(error)},
            )
            return
        for detail in details:
            for listener in by_id.get(detail["id"], ()):  # an operator may have retried the task in between
                self._call(listener, Event.read(detail), invocation)

    def _call(self, listener: Listener, event: Event, invocation: Invocation) -> None:
        fields = {"task_id": event.task_id, "task_type": self._task.type, "listener": listener.name}
        seconds = invocation.ends - time.monotonic() - KILL_MARGIN_SECONDS
        if self._printed:
            self._printed.begin(fields)
        try:
            with self._alarm.set(seconds, LOOP_SECONDS if listener.is_async else 0):
                self._run(listener, event)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a listener changes nothing, whatever it raises
            self._alarm.silence()
            timed_out = self._alarm.fired or isinstance(error, TaskTimeout)
            telemetry.logger().error(
                "a listener has not ended in the time that the invocation had left"
                if timed_out
                else "a listener failed",
                extra=fields | {"error_type": type(error).__name__, "error": text_of(error)},
            )
        finally:
            if self._printed:
                self._printed.end()

    def _run(self, listener: Listener, event: Event) -> None:
        result = listener.function(event)
        if iscoroutine(result):  # also of an async def in a decorator that is a plain function
            from joblane.worker.async_call import call_listener

            call_listener(result, self._alarm)
