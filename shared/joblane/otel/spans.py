"""Spans and metrics of enqueues, runs and steps, with the names of OpenTelemetry's conventions for messaging.

The first run of a task that is due at once is a child of its enqueue. Every other run is the root of a trace, with a
link to the enqueue: a retry would stretch a trace to the length of its back-off, and a chain of tasks does not end.

Source: OpenTelemetry, *Semantic conventions for messaging spans* and *for messaging client metrics*, 1.45.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import context, metrics, trace
from opentelemetry.trace import SpanKind, StatusCode

from joblane import telemetry
from joblane.errors import NO_FAILURES, TaskTimeout, text_of
from joblane.forking import follow_forks
from joblane.names import OWN_TYPES
from joblane.otel.provider import background_of_provider
from joblane.quotas import MAX_HEADERS
from joblane.sqs import traceparent
from joblane.sqs.message import TICK_ID_PATTERN
from joblane.sqs.traceparent import HEADER, LATER, MARK, TRACESTATE, caller_of

if TYPE_CHECKING:
    from joblane.background import Background
    from joblane.names import Queue
    from joblane.record.task.claim import Claim
    from joblane.record.task.finish import Finish
    from joblane.sqs.message import Received
    from joblane.tasks.job import Job
    from joblane.tasks.task import Task

SCOPE = "joblane"
CALLBACK = re.compile(r":on_(end|success)$|:archived:\d+$")
"""The ids of the tasks that follow a batch or an archived task."""
NO_ERRORS = (TaskTimeout.__name__,)
"""The failures that are no errors in spans: interrupts by the library."""
SYSTEM = {"messaging.system": "aws_sqs"}


@dataclass(slots=True)
class RunSpan:
    """The span of a run, from its start until its end is recorded."""

    type: str
    span: trace.Span
    started: float
    seconds: float = 0.0
    ended: int = 0


@contextmanager
def _logged(what: str) -> Iterator[None]:
    """Log the error of a span's processor, which the program may have added: it costs neither enqueue nor step."""
    try:
        yield
    except Exception as error:
        telemetry.logger().warning(f"{what} could not be observed", extra={"error": text_of(error)})


