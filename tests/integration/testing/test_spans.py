"""Spans of enqueues, runs and steps: the trace that the page draws, the causes of a link, and what is no error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

import pytest
import urllib3
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from sqlalchemy import text
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from joblane import (
    ArchivedTask,
    Grants,
    Job,
    MessageClient,
    Payload,
    Redacted,
    RevokeTask,
    SkipRetry,
    Snooze,
    TaskContext,
    TaskTimeout,
    task,
)
from joblane.errors import LeaseLostError
from joblane.otel import spans as module
from joblane.testing import JobTester
from tests.pages import ROOT

PAGE = ROOT / "docs" / "how-to" / "trace.md"
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HOUR = timedelta(hours=1)
PLANTED = "pl4nted-v4lue"
tracer = trace.get_tracer("test")


class Order(Payload):
    number: int = 0
    do: str = ""
    url: str = ""
    token: Annotated[str, Redacted] = ""
    note: str = ""


does: dict[str, Callable[[Order, TaskContext], Any]] = {}


@task("order:receipt")
def order_receipt(payload: Order, ctx: TaskContext) -> None: ...


@task("order:failed")
def order_failed(payload: ArchivedTask, ctx: TaskContext) -> None: ...


@task("order:ship", grants=Grants(enqueue=("order:receipt",)), max_retry=1, retry_delay=timedelta(seconds=40), batch_size=10, on_archived=order_failed)
def order_ship(payload: Order, ctx: TaskContext) -> Any:
    return does[payload.do](payload, ctx) if payload.do else None


@task("order:track")
async def order_track(payload: Order, ctx: TaskContext) -> Any:
    with tracer.start_as_current_span("of the handler"):
        await ctx.astep("look", lambda key: trace.format_span_id(trace.get_current_span().get_span_context().span_id))
    return ctx.traceparent


@task("order:count", schedule="0 * * * *")
def order_count(payload: Order, ctx: TaskContext) -> None: ...


@pytest.fixture(autouse=True)
def own_tasks(jobs: JobTester) -> None:
    jobs.register(order_receipt, order_failed, order_ship, order_track, order_count)
    does.clear()


def doing(function: Callable[[Order, TaskContext], Any]) -> Order:
    does[function.__name__] = function
    return Order(do=function.__name__)


def drawn(spans: Sequence[ReadableSpan]) -> str:
    """Draw spans as a tree, each with its error and with the names of the spans that it has links to."""
    ids = {span.context.span_id: span for span in spans if span.context}
    lines: list[str] = []

    def draw(span: ReadableSpan, depth: int) -> None:
        error = f"  ✗ {span.status.description}" if span.status.status_code is StatusCode.ERROR else ""
        links = "".join(f"  ⇢ {ids[link.context.span_id].name}" for link in span.links)
        lines.append(f"{'  ' * depth}{span.name}{links}{error}")
        for each in sorted(spans, key=lambda each: each.start_time or 0):
            if each.parent is not None and span.context is not None and each.parent.span_id == span.context.span_id:
                draw(each, depth + 1)

    for root in sorted(spans, key=lambda each: each.start_time or 0):
        if root.parent is None or root.parent.span_id not in ids:
            draw(root, 0)
    return "\n".join(lines)


def runs_of(exporter: InMemorySpanExporter, type_: str = "order:ship") -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == f"run {type_}"]


@pytest.fixture
def service() -> Iterator[str]:
    """The address of an HTTP service."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


# --- The trace of the page -----------------------------------------------------------------------------------------


def test_the_trace_of_a_request_is_as_the_page_draws_it(
    jobs: JobTester, spans: InMemorySpanExporter, service: str
) -> None:
    http = urllib3.PoolManager()

    def ships(payload: Order, ctx: TaskContext) -> None:
        http.request("POST", payload.url).close()
        if ctx.attempt == 1:
            raise ValueError("the carrier has no room")
        ctx.step("book", lambda key: 1)
        ctx.enqueue(order_receipt, Order())

    payload = doing(ships).model_copy(update={"url": service})
    app = FastAPI()

    @app.post("/orders")
    def orders() -> None:
        with Session(jobs.engine) as session, session.begin():
            jobs.client.enqueue(order_ship, payload, session=session)

    URLLib3Instrumentor().instrument()
    FastAPIInstrumentor.instrument_app(app, exclude_spans=["receive", "send"])
    try:
        with TestClient(app) as browser:
            assert browser.post("/orders").status_code == 200
        jobs.drain()
        jobs.travel(HOUR)
        jobs.drain()
    finally:
        URLLib3Instrumentor().uninstrument()
        http.clear()
    found = drawn(spans.get_finished_spans())
    assert f"```text\n{found}\n```" in PAGE.read_text(), found


