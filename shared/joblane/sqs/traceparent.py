"""One trace from whoever enqueues a task to the log lines of each of its runs: the header ``traceparent``.

Each run is a span of its own, whose parent is the span that enqueued the task: a retry has another, and what the run
enqueues or calls has it for a parent. Nothing is reported to a tracing service; the ids stand in the log.

Source: W3C, *Trace Context*, Level 2: the header's form in version 00, and how a later version is read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from joblane.sqs.message import MAX_HEADERS

HEADER = "traceparent"
FORM = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace_id>[0-9a-f]{32})-(?P<parent_id>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
KNOWN_FLAGS = 0b11
"""Sampled, and a trace id that is random; other bits mean nothing yet and are not handed on."""


@dataclass(frozen=True, slots=True)
class Span:
    """``parent_id``: of the span that this one is a part of."""

    trace_id: str
    parent_id: str
    id: str
    flags: int

    @property
    def traceparent(self) -> str:
        """For what this span calls."""
        return f"00-{self.trace_id}-{self.id}-{self.flags:02x}"

    @property
    def log_fields(self) -> dict[str, str]:
        """The ids for log lines."""
        return {"trace_id": self.trace_id, "span_id": self.id, "parent_span_id": self.parent_id}


def caller_of(traceparent: str | None) -> Span | None:
    """The span that a header names, without its own parent; None where it is missing or malformed."""
    found = FORM.fullmatch(traceparent) if isinstance(traceparent, str) else None
    if found is None or found["version"] == "ff" or (found["version"] == "00" and found["more"]):
        return None
    if not found["trace_id"].strip("0") or not found["parent_id"].strip("0"):
        return None
    return Span(found["trace_id"], "", found["parent_id"], int(found["flags"], 16) & KNOWN_FLAGS)


def span_of(headers: Mapping[str, str], id_: str, run: int) -> Span | None:
    """The span of one run: its id follows from the task's and the run's number. None for a task without a trace."""
    if not headers or (caller := caller_of(headers.get(HEADER))) is None:
        return None
    own = hashlib.sha256(f"{id_} {run}".encode()).hexdigest()[:16]
    return replace(caller, parent_id=caller.id, id=own)


def log_fields(headers: Mapping[str, str], id_: str, run: int) -> dict[str, str]:
    """The ids that every log line of a run carries; none for a task without a trace."""
    span = span_of(headers, id_, run)
    return {} if span is None else span.log_fields


def headers_within(span: Span | None, headers: Any) -> Any:
    """A task's headers as a part of ``span``, where there is one. A trace that they name themselves stays, and so does
    what is to be refused."""
    named = not isinstance(headers, Mapping) or HEADER in headers
    if span is None or named or len(headers) >= MAX_HEADERS:
        return headers
    return {**headers, HEADER: span.traceparent}