class Spans:
    """Observes the enqueues and the runs of this process."""

    def __init__(self) -> None:
        self._background: Background | None = None
        self._is_ready, self._lock = False, threading.Lock()
        self._run: ContextVar[str | None] = ContextVar("run", default=None)
        """The ``traceparent`` of the run that the code belongs to."""
        follow_forks(self, Spans._after_fork)

    # --- Enqueue ---------------------------------------------------------------------------------------------------

    @_logged("an enqueue")
    def enqueue(self, job: Job, headers: dict[str, str]) -> None:
        """Create the span of an enqueue in the current trace, and put its context into the headers.

        Headers that name a trace themselves stay as they are.
        """
        given = headers.get(HEADER)
        if (given is not None and given != self._run.get()) or len(headers) > MAX_HEADERS - 2:
            return
        self._prepare()
        type_ = job.task.type
        attributes = {"messaging.operation.name": "enqueue", "messaging.operation.type": "create"}
        if isinstance(job.task_id, str):
            attributes["messaging.message.id"] = job.task_id
        span = self._tracer.start_span(
            f"enqueue {type_}", kind=SpanKind.PRODUCER, attributes=SYSTEM | attributes | _of_type(type_)
        )
        span.end()
        found = span.get_span_context()
        if not found.is_valid:
            return
        headers[HEADER] = _as_span(found).traceparent
        state = found.trace_state.delete(MARK) if MARK in found.trace_state else found.trace_state
        headers.pop(TRACESTATE, None)
        if state:
            headers[TRACESTATE] = state.to_header()

    # --- Runs ------------------------------------------------------------------------------------------------------

    def begin(
        self, task: Task[Any, Any], claim: Claim, received: Received, *, queue: Queue, request_id: str, claim_ms: int
    ) -> RunSpan | None:
        """Start the span of a run, and make it the current one in the context of the run."""
        if task.type.startswith(OWN_TYPES):
            return None
        self._prepare()
        now, links = time.time_ns(), []
        parent: context.Context | None = context.Context()
        caller = _caller(claim)
        if caller is not None and _is_first(claim, received, caller):
            parent = trace.set_span_in_context(trace.NonRecordingSpan(caller), parent)
        elif caller is not None:
            links.append(trace.Link(caller))
        if (around := trace.get_current_span().get_span_context()).is_valid:  # the invocation, by AWS's layer
            links.append(trace.Link(around))
        span = self._tracer.start_span(
            f"run {task.type}",
            parent,
            SpanKind.CONSUMER,
            {
                **SYSTEM,
                "messaging.operation.name": "run",
                "messaging.operation.type": "process",
                "messaging.destination.name": received.queue,
                "messaging.message.id": claim.id,
                **_of_type(task.type),
                "joblane.queue": queue.value,
                "joblane.attempt": claim.attempt,
                "joblane.run": claim.run,
                "faas.invocation_id": request_id,
            },
            links,
        )
        span.add_event("claim", {"joblane.ms": claim_ms}, now)
        found = span.get_span_context()
        if found.is_valid and found != caller:  # the caller's own, if OTEL_SDK_DISABLED is set
            claim.span = _as_span(found, caller)
            self._run.set(claim.span.traceparent)
        context.attach(trace.set_span_in_context(span))
        return RunSpan(task.type, span, time.perf_counter())

    def leave(self, run: RunSpan | None, *_: object) -> None:
        """Note the end of the handler. The span ends when the end of the run is recorded."""
        if run is not None:
            run.seconds, run.ended = time.perf_counter() - run.started, time.time_ns()

    def end(self, run: RunSpan | None, claim: Claim, end: Finish | None, finish_ms: int | None) -> None:
        """End the span of a run. ``end`` None: it is not recorded, so the run is lost.

        ``finish_ms`` None: it was recorded with the handler's work.
        """
        if run is None:
            return
        span, error = run.span, None
        if end is None:
            span.set_attribute("joblane.outcome", "lease_lost")
        else:
            error = _describe(span, end)
            if finish_ms is None:
                finish_ms = max(0, round(run.seconds * 1000) - end.duration_ms)
                span.add_event("finish", {"joblane.ms": finish_ms}, run.ended)
            else:
                span.add_event("finish", {"joblane.ms": finish_ms})
        span.end(run.ended)
        self._measure(run.type, claim, end, error)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Put a span around the function of a step and the commit of its value."""
        span: trace.Span = trace.INVALID_SPAN
        with _logged("a step"):
            self._prepare()
            span = self._tracer.start_span(f"step {name}")
        token = context.attach(trace.set_span_in_context(span))
        try:
            yield
        except Exception as error:
            if not isinstance(error, NO_FAILURES):
                span.set_status(StatusCode.ERROR)
                span.set_attribute("error.type", type(error).__qualname__)
            raise
        finally:
            context.detach(token)
            with _logged("a step"):
                span.end()

    def flush(self, seconds: float) -> None:
        """Wait at most this long for the export of the spans."""
        if self._background is not None:
            self._background.flush(seconds)

    # --- Set-up ----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if not self._is_ready:
            with self._lock:  # the first requests of a web application come in several threads
                if not self._is_ready:
                    self._set_up()
                    self._is_ready = True
        if self._background is not None:
            self._background.start()

    def _set_up(self) -> None:
        try:
            self._background = background_of_provider()
        except Exception as error:  # a setting that the SDK refuses: the runs continue without spans
            telemetry.logger().error("OpenTelemetry cannot be set up", extra={"error": text_of(error)})
        self._tracer = trace.get_tracer(SCOPE)
        meter = metrics.get_meter(SCOPE)
        self._duration = meter.create_histogram("messaging.process.duration", "s", "Duration of a run")
        self._wait = meter.create_histogram("joblane.wait.duration", "s", "From the time a task is due to its run")
        self._runs = meter.create_counter("joblane.runs", "{run}", "Runs by outcome")

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def _measure(self, type_: str, claim: Claim, end: Finish | None, error: str | None) -> None:
        attributes = SYSTEM | _of_type(type_) | {"messaging.operation.name": "run"}
        if error is not None:
            attributes["error.type"] = error
        if end is not None:
            self._duration.record(end.duration_ms / 1000, attributes)
        self._wait.record(claim.waited_ms / 1000, attributes)
        self._runs.add(1, attributes | {"joblane.outcome": "lease_lost" if end is None else end.outcome})


def _of_type(type_: str) -> dict[str, str]:
    return {"messaging.destination.template": type_}


def _as_span(found: trace.SpanContext, caller: trace.SpanContext | None = None) -> traceparent.Span:
    parent_id = "" if caller is None else trace.format_span_id(caller.span_id)
    flags = found.trace_flags & traceparent.KNOWN_FLAGS
    return traceparent.Span(
        trace.format_trace_id(found.trace_id), parent_id, trace.format_span_id(found.span_id), flags
    )


def _caller(claim: Claim) -> trace.SpanContext | None:
    """Return the span of the task's enqueue, with its trace state. None: the task has no trace."""
    span = caller_of(claim.headers.get(HEADER)) if claim.headers else None
    if span is None:
        return None
    state = trace.TraceState.from_header([claim.headers.get(TRACESTATE, "")])
    flags = trace.TraceFlags(span.flags)
    return trace.SpanContext(int(span.trace_id, 16), int(span.id, 16), True, flags, state)


def _is_first(claim: Claim, received: Received, caller: trace.SpanContext) -> bool:
    """True for the first run of a task that was due at once, was enqueued outside of a run, and follows no other."""
    is_again = claim.run != 1 or claim.generation or received.dead_generation is not None
    follows = claim.depth or CALLBACK.search(claim.id) or TICK_ID_PATTERN.fullmatch(claim.id)
    return not is_again and not follows and caller.trace_state.get(MARK) != LATER


def _describe(span: trace.Span, end: Finish) -> str | None:
    """Write the end of a run into its span. Return the class of its error; None: it is none.

    Its strings are as in the row, without the values of redacted fields.
    """
    span.set_attribute("joblane.outcome", end.outcome)
    if not end.error_type or end.error_type in NO_ERRORS:
        return None
    span.set_status(StatusCode.ERROR, end.error_message)
    span.set_attribute("error.type", end.error_type)
    if end.fingerprint:
        span.set_attribute("joblane.fingerprint", end.fingerprint)
    written = {
        "exception.type": end.error_type,
        "exception.message": end.error_message or "",
        "exception.stacktrace": end.traceback or "",
    }
    span.add_event("exception", written)
    return end.error_type
