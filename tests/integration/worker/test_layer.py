"""AWS's layer of OpenTelemetry: it sets a provider before the handler's module is imported, and wraps the handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from joblane import settings
from joblane.errors import DeclarationError
from joblane.otel import check, provider
from joblane.worker.invocation import lambda_handler
from tests.builders.events import LambdaContext, event, message, record
from tests.samples import sample_one
from tests.world import World

FUNCTION = "jobs-sample-one"
LAYERS_FLUSH_MS = 30_000
"""Source: OpenTelemetry, *AWS Lambda instrumentation* for Python, the default of its flush timeout."""


class Layer(TracerProvider):
    """A stand-in of the layer: the provider of the process, with the span and the flush of each invocation."""

    def __init__(self) -> None:
        super().__init__(shutdown_on_exit=False)
        self.spans, self.flushes = InMemorySpanExporter(), list[int]()
        self.add_span_processor(SimpleSpanProcessor(self.spans))

    def force_flush(self, timeout_millis: int = LAYERS_FLUSH_MS) -> bool:
        self.flushes.append(timeout_millis)
        return super().force_flush(timeout_millis)

    def wrapped(self, handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def call(event: Any, context: Any) -> Any:
            with self.get_tracer("layer").start_as_current_span(FUNCTION, kind=SpanKind.SERVER):
                answer = handler(event, context)
            self.force_flush()
            return answer

        return call


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Layer:
    def refuse(found: object) -> None:
        raise AssertionError(f"a second provider: {found}")

    layer = Layer()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", layer)
    monkeypatch.setattr(trace, "set_tracer_provider", refuse)
    monkeypatch.setattr(metrics, "set_meter_provider", refuse)
    monkeypatch.setenv(settings.OTEL, "1")
    monkeypatch.setenv(check.METRICS, "awsemf")  # an exporter that only the layer has
    return layer


def check_invocation(world: World, layer: Layer) -> None:
    handler = layer.wrapped(lambda_handler(world.worker(sample_one).handle))
    assert handler(event(record(message("nothing"), f"jobs-default-{FUNCTION[5:]}")), LambdaContext()) == {
        "batchItemFailures": []
    }
    run, around = layer.spans.get_finished_spans()
    assert (run.name, around.name) == ("run sample:one", FUNCTION)
    assert [link.context for link in run.links] == [around.get_span_context()]
    assert run.parent is None
    assert layer.flushes == [500, LAYERS_FLUSH_MS]


def test_runs_use_the_provider_of_the_layer_and_are_flushed_in_the_invocation(world: World, layer: Layer) -> None:
    check_invocation(world, layer)


def test_a_provider_next_to_that_of_the_layer_is_found(
    world: World, layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "is_set", lambda: False)
    with pytest.raises((AssertionError, DeclarationError)):
        check_invocation(world, layer)