# --- A child, or a trace of its own --------------------------------------------------------------------------------


def parents(jobs: JobTester, exporter: InMemorySpanExporter, task_id: str) -> list[str]:
    """Return ``child``, ``link`` or ``root`` for each run of a task."""
    found = []
    for span in exporter.get_finished_spans():
        if span.name.startswith("run ") and (span.attributes or {})["messaging.message.id"] == task_id:
            found.append("child" if span.parent else "link" if span.links else "root")
    return found


def test_only_the_first_run_of_a_task_that_is_due_at_once_is_in_the_trace_of_its_enqueue(
    jobs: JobTester, spans: InMemorySpanExporter
) -> None:
    def fails(payload: Order, ctx: TaskContext) -> None:
        raise SkipRetry("no")

    def fails_once(payload: Order, ctx: TaskContext) -> None:
        if ctx.attempt == 1:
            raise ValueError("no")

    def sleeps(payload: Order, ctx: TaskContext) -> None:
        ctx.sleep("nap", timedelta(hours=2))

    def has_children(payload: Order, ctx: TaskContext) -> None:
        ctx.enqueue(order_receipt, Order(), task_id="child")
        with tracer.start_as_current_span("of the handler"):
            ctx.enqueue_many([Job(order_receipt, Order(), task_id="one-of-many")])

    client = jobs.client
    client.enqueue(order_ship, Order(), task_id="now")
    client.enqueue(order_track, Order(), task_id="async")
    client.enqueue(order_ship, doing(fails_once), task_id="retried")
    client.enqueue(order_ship, Order(), task_id="delayed", process_in=timedelta(minutes=1))
    client.enqueue(order_ship, Order(), task_id="long-delayed", process_in=timedelta(hours=1))
    client.enqueue(order_ship, doing(sleeps), task_id="sleeps")
    client.enqueue(order_ship, doing(has_children), task_id="has-children")
    client.enqueue(order_ship, Order(), task_id="follows", after=["now"])
    with client.batch("all", on_end=Job(order_receipt, Order())) as batch:
        batch.enqueue(order_ship, Order(), task_id="member")
    client.enqueue(order_ship, doing(fails), task_id="archived")
    with MessageClient() as sender:
        sender.enqueue(order_ship, Order(), task_id="message")
    with jobs.session() as session:
        session.execute(text("select joblane.enqueue('order:ship', '{}', task_id => 'sql', headers => :headers)"),
                        {"headers": f'{{"traceparent": "{CALLER}"}}'})
        session.execute(text("select joblane.enqueue('order:ship', '{}', task_id => 'sql-without')"))
    client.enqueue(order_ship, Order(), task_id="no-trace", headers={"traceparent": ""})
    client.enqueue(order_ship, Order(), task_id="own-trace", headers={"traceparent": CALLER})
    tick = jobs.tick(order_count)
    jobs.drain()
    jobs.travel(timedelta(hours=3))
    assert jobs.redrive(order_ship) == 1
    jobs.drain()
    expected = {
        "now": ["child"], "async": ["child"], "retried": ["child", "link"], "delayed": ["link"],
        "long-delayed": ["link"], "sleeps": ["child", "link"], "has-children": ["child"], "child": ["link"],
        "one-of-many": ["link"], "follows": ["link"], "member": ["child"], "all:on_end": ["link"],
        "archived": ["child", "link"], "archived:archived:0": ["link"], "message": ["child"], "sql": ["child"],
        "sql-without": ["root"], "no-trace": ["root"], "own-trace": ["child"], tick: ["root"],
    }  # fmt: skip
    assert {id_: parents(jobs, spans, id_) for id_ in expected} == expected
    [of_sql] = [span for span in runs_of(spans) if (span.attributes or {})["messaging.message.id"] == "sql"]
    assert of_sql.parent is not None
    assert trace.format_span_id(of_sql.parent.span_id) == CALLER.split("-")[2]
