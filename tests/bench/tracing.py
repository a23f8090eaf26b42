"""The cost of the spans of a message in the worker, without the database and without the network of the exporter."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from joblane.otel.export import Exporting
from joblane.otel.spans import Spans
from joblane.sqs.client import Sqs
from joblane.tasks.event_kinds import OBSERVERS
from tests.bench.handling import MESSAGES, ROUNDS, events, ours
from tests.bench.report import Ratio, in_turns


def run() -> list[Ratio]:
    exporter: Any = SimpleNamespace(export=lambda spans: SimpleNamespace(name="SUCCESS"))
    processing: Any = Exporting(exporter)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processing)
    trace.set_tracer_provider(provider)
    found = []
    for batch in (1, 10):
        sent = events(batch, MESSAGES)
        traced, plain = in_turns(ROUNDS, lambda: _traced(sent, processing), lambda: ours(sent, Sqs()))  # noqa: B023
        found.append(
            Ratio(
                "handle a message with spans, without the database",
                f"batch {batch}, CPU per message, against one without",
                f"{traced * 1e6 / MESSAGES:.0f} µs",
                f"{plain * 1e6 / MESSAGES:.0f} µs",
                traced / plain,
                None,
                at_most=True,
            )
        )
    return found


def _traced(sent: list[dict[str, Any]], processing: Exporting) -> float:
    spans = Spans()
    OBSERVERS.append(spans)
    spans._prepare()
    spans._background = processing.background
    try:
        return ours(sent, Sqs())
    finally:
        OBSERVERS.clear()
        assert processing.dropped == 0
