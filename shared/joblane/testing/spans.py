"""The spans of a test, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from joblane.otel import start
from joblane.tasks.event_kinds import ENQUEUEING, OBSERVERS

_exporters: list[InMemorySpanExporter] = []
"""The exporter of this process. OpenTelemetry keeps the first provider that is set."""


@contextmanager
def recorded() -> Iterator[InMemorySpanExporter]:
    """Record the spans of the block, and let Joblane make its own, as with ``JOBLANE_OTEL=1``."""
    if not _exporters:
        provider = trace.get_tracer_provider()
        if not isinstance(provider, TracerProvider):
            provider = TracerProvider(shutdown_on_exit=False)
            trace.set_tracer_provider(provider)
        _exporters.append(InMemorySpanExporter())
        provider.add_span_processor(SimpleSpanProcessor(_exporters[0]))
    before = [(registry, list(registry)) for registry in (OBSERVERS, ENQUEUEING)]
    _exporters[0].clear()
    start()
    try:
        yield _exporters[0]
    finally:
        for registry, items in before:
            registry[:] = items
