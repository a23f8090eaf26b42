"""The header ``traceparent``: one trace from the caller that enqueues a task to the log lines of each of its runs.

Each run, also a retry, is a span whose parent is the span that enqueued the task. The run's span is the parent of the
tasks that the run enqueues and of its calls. Nothing is sent to a tracing service; the ids are in the log.

Source: W3C, *Trace Context*, Level 2: the header's form in version 00, and how a later version is read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from joblane.quotas import MAX_HEADERS

HEADER = "traceparent"
TRACESTATE, MARK, LATER = "tracestate", "joblane", "later"
"""A header, and its member for a task that is not due at once, see :mod:`joblane.otel`."""
MAX_STATE = 1_000
"""The characters of a header's value."""
FORM = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace_id>[0-9a-f]{32})-(?P<parent_id>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
KNOWN_FLAGS = 0b11
"""Sampled, and random trace id. Other bits have no meaning yet and are not passed on."""


@dataclass(frozen=True, slots=True)
class Span:
    """A span. ``parent_id``: the id of the span that it is a part of; empty: it has none, or it is not known."""

    trace_id: str
    parent_id: str
    id: str
    flags: int

    @property
    def traceparent(self) -> str:
        """The header value for calls of this span."""
        return f"00-{self.trace_id}-{self.id}-{self.flags:02x}"

    @property
    def log_fields(self) -> dict[str, str]:
        """The ids for log lines."""
        ids = {"trace_id": self.trace_id, "span_id": self.id}
        return ids | {"parent_span_id": self.parent_id} if self.parent_id else ids


def caller_of(traceparent: str | None) -> Span | None:
    """Return the span that a header names, without its parent; None if the header is missing or malformed."""
    found = FORM.fullmatch(traceparent) if isinstance(traceparent, str) else None
    if found is None or found["version"] == "ff" or (found["version"] == "00" and found["more"]):
        return None
    if not found["trace_id"].strip("0") or not found["parent_id"].strip("0"):
        return None
    return Span(found["trace_id"], "", found["parent_id"], int(found["flags"], 16) & KNOWN_FLAGS)


def span_of(headers: Mapping[str, str], id_: str, run: int) -> Span | None:
    """Return the span of one run, or None for a task without a trace. Its id derives from the task's id and the run."""
    if not headers or (caller := caller_of(headers.get(HEADER))) is None:
        return None
    own = hashlib.sha256(f"{id_} {run}".encode()).hexdigest()[:16]
    return replace(caller, parent_id=caller.id, id=own)


def log_fields(headers: Mapping[str, str], id_: str, run: int) -> dict[str, str]:
    """Return the trace ids for the log lines of a run; empty for a task without a trace."""
    span = span_of(headers, id_, run)
    return {} if span is None else span.log_fields


def headers_within(span: Span | None, headers: Any) -> Any:
    """Return a task's headers with ``span`` as the caller.

    Headers that name a trace themselves stay unchanged. So do invalid headers, which are refused later.
    """
    unchanged = not isinstance(headers, Mapping) or HEADER in headers
    if span is None or unchanged or len(headers) >= MAX_HEADERS:
        return headers
    return {**headers, HEADER: span.traceparent}


def headers_of_later(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers of a task that is not due at once: its first run is no child of its enqueue."""
    state = headers.get(TRACESTATE, "")
    if caller_of(headers.get(HEADER)) is None or f"{MARK}=" in state or len(headers) >= MAX_HEADERS:
        return headers
    marked = f"{MARK}={LATER},{state}".rstrip(",")
    return {**headers, TRACESTATE: marked if len(marked) <= MAX_STATE else f"{MARK}={LATER}"}
