"""The export of spans in a thread. An exporter that hangs, refuses or dies costs no run, and little time.

An invocation waits for the thread at most :data:`FLUSH_SECONDS`. After :data:`MOST_FAILURES` failures in a row no
invocation waits for :data:`LEFT_OUT_SECONDS`, and spans are dropped: half a minute in an hour.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joblane import telemetry
from joblane.errors import text_of
from joblane.forking import follow_forks

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

FLUSH_SECONDS = 0.5
MOST_FAILURES = 2
LEFT_OUT_SECONDS = 60.0
ROOM = 2_048
"""The spans that wait for their export at the same time. More are dropped. Source: OpenTelemetry, *Batch Span
Processor*, maxQueueSize; the size of one export is a quarter of it."""
BATCH = 512
EVERY_SECONDS = 1.0
DROPPED = "spans are dropped for a minute, because the exporter has failed twice in a row"


class Background:
    """Calls ``work`` in a thread: when an invocation asks for it, and every ``every`` seconds.

    ``work`` returns True after a success, False after a failure, and None if there was nothing to do. ``every`` None:
    only when an invocation asks.
    """

    def __init__(
        self, work: Callable[[], bool | None], every: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._work, self._every, self._clock = work, every, clock
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
            telemetry.logger().debug("spans could not be exported", extra={"error": text_of(error)})
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


class Exporting:
    """A processor of OpenTelemetry's SDK that hands its spans to an exporter, in the background.

    A handler appends to it without a lock, because its alarm may interrupt it anywhere.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._spans: deque[ReadableSpan] = deque()
        self._unreported = 0
        self.dropped = 0
        """The spans that this process has dropped."""
        self.background = Background(self._export, EVERY_SECONDS)
        self.background.on_pause = self._pause
        follow_forks(self, Exporting._after_fork)

    def on_start(self, span: object, parent_context: object = None) -> None:
        """Do nothing."""

    def _on_ending(self, span: object) -> None:
        """Do nothing. The SDK calls it."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take an ended span."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if self.background.is_paused or len(self._spans) >= ROOM:
            self._drop(1)
        else:
            self._spans.append(span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export all spans, within half a second."""
        self.background.flush(min(timeout_millis / 1000, FLUSH_SECONDS))
        return not self._spans

    def shutdown(self) -> None:
        """Export all spans, within half a second."""
        self.force_flush()

    def _export(self) -> bool | None:
        from opentelemetry import context

        result = None
        # the exporter's own calls have no spans
        token = context.attach(context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            while self._spans:
                batch = [self._spans.popleft() for _ in range(min(BATCH, len(self._spans)))]
                result = False
                try:
                    result = self._exporter.export(batch).name == "SUCCESS"
                finally:
                    if not result:
                        self._drop(len(batch))
                if not result:
                    break
        finally:
            context.detach(token)
        return result

    def _pause(self) -> None:
        self._drop(len(self._spans))
        self._spans.clear()
        telemetry.logger().warning(DROPPED, extra={"spans": self._unreported})
        self._unreported = 0

    def _drop(self, number: int) -> None:
        self.dropped += number
        self._unreported += number

    def _after_fork(self) -> None:
        """Leave the spans to the parent, which exports them."""
        self._spans = deque()


class FlushingProvider:
    """The flush of a provider that the program has set, as AWS's layer does."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self.background = Background(self._flush, None)

    def _flush(self) -> bool:
        return self._provider.force_flush(int(FLUSH_SECONDS * 1000)) is not False
