"""The wait for the end of a task."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

from joblane.errors import UnknownTaskError, WaitTimeoutError

if TYPE_CHECKING:
    from joblane.record.task.status import TaskStatus

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 2.0


class Waiting:
    """A wait for the end of a task, with growing pauses between reads."""

    def __init__(self, task_id: str, timeout: timedelta) -> None:
        if not isinstance(timeout, timedelta):
            raise TypeError(f"timeout: a timedelta is required, not {type(timeout).__name__}")
        self._task_id, self._timeout = task_id, timeout
        self._ends, self._pause = time.monotonic() + timeout.total_seconds(), FIRST_PAUSE_SECONDS

    def checked(self, status: TaskStatus | None) -> TaskStatus:
        """Return the state. Raises :class:`UnknownTaskError`, and :class:`WaitTimeoutError` if the time is over."""
        if status is None:
            raise UnknownTaskError(self._task_id)
        if not status.ended and time.monotonic() >= self._ends:
            raise WaitTimeoutError(self._task_id, status.state, self._timeout)
        return status

    def pause(self) -> float:
        """Return the seconds until the next read."""
        pause = min(self._pause, max(0.0, self._ends - time.monotonic()))
        self._pause = min(self._pause * 1.5, LONGEST_PAUSE_SECONDS)
        return pause
