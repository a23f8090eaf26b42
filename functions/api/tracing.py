"""The trace that a request is a part of, which what it enqueues becomes a part of, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from aws_lambda_powertools.event_handler.openapi.params import Header

from joblane.sqs.traceparent import HEADER, caller_of

NAME = HEADER.title()
"""As HTTP writes it, whose names have no case."""

Trace = Annotated[
    str | None,
    Header(alias=NAME, description="W3C Trace Context. One that is malformed is passed over, as the standard says."),
]


def headers_of(trace: str | None) -> Mapping[str, str]:
    """A task's headers: the trace, where there is a good one."""
    span = caller_of(trace)
    return {} if span is None else {HEADER: span.traceparent}


def log_fields(trace: str | None) -> Mapping[str, str]:
    """For the request's log line."""
    span = caller_of(trace)
    return {} if span is None else {"trace_id": span.trace_id}
