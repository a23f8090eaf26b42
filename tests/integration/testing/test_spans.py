"""Spans of enqueues, runs and steps: the trace that the page draws, the causes of a link, and what is no error."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Annotated, Any

import pytest
import urllib3
from fastapi import FastAPI
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from pg8000.exceptions import InterfaceError
from sqlalchemy import text
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from joblane import (
    ArchivedTask,
    Grants,
    Job,
    Limit,
    MessageClient,
    Payload,
    Rate,
    Redacted,
    RevokeTask,
    SkipRetry,
    Snooze,
    TaskCancelled,
    TaskContext,
    TaskTimeout,
    task,
)
from joblane.errors import LeaseLostError
from joblane.inspector.actions.single import replay
from joblane.inspector.scope import Scope
from joblane.otel import spans as module
from joblane.sqs.client import Entry
from joblane.testing import JobTester
from joblane.worker import worker
from tests import logs
from tests.collector import Collector
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


@task(
    "order:ship",
    grants=Grants(enqueue=("order:receipt",)),
    max_retry=1,
    retry_delay=timedelta(seconds=40),
    batch_size=10,
    on_archived=order_failed,
)
def order_ship(payload: Order, ctx: TaskContext) -> Any:
    return does[payload.do](payload, ctx) if payload.do else None


@task("order:pack", max_total=1)
def order_pack(payload: Order, ctx: TaskContext) -> None: ...


@task("order:mail", limit=Limit("mail", rate=Rate(2, per=timedelta(minutes=1))))
def order_mail(payload: Order, ctx: TaskContext) -> None: ...


@task("order:call", unique_for=HOUR, unique_until="start")
def order_call(payload: Order, ctx: TaskContext) -> None: ...


@task("order:track")
async def order_track(payload: Order, ctx: TaskContext) -> Any:
    with tracer.start_as_current_span("of the handler"):
        await ctx.astep("look", lambda key: trace.format_span_id(trace.get_current_span().get_span_context().span_id))
    return ctx.traceparent


@task("order:count", schedule="0 0 1 1 *")
def order_count(payload: Order, ctx: TaskContext) -> None: ...


@pytest.fixture(autouse=True)
def own_tasks(jobs: JobTester) -> None:
    jobs.register(order_receipt, order_failed, order_ship, order_pack, order_mail, order_call, order_track, order_count)
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
    with Collector() as collector:
        yield collector.url


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


def parents(exporter: InMemorySpanExporter, task_id: str) -> list[str]:
    """Return ``child``, ``link`` or ``no link`` for each run of a task."""
    return [
        "child" if span.parent else "link" if span.links else "no link"
        for span in exporter.get_finished_spans()
        if span.name.startswith("run ") and (span.attributes or {})["messaging.message.id"] == task_id
    ]


def rows_of_page() -> dict[str, str]:
    """Return the table of the page: run → span."""
    _, _, table = PAGE.read_text().partition("| run | span |\n|---|---|\n")
    lines = table.partition("\n\n")[0].splitlines()
    return dict(line.strip("| ").split(" | ") for line in lines)


BY_SQL = "select joblane.enqueue('order:ship', '{}', task_id => :id, headers => :headers"
HEADERS = f'{{"traceparent": "{CALLER}"}}'


def enqueue_by_sql(jobs: JobTester) -> None:
    with jobs.session() as session:
        for id_, more in {
            "sql": "",
            "sql-delayed": ", process_in => interval '10 seconds'",
            "sql-long-delayed": ", process_in => interval '1 hour'",
            "sql-at": ", process_at => now() + interval '1 minute'",
            "sql-after": ", after => '{now}'",
        }.items():
            session.execute(text(f"{BY_SQL}{more})"), {"id": id_, "headers": HEADERS})
        session.execute(text(f"{BY_SQL})"), {"id": "sql-without", "headers": "{}"})


def enqueue_by_client(jobs: JobTester) -> None:
    client, minute = jobs.client, timedelta(minutes=1)
    client.enqueue(order_ship, Order(), task_id="now")
    client.enqueue_many([Job(order_ship, Order(), task_id="many")])
    asyncio.run(client.aenqueue(order_ship, Order(), task_id="awaited"))
    with jobs.session() as session:
        client.enqueue(order_ship, Order(), task_id="in-session", session=session)
    client.enqueue(order_track, Order(), task_id="async")
    client.enqueue(order_ship, Order(), task_id="own-trace", headers={"traceparent": CALLER})
    client.enqueue(order_ship, Order(), task_id="no-trace", headers={"traceparent": ""})
    with client.batch("all", on_end=Job(order_receipt, Order())) as batch:
        batch.enqueue(order_ship, Order(), task_id="member")
    for number in range(2):
        client.enqueue(order_pack, Order(), task_id=f"limited-{number}")
        client.enqueue(order_mail, Order(), task_id=f"rated-{number}")
    client.enqueue(order_ship, Order(), task_id="delayed", process_in=minute)
    client.enqueue(order_ship, Order(), task_id="at", process_at=jobs.now + minute)
    client.enqueue(order_ship, Order(), task_id="long-delayed", process_in=HOUR)
    client.enqueue(order_ship, Order(), task_id="own-delayed", process_in=minute, headers={"traceparent": CALLER})
    client.enqueue(order_call, Order(), task_id="debounced", debounce=minute)
    client.enqueue(order_ship, Order(), task_id="follows", after=["now"])
    client.enqueue(order_pack, Order(), task_id="follows-limited", after=["now"])
    client.enqueue(order_ship, Order(), task_id="own-follows", after=["now"], headers={"traceparent": CALLER})
    with MessageClient() as sender:
        sender.enqueue(order_ship, Order(), task_id="message")
        sender.enqueue(order_ship, Order(), task_id="message-delayed", process_in=minute)


def enqueue_by_message(jobs: JobTester) -> None:
    for id_, more in {"plain": {"headers": {"traceparent": CALLER}}, "plain-without": {}}.items():
        body = json.dumps({"type": "order:ship", "id": id_, "payload": {}, **more})
        jobs._queues.send(Entry("jobs-default-order-ship", body, 60 if id_ == "plain" else 0))


def enqueue_long_tasks(jobs: JobTester) -> None:
    snoozed: list[str] = []

    def fails(payload: Order, ctx: TaskContext) -> None:
        raise SkipRetry("no")

    def fails_once(payload: Order, ctx: TaskContext) -> None:
        if ctx.attempt == 1:
            raise ValueError("no")

    def snoozes(payload: Order, ctx: TaskContext) -> None:
        if not snoozed:
            snoozed.append(ctx.task_id)
            raise Snooze(timedelta(seconds=10))

    def sleeps(payload: Order, ctx: TaskContext) -> None:
        ctx.sleep("nap", timedelta(hours=2))

    def has_children(payload: Order, ctx: TaskContext) -> None:
        ctx.enqueue(order_receipt, Order(), task_id="child")
        with tracer.start_as_current_span("of the handler"):
            ctx.enqueue_many([Job(order_receipt, Order(), task_id="one-of-many")])

    for function, id_ in {
        fails: "archived", fails_once: "retried", snoozes: "snoozed", sleeps: "slept", has_children: "has-children",
    }.items():  # fmt: skip
        jobs.client.enqueue(order_ship, doing(function), task_id=id_)


def test_each_run_is_a_child_or_has_a_link_as_the_page_says(jobs: JobTester, spans: InMemorySpanExporter) -> None:
    enqueue_by_client(jobs)
    enqueue_by_sql(jobs)
    enqueue_by_message(jobs)
    enqueue_long_tasks(jobs)
    tick = jobs.tick(order_count, at=jobs.now)
    jobs.drain()
    jobs.travel(timedelta(hours=3))
    assert jobs.redrive(order_ship) == 1
    jobs.drain()
    scope = Scope(jobs._database, jobs.client._producer.sqs, jobs._prefix, {order_ship.type: order_ship}, "op")
    replayed = replay(scope, "now", None, None).new_id
    jobs.drain()
    child, link, no_link = ["child"], ["link"], ["no link"]
    first, by, again = "the first run of a task", "the same by", ["child", "link"]
    expected: dict[str, dict[str | None, list[str]]] = {
        f"{first} that is due at once: by `enqueue`, `enqueue_many` or `aenqueue`, in a session or without": {
            "now": child, "many": child, "awaited": child, "in-session": child, "async": child, "has-children": child,
            "own-trace": child,
        },
        f"{by} `MessageClient`": {"message": child},
        f"{by} `joblane.enqueue` in SQL, with a [`traceparent`](#the-header-traceparent)": {"sql": child},
        f"{by} a plain message to SQS with a `traceparent`, even with `DelaySeconds`": {"plain": child},
        f"{by} Django's `enqueue`": {},  # test_spans.py of Django's tasks
        "the first run of a member of a batch": {"member": child},
        f"{first} that waited for a limit or a rate": {
            "limited-0": child, "limited-1": child, "rated-0": child, "rated-1": child,
        },
        f"{first} with `process_in`, `process_at` or `debounce`": {
            "delayed": link, "at": link, "long-delayed": link, "own-delayed": link, "debounced": link,
            "message-delayed": link,
        },
        f"{first} with `after`": {"follows": link, "follows-limited": link, "own-follows": link},
        "the first run of a delayed task, or of a task with `after`, that SQL enqueues with a `traceparent`": {
            "sql-delayed": link, "sql-long-delayed": link, "sql-at": link, "sql-after": link,
        },
        "a retry, a run after a snooze or a wait, the next part of a `resumable` task": {
            "retried": again, "snoozed": again, "slept": again,
        },
        "a run after a redrive or an operator's retry, and the run of a replay": {"archived": again, replayed: link},
        f"{first} that a run has enqueued": {"child": link, "one-of-many": link},
        "the callback of a batch, and the task of `on_archived`": {"all:on_end": link, "archived:archived:0": link},
        "a tick of a schedule": {tick: no_link},
        'a task that SQL or a message enqueues without `traceparent`, and one with `headers={"traceparent": ""}`': {
            "sql-without": no_link, "plain-without": no_link, "no-trace": no_link,
        },
    }  # fmt: skip
    assert {row: {id_: parents(spans, str(id_)) for id_ in ids} for row, ids in expected.items()} == expected
    ends = {row: {runs[-1] for runs in ids.values()} or {"child"} for row, ids in expected.items()}
    assert {row: span.partition(" of ")[0].partition(" to ")[0] for row, span in rows_of_page().items()} == {
        row: end for row, (end,) in ends.items()
    }
    for id_ in ("sql", "plain"):
        [run] = [span for span in runs_of(spans) if (span.attributes or {})["messaging.message.id"] == id_]
        assert run.parent is not None
        assert trace.format_span_id(run.parent.span_id) == CALLER.split("-")[2]


def test_the_current_span_is_the_parent_of_each_way_to_enqueue(jobs: JobTester, spans: InMemorySpanExporter) -> None:
    async def enqueue() -> None:
        await jobs.client.aenqueue(order_receipt, Order())

    with tracer.start_as_current_span("request") as request, MessageClient() as sender:
        jobs.client.enqueue(order_receipt, Order())
        jobs.client.enqueue_many([Job(order_receipt, Order()), Job(order_receipt, Order())])
        sender.enqueue(order_receipt, Order())
        asyncio.run(enqueue())
    found = [span.parent for span in spans.get_finished_spans() if span.name == "enqueue order:receipt"]
    assert [parent and parent.span_id for parent in found] == [request.get_span_context().span_id] * 5


def test_a_retry_in_the_trace_of_its_enqueue_is_found(
    jobs: JobTester, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(payload: Order, ctx: TaskContext) -> None:
        raise ValueError("no")

    monkeypatch.setattr(module, "_is_first", lambda *_: True)
    jobs.client.enqueue(order_ship, doing(fails), task_id="retried")
    jobs.drain()
    jobs.travel(HOUR)
    jobs.drain()
    assert parents(spans, "retried") != ["child", "link"]


@pytest.mark.filterwarnings("ignore:DB-API extension cursor.connection used")  # by the instrumentation, of pg8000
def test_statements_of_the_handler_have_spans_by_the_instrumentation_of_sqlalchemy(
    jobs: JobTester, spans: InMemorySpanExporter
) -> None:
    def reads(payload: Order, ctx: TaskContext) -> Any:
        return ctx.session.scalar(text("select 5"))

    SQLAlchemyInstrumentor().instrument(engine=jobs.engine, skip_dep_check=True)
    try:
        with Session(jobs.engine) as session, session.begin():
            jobs.client.enqueue(order_ship, doing(reads), task_id="reads", session=session)
        jobs.drain()
    finally:
        SQLAlchemyInstrumentor().uninstrument()
    assert jobs.task("reads").result == 5
    names = [span.name.partition(" ")[0] for span in spans.get_finished_spans()]
    assert names.count("run") == 1
    assert len(names) > 2


# --- The context of the handler ------------------------------------------------------------------------------------


def test_each_run_of_a_batch_has_its_own_span_and_nothing_of_it_is_left(
    jobs: JobTester, spans: InMemorySpanExporter
) -> None:
    def seen(payload: Order, ctx: TaskContext) -> Any:
        return ctx.traceparent, trace.format_span_id(trace.get_current_span().get_span_context().span_id)

    payload = doing(seen)
    ids = [f"t{number}" for number in range(10)]
    for task_id in ids:
        jobs.client.enqueue(order_ship, payload, task_id=task_id)
    jobs.drain()
    runs = {str((span.attributes or {})["messaging.message.id"]): span for span in runs_of(spans)}
    assert set(runs) == set(ids)
    for task_id, span in runs.items():
        assert span.context is not None
        own = trace.format_span_id(span.context.span_id)
        traceparent, current = jobs.task(task_id).result
        assert (traceparent.split("-")[2], current) == (own, own)
        assert [event.name for event in span.events] == ["claim", "finish"]
    assert not trace.get_current_span().get_span_context().is_valid


def test_the_steps_of_an_asynchronous_handler_are_in_the_span_that_is_current(
    jobs: JobTester, spans: InMemorySpanExporter
) -> None:
    traceparent = jobs.run(order_track, Order())
    assert drawn(spans.get_finished_spans()) == "\n".join(
        ("enqueue order:track", "  run order:track", "    of the handler", "      step look")
    )
    assert traceparent.split("-")[2] == trace.format_span_id(runs_of(spans, "order:track")[0].context.span_id)


def test_the_log_lines_of_a_run_have_the_ids_of_its_span(
    jobs: JobTester, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWERTOOLS_LOG_LEVEL", "INFO")
    with logs.lines() as lines:
        jobs.client.enqueue(order_ship, Order())
        jobs.drain()
    [run] = runs_of(spans)
    [task_] = next(line["tasks"] for line in lines.fields if line["message"] == "tasks completed")
    assert run.context is not None
    assert run.parent is not None
    assert [task_[name] for name in ("trace_id", "span_id", "parent_span_id")] == [
        trace.format_trace_id(run.context.trace_id),
        trace.format_span_id(run.context.span_id),
        trace.format_span_id(run.parent.span_id),
    ]


def test_an_observer_that_fails_costs_no_run(
    jobs: JobTester, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("begin", "leave", "end"):
        with monkeypatch.context() as patch:
            patch.setattr(module.Spans, name, lambda *_, **__: 1 / 0)
            jobs.client.enqueue(order_ship, Order(), task_id=name)
            jobs.drain()
        assert jobs.task(name).state == "completed"
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_run_whose_end_is_not_recorded_is_none_that_completed(
    jobs: JobTester, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise InterfaceError("network error")

    monkeypatch.setattr(worker, "finish", refuse)
    jobs.client.enqueue(order_ship, Order())
    jobs.drain()
    [run] = runs_of(spans)
    assert (run.attributes or {})["joblane.outcome"] == "lease_lost"


def test_a_disabled_sdk_leaves_each_run_a_span_of_its_own_in_the_log(
    jobs: JobTester, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads(payload: Order, ctx: TaskContext) -> Any:
        return ctx.traceparent

    monkeypatch.setattr(trace, "get_tracer", lambda *_: trace.NoOpTracer())
    jobs.client.enqueue(order_ship, doing(reads), task_id="reads", headers={"traceparent": CALLER})
    jobs.drain()
    version, trace_id, *_ = CALLER.split("-")
    assert jobs.task("reads").result.startswith(f"{version}-{trace_id}-")
    assert jobs.task("reads").result != CALLER


class Failing(SpanProcessor):
    """A processor of the program that fails at the call that the test names."""

    fails_at = ""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._check("start")

    def on_end(self, span: Any) -> None:
        self._check("end")

    def _check(self, call: str) -> None:
        if self.fails_at == call:
            raise ValueError("no")


def test_a_processor_that_fails_costs_no_enqueue_and_no_step(
    jobs: JobTester, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps(payload: Order, ctx: TaskContext) -> Any:
        return ctx.step("one", lambda key: 1)

    processor, provider = Failing(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    for processor.fails_at in ("start", "end"):
        jobs.client.enqueue(order_ship, doing(steps), task_id=processor.fails_at)
        jobs.drain()
        found = jobs.task(processor.fails_at)
        assert (found.state, found.attempts, found.result) == ("completed", 1, 1)


# --- Errors, and what is none --------------------------------------------------------------------------------------


def outcomes(jobs: JobTester, exporter: InMemorySpanExporter) -> dict[str, tuple[bool, Any]]:
    """Run handlers that end in each way. Return for each: its span is an error, and its outcome."""

    def completed(payload: Order, ctx: TaskContext) -> None: ...

    def failed(payload: Order, ctx: TaskContext) -> None:
        raise ValueError("no")

    def archived(payload: Order, ctx: TaskContext) -> None:
        raise SkipRetry("no")

    def revoked(payload: Order, ctx: TaskContext) -> None:
        raise RevokeTask("no")

    def snoozed(payload: Order, ctx: TaskContext) -> None:
        ctx.step("is too early", lambda key: interrupt(Snooze(HOUR)))

    def timed_out(payload: Order, ctx: TaskContext) -> None:
        raise TaskTimeout

    def cancelled(payload: Order, ctx: TaskContext) -> None:
        ctx.step("in a step", lambda key: interrupt(TaskCancelled()))

    def lost(payload: Order, ctx: TaskContext) -> None:
        raise LeaseLostError("no")

    def stopped(payload: Order, ctx: TaskContext) -> None:
        ctx.sleep("nap", HOUR)

    def step_failed(payload: Order, ctx: TaskContext) -> None:
        ctx.step("fails", lambda key: 1 / 0)

    def interrupt(error: BaseException) -> None:
        raise error

    ways = (completed, failed, archived, revoked, snoozed, timed_out, cancelled, lost, stopped, step_failed)
    for way in ways:
        jobs.client.enqueue(order_ship, doing(way), task_id=way.__name__)
    jobs.drain()
    return {
        str((span.attributes or {})["messaging.message.id"]): (
            span.status.status_code is StatusCode.ERROR,
            (span.attributes or {})["joblane.outcome"],
        )
        for span in runs_of(exporter)
    }


ENDS = {
    "completed": (False, "completed"),
    "failed": (True, "failed"),
    "archived": (True, "archived"),
    "revoked": (False, "revoked"),
    "snoozed": (False, "snoozed"),
    "timed_out": (False, "timeout"),
    "cancelled": (False, "cancelled"),
    "lost": (False, "lease_lost"),
    "stopped": (False, "waiting"),
    "step_failed": (True, "failed"),
}


def test_interrupts_and_decisions_of_the_handler_are_no_errors(jobs: JobTester, spans: InMemorySpanExporter) -> None:
    assert outcomes(jobs, spans) == ENDS
    steps = {span.name: span for span in spans.get_finished_spans() if span.name.startswith("step ")}
    assert {name: span.status.status_code is StatusCode.ERROR for name, span in steps.items()} == {
        "step in a step": False,
        "step is too early": False,
        "step fails": True,
    }
    assert steps["step fails"].attributes == {"error.type": "ZeroDivisionError"}
    assert not any(span.events for span in steps.values())


def test_an_interrupt_that_is_an_error_is_found(
    jobs: JobTester, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NO_ERRORS", ())
    assert outcomes(jobs, spans) != ENDS


def leaks(jobs: JobTester, exporter: InMemorySpanExporter) -> list[str]:
    """Run a task with planted values. Return the spans that have one outside of the text of its exception."""

    def breaks(payload: Order, ctx: TaskContext) -> None:
        local = payload.note + PLANTED  # noqa: F841 - a frame variable
        ctx.enqueue(order_receipt, payload.model_copy(update={"do": ""}))
        ctx.step("one", lambda key: {"value": payload.token})
        raise ValueError(f"refused {payload.token} for the order")

    payload = doing(breaks).model_copy(update={"token": PLANTED, "note": f"note {PLANTED}"})
    jobs.client.enqueue(order_ship, payload, headers={"note": PLANTED}, tags=[PLANTED], owner=PLANTED)
    jobs.drain()
    jobs.travel(HOUR)
    jobs.drain()
    found = exporter.get_finished_spans()
    assert {span.status.description for span in runs_of(exporter)} == {"refused [redacted] for the order"}
    assert len(found) >= 5
    return [span.name for span in found if PLANTED in span.to_json()]


def test_no_value_of_a_payload_is_in_a_span(jobs: JobTester, spans: InMemorySpanExporter) -> None:
    assert leaks(jobs, spans) == []


def test_a_value_in_a_span_is_found(
    jobs: JobTester, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = module.Spans.leave

    def leaves(self: Any, run: Any, claim: Any, end: Any, error: Any, payload: Any) -> None:
        run.span.record_exception(error)
        leave(self, run, claim, end, error, payload)

    monkeypatch.setattr(module.Spans, "leave", leaves)
    with pytest.raises(AssertionError, match="run order:ship"):
        assert leaks(jobs, spans) == []


# --- Metrics -------------------------------------------------------------------------------------------------------


def test_runs_their_durations_and_waits_are_metrics(
    jobs: JobTester, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    outcomes(jobs, spans)
    data = reader.get_metrics_data()
    assert data is not None
    [scope] = data.resource_metrics[0].scope_metrics
    points: dict[str, list[Any]] = {metric.name: list(metric.data.data_points) for metric in scope.metrics}
    counted: Counter[Any] = Counter()
    for point in points["joblane.runs"]:
        counted[(point.attributes or {})["joblane.outcome"]] += point.value
    follower = "completed"  # the task of on_archived
    assert counted == Counter([follower, *(outcome for _, outcome in ENDS.values())])
    assert sum(point.count for point in points["joblane.wait.duration"]) == len(ENDS) + 1
    errors = {(point.attributes or {}).get("error.type") for point in points["messaging.process.duration"]}
    assert errors == {None, "ValueError", "SkipRetry", "ZeroDivisionError"}
