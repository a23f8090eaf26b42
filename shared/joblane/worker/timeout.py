"""The timeout of a handler: an alarm in the main thread that raises :class:`TaskTimeout` until the handler is out."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import NoReturn

from joblane.errors import TaskTimeout

AGAIN_SECONDS = 1.0
"""How often it fires again: a handler that swallows it once meets it once more."""
OUTLIVED = "the handler outlived its timeout"


class Alarm:
    """One alarm per process, armed inside ``with alarm.set(seconds):``, silent inside ``with alarm.held:``.

    Signals reach the main thread only, which is where Lambda runs handlers; in another thread nothing is set.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._armed = False
        self.fired = False
        """It was raised into the body since it was set."""
        self.held = _Held(self)
        """The library's own talk with the database. An alarm that comes meanwhile is raised at its end."""

    def set(self, seconds: float) -> Alarm:
        """Raise :class:`TaskTimeout` into the body ``seconds`` from its start; before it where none are left."""
        self._seconds = seconds
        self.fired = False
        return self

    def __enter__(self) -> None:
        if self._seconds <= 0:
            raise TaskTimeout(OUTLIVED)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGALRM, self._fire)
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, max(self._seconds, 0.001), AGAIN_SECONDS)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.silence()

    def silence(self) -> None:
        """Stop it for good. Call it first wherever :class:`TaskTimeout` is caught: it may have fired on the way out."""
        if self._armed:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.held.missed = False

    def _fire(self, _number: int, _frame: FrameType | None) -> None:
        if self._armed and self.held.now:
            self.held.missed = True
        elif self._armed:
            self.raise_it()

    def raise_it(self) -> NoReturn:
        """Into whatever calls this."""
        self.fired = True
        raise TaskTimeout(OUTLIVED)


class _Held:
    """A stretch of code that the alarm leaves alone. Stretches do not nest."""

    now = False
    missed = False
    """The alarm has come meanwhile. Waiting for it to fire again would let a loop of such stretches go on for ever."""

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm

    def __enter__(self) -> None:
        self.now = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.now = False
        if self.missed and error is None:
            self.missed = False
            self._alarm.raise_it()
