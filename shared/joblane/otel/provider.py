"""The providers of spans and metrics: those that the program has set, or else an exporter to an OTLP address."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace

from joblane import settings
from joblane.background import Background
from joblane.forking import at_end
from joblane.otel.check import CONSOLE, METRICS, NONE, TRACES, exporters
from joblane.otel.export import Exporting, FlushingProvider

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

END_SECONDS = 2.0
"""The end of a process waits for its exports at most this long."""


def is_set() -> bool:
    """True if the program has set a provider of spans. Its exporters have their own settings."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def background_of_provider() -> Background | None:
    """Set the providers if the program has set none. Return what exports the spans; None: no flush is needed.

    It is called with the first span, so that a program can set its provider after it has made a client.
    """
    if not is_set():
        background = _set_up()
    else:
        found = trace.get_tracer_provider()
        background = FlushingProvider(found).background if hasattr(found, "force_flush") else None
    _flush_at_end(background)
    return background


def _flush_at_end(spans: Background | None) -> None:
    """Export what is left when the process ends: a short program has exported nothing before."""
    meters = metrics.get_meter_provider()
    numbers = Background("metrics", meters.force_flush, None) if hasattr(meters, "force_flush") else None

    def flush() -> None:
        ends = time.monotonic() + END_SECONDS
        for background in (spans, numbers):
            if background is not None:
                background.flush(ends - time.monotonic())

    at_end(flush)


def _set_up() -> Background | None:
    from opentelemetry.sdk.trace import TracerProvider

    resource = _resource()
    _set_up_metrics(resource)
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    background = None
    if exporters()[TRACES] != NONE:
        processing = Exporting(_span_exporter())
        any_processor: Any = processing
        provider.add_span_processor(any_processor)
        _count_dropped(processing)
        background = processing.background
    trace.set_tracer_provider(provider)
    return background


def _span_exporter() -> Any:
    if exporters()[TRACES] == CONSOLE:
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _set_up_metrics(resource: Resource) -> None:
    """Export metrics every minute, in a thread of the SDK."""
    name = exporters()[METRICS]
    if name == NONE or hasattr(metrics.get_meter_provider(), "force_flush"):  # the program has set one
        return
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

    if name == CONSOLE:
        chosen: Any = ConsoleMetricExporter()
    else:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        chosen = OTLPMetricExporter()
    reader = PeriodicExportingMetricReader(chosen)
    metrics.set_meter_provider(MeterProvider([reader], resource=resource, shutdown_on_exit=False))


def _count_dropped(processing: Exporting) -> None:
    """Report the dropped spans as a metric. It is observed, because a handler's alarm may interrupt a drop anywhere."""

    def observe(_: object) -> Iterable[metrics.Observation]:
        return [metrics.Observation(processing.dropped)]

    metrics.get_meter("joblane").create_observable_counter(
        "joblane.spans.dropped", [observe], "{span}", "Spans that were not exported"
    )


def _resource() -> Resource:
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    if os.environ.get("OTEL_SERVICE_NAME") or f"{SERVICE_NAME}=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        return Resource.create()
    function = os.environ.get("AWS_LAMBDA_FUNCTION_NAME")
    return Resource.create({SERVICE_NAME: function or settings.project() or settings.prefix()})
