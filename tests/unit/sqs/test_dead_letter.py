"""Forwarded messages: dead texts with their attributes, and copies with an id, all within SQS's limits."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from joblane.quotas import MAX_MESSAGE_BYTES
from joblane.sqs.client import Entry
from joblane.sqs.dead_letter import MAX_REASON, archived_dead_letter, fits, printable, refused_dead_letter, with_id
from joblane.sqs.message import Message, Received, decode
from tests.builders.events import record
from tests.sends import check, size_of

LANE = "jobs-low-data-export"
DEAD, REASON = "joblane-dead", "joblane-reason"


def delivery(body: str | dict[str, Any], **how: Any) -> Received:
    return Received.read(record(body, LANE, **how))


def valid(entry: Entry) -> dict[str, Any]:
    """Return the arguments of the send, after a check of every limit."""
    arguments = entry.arguments()
    check(arguments)
    assert size_of(arguments) == entry.size <= MAX_MESSAGE_BYTES
    return arguments


# --- With an id ----------------------------------------------------------------------------------------------------


def test_an_external_message_gets_the_id_of_its_sqs_message() -> None:
    sent = delivery({"type": "data:export", "payload": {"n": 1}}, message_id="m-1", group="acme")
    entry = with_id(sent, "other")
    assert (entry.queue, entry.group) == ("other", "acme")
    assert decode(entry.body) == Message("data:export", "m-1", {"n": 1})


def test_an_id_of_the_producer_is_kept() -> None:
    assert decode(with_id(delivery({"type": "data:export", "id": "mine"}), LANE).body).id == "mine"


def test_attributes_are_forwarded_without_those_of_an_earlier_dead_letter() -> None:
    attributes = {"trace": ("String", "x"), DEAD: ("Number", "2"), REASON: ("String", "why")}
    entry = with_id(delivery({"type": "data:export"}, attributes=attributes), LANE)
    assert entry.attributes == {"trace": {"DataType": "String", "StringValue": "x"}}


def test_a_full_message_does_not_fit_with_an_id() -> None:
    empty = len('{"type":"a:b","payload":{"x":""}}')
    full = delivery('{"type":"a:b","payload":{"x":"' + "x" * (MAX_MESSAGE_BYTES - empty) + '"}}')
    assert not fits(with_id(full, LANE))
    room = delivery('{"type":"a:b","payload":{"x":"' + "x" * (MAX_MESSAGE_BYTES - empty - 1024) + '"}}')
    assert fits(with_id(room, LANE))


# --- Dead texts --------------------------------------------------------------------------------------------------


def test_the_dead_letter_of_a_task_holds_its_message_and_the_reason() -> None:
    message = Message("data:export", "1", {"n": 1}, rec=True, schema="s", headers={"traceparent": "t"})
    entry = archived_dead_letter(LANE, message, "SkipRetry: no such tenant", 3, "acme")
    assert (entry.queue, entry.group) == (LANE + "-dlq", "acme")
    assert decode(entry.body) == message
    assert entry.attributes[DEAD] == {"DataType": "Number", "StringValue": "3"}
    assert entry.attributes[REASON] == {"DataType": "String", "StringValue": "SkipRetry: no such tenant"}


def test_the_dead_letter_of_a_large_task_leaves_out_the_payload() -> None:
    message = Message("data:export", "1", {"text": "x" * MAX_MESSAGE_BYTES}, rec=True)
    entry = archived_dead_letter(LANE, message, "why", 0, None)
    assert decode(entry.body) == Message("data:export", "1", None, rec=True)
    assert entry.attributes[REASON]["StringValue"] == "why"


def test_the_dead_letter_of_a_refused_message_is_an_unchanged_copy() -> None:
    came = delivery("nonsense \u00e9", group="acme", attributes={"trace": ("String", "x")})
    entry = refused_dead_letter(came, "MessageError: body: not JSON")
    assert (entry.queue, entry.body, entry.group) == (LANE + "-dlq", "nonsense \u00e9", "acme")
    assert set(entry.attributes) == {DEAD, REASON, "trace"}


def test_dead_letter_attributes_come_before_those_of_the_producer() -> None:
    came = delivery("nonsense", attributes={f"a{number}": ("String", "x") for number in range(10)})
    entry = refused_dead_letter(came, "why")
    assert len(entry.attributes) == 10
    assert {DEAD, REASON} <= set(entry.attributes)


def test_a_new_reason_replaces_the_reason_of_an_earlier_dead_letter() -> None:
    came = delivery("nonsense", attributes={DEAD: ("Number", "2"), REASON: ("String", "before")})
    entry = refused_dead_letter(came, "now")
    assert entry.attributes[REASON]["StringValue"] == "now"
    assert entry.attributes[DEAD]["StringValue"] == "2"


def test_a_full_message_has_no_room_for_dead_letter_attributes() -> None:
    entry = refused_dead_letter(delivery("x" * MAX_MESSAGE_BYTES), "why")
    assert entry.attributes == {}
    assert valid(entry)


texts = st.text(st.characters(codec="utf-8"))
names = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
kinds = st.sampled_from(["String", "Number", "String.uri", "Number.custom"])
attribute_sets = st.dictionaries(
    names | st.sampled_from([DEAD, REASON]), st.tuples(kinds, texts.map(printable)), max_size=10
)
# Sizes near the limit, where one byte decides.
sizes = st.integers(0, 3000).map(lambda below: MAX_MESSAGE_BYTES - below) | st.integers(1, 1000)


@given(sizes, attribute_sets, texts)
@example(MAX_MESSAGE_BYTES, {}, "x")
@example(MAX_MESSAGE_BYTES - 19, {}, "x")
def test_no_dead_letter_exceeds_a_mebibyte_or_ten_attributes(
    size: int, attributes: dict[str, tuple[str, str]], reason: str
) -> None:
    came = delivery("x" * size, attributes=attributes)
    sent = valid(refused_dead_letter(came, reason))
    assert sent["MessageBody"] == came.body
    if size < MAX_MESSAGE_BYTES - 5000:
        assert sent["MessageAttributes"][REASON]["StringValue"]


@given(sizes, texts, st.integers(0, 10**6))
def test_no_dead_letter_of_a_task_exceeds_a_mebibyte(size: int, reason: str, generation: int) -> None:
    message = Message("data:export", "1", {"x": "é" * (size // 2)}, rec=True)
    sent = valid(archived_dead_letter(LANE, message, reason, generation, "acme"))
    assert sent["MessageAttributes"][DEAD]["StringValue"] == str(generation)
    assert sent["MessageAttributes"][REASON]["StringValue"]


@given(sizes, attribute_sets)
def test_a_copy_with_an_id_keeps_within_the_limits_or_does_not_fit(
    size: int, attributes: dict[str, tuple[str, str]]
) -> None:
    body = json.dumps({"type": "a:b", "payload": {"x": ""}}, separators=(",", ":"))
    came = delivery(body.replace('""', '"' + "x" * max(0, size - len(body)) + '"'), attributes=attributes)
    entry = with_id(came, LANE)
    if fits(entry):
        valid(entry)


@given(st.text())
def test_reasons_hold_only_characters_that_an_attribute_allows(text: str) -> None:
    reason = printable(text)
    check({"MessageBody": "x", "MessageAttributes": {"r": {"DataType": "String", "StringValue": reason}}})
    assert 0 < len(reason) <= MAX_REASON


def test_an_empty_reason_becomes_unknown() -> None:
    assert printable("") == "unknown"
    assert printable("a\0b\ud800c\ufffe\n") == "a?b?c?\n"
