"""A warning with the line of a handler that blocks its event loop."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from joblane import telemetry
from joblane.worker.outcome import is_project_code

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle
    from types import FrameType

BLOCKED_SECONDS = 1.0
BEAT_SECONDS = 0.25
_reported: set[str] = set()
"""The places that were reported. One line for each is enough."""


@contextmanager
def watched(loop: AbstractEventLoop, log_fields: Mapping[str, Any]) -> Iterator[None]:
    """Watch the loop during the block, in a thread. Log a call that keeps the loop from running for a second."""
    watch = _Watch(loop, log_fields)
    watch.beat()
    thread = threading.Thread(target=watch.look, args=(threading.get_ident(),), name="joblane-loop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.end()


class _Watch:
    def __init__(self, loop: AbstractEventLoop, log_fields: Mapping[str, Any]) -> None:
        self._loop = loop
        self._log_fields = log_fields
        self._ended = threading.Event()
        self._beat_at = 0.0
        self._timer: TimerHandle | None = None

    def beat(self) -> None:
        """Note that the loop runs. The loop calls this again and again."""
        self._beat_at = time.monotonic()
        self._timer = self._loop.call_later(BEAT_SECONDS, self.beat)

    def end(self) -> None:
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()

    def look(self, thread_id: int) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            if time.monotonic() - self._beat_at > BLOCKED_SECONDS + BEAT_SECONDS:
                self._report(sys._current_frames().get(thread_id))

    def _report(self, frame: FrameType | None) -> None:
        frame = project_frame(frame)
        if frame is None:
            return
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if place not in _reported:
            _reported.add(place)
            telemetry.logger().warning(
                f"{place}, in {frame.f_code.co_name}, blocks the event loop for more than a second; call an "
                "asynchronous client there, or await asyncio.to_thread(…)",
                extra=dict(self._log_fields),
            )


def project_frame(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame of the project's code that the loop has called. None: the loop itself runs."""
    while frame is not None and frame.f_code.co_name != "_run_once":
        if is_project_code(frame.f_code.co_filename):
            return frame
        frame = frame.f_back
    return None
