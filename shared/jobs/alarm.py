"""The timeout of a handler: an alarm in the main thread that raises :class:`TaskTimeout` until the handler is out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from shared.jobs.errors import TaskTimeout

AGAIN_SECONDS = 1.0
"""How often it fires again: a handler that swallows it once meets it once more."""


class Alarm:
    """One alarm per process. It is silent while the library talks to the database itself.

    Signals reach the main thread only, which is where Lambda runs handlers; in another thread nothing is set.
    """

    def __init__(self) -> None:
        self._armed = False
        self._held = False

    @contextmanager
    def set(self, seconds: float) -> Iterator[None]:
        """Raise :class:`TaskTimeout` into the body after ``seconds``."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGALRM, self._fire)
        self._armed = True
        try:
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), AGAIN_SECONDS)
            yield
        finally:
            self.silence()
            signal.signal(signal.SIGALRM, before)

    def silence(self) -> None:
        """Stop it for good. Call it first wherever :class:`TaskTimeout` is caught: it may have fired on the way out."""
        self._armed = False
        if threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep it from interrupting the body; it fires within a second afterwards."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _fire(self, _number: int, _frame: FrameType | None) -> None:
        if self._armed and not self._held:
            raise TaskTimeout("the handler outlived its timeout")
