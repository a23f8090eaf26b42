"""The export of spans in a thread. Spans are dropped and counted while the exporter is left out."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from joblane import telemetry
from joblane.background import FLUSH_SECONDS, Background
from joblane.forking import follow_forks

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

ROOM = 2_048
"""The spans that wait for their export at the same time. More are dropped. Source: OpenTelemetry, *Batch Span
Processor*, maxQueueSize; the size of one export is a quarter of it."""
BATCH = 512
EVERY_SECONDS = 1.0
DROPPED = "spans are dropped for a minute, because the exporter has failed twice in a row"


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
        self.background = Background("spans", self._export, EVERY_SECONDS)
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
        self.background = Background("spans", self._flush, None)

    def _flush(self) -> bool:
        return self._provider.force_flush(int(FLUSH_SECONDS * 1000)) is not False
