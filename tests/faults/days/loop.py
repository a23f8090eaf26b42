"""The events of a day, in the order of their times. Code of a process runs in a greenlet, which can wait in it."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from greenlet import getcurrent, greenlet

from tests.faults.days.clock import Clock

if TYPE_CHECKING:
    from tests.faults.days.process import Process


class Killed(KeyboardInterrupt):
    """The end of a process: the only error that a worker lets pass."""


class Loop:
    """``process``: the one whose code runs now. None: the code of the test."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.process: Process | None = None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._hub = getcurrent()
        self._background: WeakSet[greenlet] = WeakSet()

    @property
    def now(self) -> float:
        return self.clock.now

    def seconds(self) -> float:
        """Return the time by the clock of the process whose code runs."""
        return self.clock.now + (self.process.skew if self.process is not None else 0)

    def at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(when, self.now), next(self._numbers), call))

    def spawn(self, process: Process, call: Callable[[], Any], *, is_background: bool = False) -> None:
        """Run code of a process, which begins at once and may wait. Its death ends it.

        ``is_background``: it stands still while the process is frozen.
        """

        def run() -> None:
            try:
                call()
            except Killed:
                if not process.dead:
                    raise

        code = greenlet(run, self._hub)
        if is_background:
            self._background.add(code)
        self._resume(code, process)

    def sleep(self, seconds: float) -> None:
        """Let other things happen. Raises :class:`Killed` if the process dies meanwhile."""
        process, waiting = self.process, getcurrent()
        if process is None:
            return
        process.alive()
        self.at(self.now + seconds, lambda: self._wake(waiting, process))
        self._hub.switch()
        process.alive()

    def _wake(self, code: greenlet, process: Process) -> None:
        if process.is_frozen and code in self._background:
            process.thaws.append(lambda: self.at(self.now, lambda: self._wake(code, process)))
        else:
            self._resume(code, process)

    def _resume(self, code: greenlet, process: Process) -> None:
        before, self.process = self.process, process
        try:
            code.switch()
        finally:
            self.process = before

    def next_at(self) -> float | None:
        return self._events[0][0] if self._events else None

    def step(self) -> None:
        """Let the next thing happen."""
        when, _, call = heapq.heappop(self._events)
        self.clock.now = max(self.clock.now, when)
        call()
