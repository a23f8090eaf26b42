"""The trace of a request, which its tasks continue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from aws_lambda_powertools.event_handler.openapi.params import Header

from joblane.sqs.traceparent import HEADER, caller_of

NAME = HEADER.title()
"""The header's name. HTTP ignores the case of header names."""

Trace = Annotated[
    str | None,
    Header(alias=NAME, description="W3C Trace Context. A malformed value is ignored, as the standard requires."),
]


def headers_of(trace: str | None) -> Mapping[str, str]:
    """Return a task's headers, with the trace if it is valid."""
    span = caller_of(trace)
    return {} if span is None else {HEADER: span.traceparent}


def log_fields(trace: str | None) -> Mapping[str, str]:
    """Return the fields of the request's log line."""
    span = caller_of(trace)
    return {} if span is None else {"trace_id": span.trace_id}
