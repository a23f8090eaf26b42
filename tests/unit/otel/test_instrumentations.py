"""OpenTelemetry's instrumentation of boto3 next to Joblane's own sender, and the settings at the start."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.botocore import BotocoreInstrumentor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from joblane import Job, JobClient, MessageClient, Payload, TaskContext, settings, task
from joblane.errors import DeclarationError
from joblane.forking import end_process
from joblane.installation import install
from joblane.otel import check, export, provider, start
from joblane.otel import spans as spans_module
from joblane.otel.provider import background_of_provider
from joblane.otel.spans import Spans
from joblane.sqs import sender as module
from joblane.sqs.client import Sqs
from joblane.tasks.event_kinds import OBSERVERS
from tests.collector import Collector
from tests.fake_sqs import FakeSqs
from tests.patience import PATIENCE_SECONDS
from tests.unit.sqs.conftest import arguments_of, by_boto3, engaged, plain_boto3, send_three, server

__all__ = ["by_boto3", "plain_boto3", "server"]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program has set no provider, whatever an earlier test has set."""
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)


@pytest.fixture
def instrumented() -> Iterator[None]:
    instrumentor: Any = BotocoreInstrumentor
    instrumentor().instrument()
    yield
    instrumentor().uninstrument()


def check_sends(sqs: Sqs, server: FakeSqs, by_boto3: list[str]) -> None:
    engaged(sqs, by_boto3)
    send_three(sqs)
    sqs.sender.send("SendMessageBatch", arguments_of("SendMessageBatch", "a", "b"))
    assert by_boto3 == []
    assert server.accepted["a"] == server.accepted["b"] == 1


def test_joblane_sends_by_itself_while_the_calls_of_boto3_have_spans(
    instrumented: None,
    server: FakeSqs,
    by_boto3: list[str],
    spans: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(settings.OTEL, "1")
    sqs = Sqs()
    check_sends(sqs, server, by_boto3)
    warm_up = len(spans.get_finished_spans())
    sqs.sender._by_boto3("SendMessage", arguments_of("SendMessage"), True)
    assert (warm_up, len(spans.get_finished_spans())) == (4, 5)


def test_without_the_setting_boto3_sends_what_a_tracer_observes(
    instrumented: None, server: FakeSqs, by_boto3: list[str]
) -> None:
    with pytest.raises(AssertionError):
        check_sends(Sqs(), server, by_boto3)


def test_a_sender_that_leaves_its_sends_to_boto3_is_found(
    instrumented: None, server: FakeSqs, by_boto3: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(settings.OTEL, "1")
    monkeypatch.setattr(module, "OPENTELEMETRY", "another tracer")
    with pytest.raises(AssertionError):
        check_sends(Sqs(), server, by_boto3)


def test_without_a_provider_the_end_of_a_process_exports_to_the_otlp_address(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_providers: list[Any] = []
    monkeypatch.setattr(export, "EVERY_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "jobs-order-ship")
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    monkeypatch.setattr(trace, "set_tracer_provider", set_providers.append)
    monkeypatch.setattr(metrics, "set_meter_provider", set_providers.append)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: set_providers[0] if set_providers else None)
    monkeypatch.setattr(provider, "END_SECONDS", PATIENCE_SECONDS)
    assert background_of_provider() is not None
    meters, tracers = set_providers
    tracers.get_tracer("test").start_span("run order:ship").end()
    meters.get_meter("test").create_counter("joblane.runs").add(1)
    assert collector.posts == []
    end_process()
    meters.shutdown()
    traces, *_ = [body for path, body in collector.posts if path == "/v1/traces"]
    assert b"run order:ship" in traces
    assert b"jobs-order-ship" in traces
    assert any(b"joblane.runs" in body for path, body in collector.posts if path == "/v1/metrics")


def test_no_exporter_is_made_if_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    set_providers: list[Any] = []
    for name in (check.TRACES, check.METRICS):
        monkeypatch.setenv(name, "none")
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    monkeypatch.setattr(trace, "set_tracer_provider", set_providers.append)
    assert background_of_provider() is None
    assert len(set_providers) == 1


@pytest.mark.parametrize(
    "address", ["collector:4318", "http://", "https:///v1", "http://:4318", "ftp://collector", "http://collector:port"]
)
@pytest.mark.parametrize("name", check.addresses())
def test_an_address_without_a_host_is_refused_at_the_start(
    name: str, address: str, no_provider: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(settings.OTEL, "1")
    monkeypatch.setenv(name, address)
    for client in (JobClient, MessageClient):
        with pytest.raises(DeclarationError, match=f"^{name}: an address with scheme and host is required, for"):
            client()
    assert OBSERVERS == []


def test_wrong_values_of_settings_are_refused_at_the_start(no_provider: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.OTEL, "yes")
    with pytest.raises(DeclarationError, match=r"^JOBLANE_OTEL: 1 or 0 is required, not 'yes'$"):
        JobClient()
    monkeypatch.setenv(settings.OTEL, "1")
    monkeypatch.setenv(check.METRICS, "prometheus")
    with pytest.raises(DeclarationError, match=r"^OTEL_METRICS_EXPORTER: 'prometheus' is not one of otlp, console, no"):
        JobClient()
    monkeypatch.delenv(check.METRICS)
    monkeypatch.setenv(check.TRACES_PROTOCOL, "grpc")
    with pytest.raises(
        DeclarationError,
        match=r"^OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: http/protobuf is required, usually with port 4318, not 'grpc'$",
    ):
        JobClient()


def test_the_settings_of_an_exporter_of_the_program_are_its_own(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(check.METRICS, "awsemf")  # an exporter that only AWS's layer has
    monkeypatch.setenv(check.PROTOCOL, "grpc")
    start()


class Track(Payload):
    number: int = 0


@task("parcel:track")
def parcel_track(payload: Track, ctx: TaskContext) -> None: ...


def test_the_first_enqueues_of_a_process_may_be_in_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    observer, traced, failed = Spans(), list[int](), list[Exception]()

    def set_up() -> None:
        threads[1].start()
        threads[1].join(0.1)  # it waits for the set-up

    def enqueue() -> None:
        try:
            observer.enqueue(Job(parcel_track, Track()), {})
            traced.append(1)
        except Exception as error:
            failed.append(error)

    monkeypatch.setattr(spans_module, "background_of_provider", set_up)
    threads = [threading.Thread(target=enqueue) for _ in range(2)]
    threads[0].start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert (traced, failed) == ([1, 1], [])


@pytest.mark.parametrize("package", ["opentelemetry.sdk", "opentelemetry"])
def test_a_missing_package_is_named_with_the_extra(
    package: str, no_provider: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "joblane.otel.spans", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DeclarationError) as raised:
        start()
    assert str(raised.value) == f"the package {package!r} is missing: {install('otel')}"


def test_the_spans_of_a_process_start_once_and_not_without_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, number in (("", 0), ("0", 0), ("1", 1), ("1", 1)):
        monkeypatch.setenv(settings.OTEL, value)
        JobClient().close()
        assert len(OBSERVERS) == number
