"""Spans of Django tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


def test_a_django_task_is_in_the_trace_of_the_request_that_enqueues_it(
    shop: Any, spans: InMemorySpanExporter, run: Callable[..., Any]
) -> None:
    with trace.get_tracer("test").start_as_current_span("POST /notes"):
        assert run(shop.write, "it").status == "SUCCESSFUL"
    found = {span.name.split()[0]: span for span in spans.get_finished_spans()}
    assert list(found) == ["enqueue", "run", "POST"]
    for name, parent in (("enqueue", "POST"), ("run", "enqueue")):
        of = found[name].parent
        assert of is not None
        assert of.span_id == found[parent].context.span_id
