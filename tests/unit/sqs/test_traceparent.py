"""A ``traceparent`` is read as the W3C specifies, and each run passes it on with a span of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from joblane.quotas import MAX_HEADERS
from joblane.sqs.traceparent import HEADER, Span, caller_of, headers_of_later, headers_within, log_fields, span_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{PARENT}-01"


def claimed(headers: Mapping[str, str] | None = None, **how: Any) -> dict[str, Any]:
    return {"headers": {HEADER: VALID} if headers is None else headers, "id_": "it", "run": 1, **how}


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (VALID, 1),
        (f"00-{TRACE}-{PARENT}-00", 0),
        (f"00-{TRACE}-{PARENT}-ff", 3),  # undefined bits are not passed on
        (f"01-{TRACE}-{PARENT}-01", 1),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", 1),
    ],
)
def test_a_valid_traceparent_is_read_of_a_later_version_too(text: str, flags: int) -> None:
    span = caller_of(text)
    assert span is not None
    assert (span.trace_id, span.id, span.flags) == (TRACE, PARENT, flags)
    assert span.traceparent == f"00-{TRACE}-{PARENT}-{flags:02x}"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "t",
        "00-1-2-3",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-more",
        f"01-{TRACE}-{PARENT}-01more",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f" {VALID}",
        f"{VALID}\n",
        f"{VALID},{VALID}",
        f"00-{TRACE}-{PARENT}-0\u0661",
        7,
    ],
)
def test_a_malformed_traceparent_is_ignored(text: Any) -> None:
    assert caller_of(text) is None
    assert log_fields(**claimed(headers={HEADER: text})) == {}


def test_each_run_is_a_span_of_its_own_below_the_span_of_the_caller() -> None:
    first, again, second, other = (
        span_of(**claimed(id_=id_, run=run)) for id_, run in (("it", 1), ("it", 1), ("it", 2), ("other", 1))
    )
    assert first is not None
    assert first == again
    assert len({first.id, getattr(second, "id", ""), getattr(other, "id", ""), PARENT}) == 4
    assert first.log_fields == {"trace_id": TRACE, "span_id": first.id, "parent_span_id": PARENT}
    assert caller_of(first.traceparent) is not None
    assert first.traceparent == f"00-{TRACE}-{first.id}-01"


def test_a_span_without_a_parent_has_no_log_field_for_it() -> None:
    assert Span(TRACE, "", PARENT, 1).log_fields == {"trace_id": TRACE, "span_id": PARENT}


def test_a_task_without_a_trace_has_no_log_fields() -> None:
    assert log_fields(**claimed(headers={})) == log_fields(**claimed(headers={"other": "x"})) == {}


def test_headers_get_the_span_unless_they_have_a_traceparent_or_no_room() -> None:
    span = caller_of(VALID)
    assert span is not None
    assert headers_within(span, {}) == {HEADER: VALID}
    assert headers_within(span, {"a": "b"}) == {"a": "b", HEADER: VALID}
    full = {str(number): "x" for number in range(MAX_HEADERS)}
    for kept in ({HEADER: "mine"}, {HEADER: ""}, full, None, "nonsense"):
        assert headers_within(span, kept) == kept


@pytest.mark.parametrize(
    ("given", "state"),
    [
        ({}, None),
        ({HEADER: "malformed"}, None),
        ({HEADER: VALID}, "joblane=later"),
        ({HEADER: VALID, "tracestate": "a=" + "b" * 990}, "joblane=later"),  # both have no room
        ({HEADER: VALID, "tracestate": "other=1"}, "joblane=later,other=1"),
        ({HEADER: VALID, "tracestate": "other=1,joblane=later"}, "other=1,joblane=later"),
        ({HEADER: VALID} | {str(number): "" for number in range(MAX_HEADERS - 1)}, None),
    ],
)
def test_the_headers_of_a_later_task_say_that_its_run_is_no_child(given: dict[str, str], state: str | None) -> None:
    expected = {} if state is None else {"tracestate": state}
    assert headers_of_later(given) == given | expected
