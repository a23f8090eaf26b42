"""The process's alarm, which interrupts a handler at its timeout."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from joblane.errors import TaskTimeout

if TYPE_CHECKING:
    from types import FrameType, TracebackType

REPEAT_SECONDS = 1.0
"""The alarm fires again at this interval, in case the handler swallows the first one."""
TIMED_OUT = "the handler exceeded its timeout"


class Alarm:
    """The process's alarm, armed inside ``with alarm.set(seconds):`` and deferred inside ``with alarm.deferred:``.

    Signals reach only the main thread, where Lambda runs handlers. In another thread no alarm is set.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        """The time limit."""
        self._margin = 0.0
        self._armed = False
        self.cancel: Callable[[], object] | None = None
        """Cancels the handler's asyncio task. None: the timeout is raised."""
        self.fired = False
        """True if the timeout was raised, or the handler cancelled, since the alarm was set."""
        self.struck = False
        """True if the alarm has interrupted an event loop at any point."""
        self.deferred = _Deferred(self)
        """The context for the library's own statements. An alarm that fires inside is raised at its end."""

    def set(self, seconds: float, margin: float) -> Alarm:
        """Raise :class:`TaskTimeout` after the start of the body, or before it if no time is left.

        ``margin``: the seconds after the time limit at which the alarm fires. Until then the code in the body ends
        itself, see :meth:`expire`.
        """
        self.seconds = seconds
        self._margin = margin
        self.fired = self.struck = False
        return self

    def __enter__(self) -> None:
        if self.seconds <= 0:
            raise TaskTimeout(TIMED_OUT)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGALRM, self._fire)
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, max(self.seconds + self._margin, 0.001), REPEAT_SECONDS)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.silence()

    def silence(self) -> None:
        """Stop the alarm. Code that catches :class:`TaskTimeout` calls this first: it may have fired on the way out."""
        if self._armed:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.deferred.missed = False

    def _fire(self, _number: int, _frame: FrameType | None) -> None:
        if self._armed and self.deferred.active:
            self.deferred.missed = True
        elif self._armed:
            self.struck = self.cancel is not None
            self._raise()

    def expire(self) -> None:
        """End the handler: cancel its asyncio task, or raise the timeout in the calling code."""
        if self.deferred.active:
            self.deferred.missed = True
        elif self.cancel is not None:
            self.fired = True
            self.cancel()
        else:
            self._raise()

    def _raise(self) -> NoReturn:
        self.fired = True
        raise TaskTimeout(TIMED_OUT)


class _Deferred:
    """A context in which the alarm does not interrupt. Asyncio tasks may be inside at the same time."""

    active = 0
    """The number of tasks inside."""
    missed = False
    """True if the alarm fired inside. To wait for the next one could let a loop of such contexts run for ever."""

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm

    def __enter__(self) -> None:
        self.active += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.active -= 1
        if self.missed and error is None and not self.active:
            self.missed = False
            self._alarm.expire()
