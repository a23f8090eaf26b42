"""Work of observers in a thread, such as an export of spans. One that hangs, refuses or dies takes little time.

An invocation waits for the thread at most :data:`FLUSH_SECONDS`. After :data:`MOST_FAILURES` failures in a row no
invocation waits for :data:`LEFT_OUT_SECONDS`: half a minute in an hour.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from joblane import telemetry
from joblane.errors import text_of
from joblane.forking import follow_forks

FLUSH_SECONDS = 0.5
MOST_FAILURES = 2
LEFT_OUT_SECONDS = 60.0


class Background:
    """Calls ``work`` in a thread: when an invocation asks for it, and every ``every`` seconds.

    ``what``: the things that it sends, for the log. ``work`` returns True after a success, False after a failure, and
    None if there was nothing to do. ``every`` None: only when an invocation asks.
    """

    def __init__(
        self,
        what: str,
        work: Callable[[], bool | None],
        every: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._work, self._every, self._clock = what, work, every, clock
        self._failures, self._resumes = 0, 0.0
        self.on_pause: Callable[[], object] = lambda: None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._asked = self._answered = 0
        self._is_late = False
        follow_forks(self, Background._after_fork)

    @property
    def is_paused(self) -> bool:
        return self._clock() < self._resumes

    def start(self) -> None:
        """Start the thread, if this process has none. A handler's alarm must not interrupt it."""
        if self._every is not None:
            self._start()

    def _start(self) -> None:
        if self._thread is None:
            with self._changed:
                if self._thread is None:  # the work is for one thread
                    thread = threading.Thread(target=self._run, name="joblane-export", daemon=True)
                    thread.start()
                    self._thread = thread

    def flush(self, seconds: float) -> None:
        """Wait for a call of ``work`` that starts now, at most this long. Not during a pause."""
        if self.is_paused or seconds <= 0:
            return
        self._start()
        with self._changed:
            self._asked = number = self._asked + 1
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._answered >= number, seconds):
                self._is_late = True
                self._note(False)

    def _run(self) -> None:
        changed = self._changed
        while changed is self._changed:
            with changed:
                changed.wait_for(lambda: self._asked > self._answered, self._every)
                number = self._asked
            done = self._call()
            with changed:
                self._answered = number
                if done is not None and not self._is_late:  # a flush has counted a late one
                    self._note(done)
                self._is_late = False
                changed.notify_all()

    def _call(self) -> bool | None:
        try:
            return self._work()
        except Exception as error:  # whatever an exporter raises
            telemetry.logger().debug(f"{self._what} could not be sent", extra={"error": text_of(error)})
            return False

    def _note(self, is_success: bool) -> None:
        self._failures = 0 if is_success else self._failures + 1
        if self._failures >= MOST_FAILURES:
            self._resumes = self._clock() + LEFT_OUT_SECONDS
            self.on_pause()

    def _after_fork(self) -> None:
        """Make a new lock and, later, a thread."""
        self._changed, self._thread = threading.Condition(), None
        self._answered, self._is_late = self._asked, False
