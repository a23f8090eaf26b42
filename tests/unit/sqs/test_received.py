"""Reading a record of a Lambda event: any message is read or refused, and none raises an error."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblane.sqs.dead_letter import unchanged_copy
from joblane.sqs.message import Received
from tests.builders.events import record

LANE = "jobs-low-data-export"


def test_every_field_of_a_record_is_read() -> None:
    raw = record({"type": "data:export", "id": "1"}, LANE, message_id="m", receives=3, sent_at=1000.5, group="acme")
    delivery = Received.read(raw)
    assert (delivery.message_id, delivery.queue, delivery.receives) == ("m", LANE, 3)
    assert (delivery.sent_at, delivery.group, delivery.dead_generation, delivery.refusal) == (
        1000.5,
        "acme",
        None,
        None,
    )
    assert delivery.message is not None
    assert delivery.message.id == "1"
    assert delivery.receipt == raw["receiptHandle"]


def test_an_unreadable_body_is_kept_with_the_reason() -> None:
    delivery = Received.read(record("nonsense", LANE))
    assert delivery.message is None
    assert delivery.refusal is not None
    assert delivery.refusal.startswith("body: not JSON")
    assert delivery.body == "nonsense"


@pytest.mark.parametrize(
    ("text", "generation"),
    [
        ("0", 0),
        ("12", 12),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("x", None),
        ("²", None),
        ("٣", None),
        ("9" * 9, None),
    ],
)
def test_only_a_plain_number_is_the_generation_of_a_dead_letter(text: str, generation: int | None) -> None:
    attributes = {"joblane-dead": ("Number", text)}
    assert Received.read(record({"type": "a:b"}, LANE, attributes=attributes)).dead_generation == generation


def test_attributes_are_read_in_the_form_in_which_they_are_sent() -> None:
    raw = record({"type": "a:b"}, LANE, attributes={"text": ("String.uri", "é"), "joblane-dead": ("Binary", "")})
    binary = {"binaryValue": base64.b64encode(b"\0\1").decode(), "dataType": "Binary.gif", "stringListValues": []}
    raw["messageAttributes"]["raw"] = binary
    raw["messageAttributes"]["joblane-dead"] = binary
    delivery = Received.read(raw)
    assert delivery.attributes["text"] == {"DataType": "String.uri", "StringValue": "é"}
    assert delivery.attributes["raw"] == {"DataType": "Binary.gif", "BinaryValue": b"\0\1"}
    assert delivery.dead_generation is None


def test_a_record_without_attributes_is_read() -> None:
    raw = record({"type": "a:b"}, LANE)
    missing: dict[str, object] | None
    for missing in ({}, None):
        raw["messageAttributes"] = missing
        assert Received.read(raw).attributes == {}


@given(st.text())
def test_any_body_is_read_or_refused(body: str) -> None:
    delivery = Received.read(record(body, LANE))
    assert (delivery.message is None) == (delivery.refusal is not None)


def test_a_message_of_receive_message_is_read_like_a_record_of_an_event() -> None:
    delivery = Received.from_receive(
        {
            "MessageId": "m",
            "ReceiptHandle": "r",
            "Body": '{"type": "data:export", "id": "1"}',
            "Attributes": {"SentTimestamp": "1000500", "ApproximateReceiveCount": "3", "MessageGroupId": "acme"},
            "MessageAttributes": {
                "joblane-dead": {"DataType": "Number", "StringValue": "4"},
                "raw": {"DataType": "Binary", "BinaryValue": b"\x00\x01"},
            },
        },
        LANE,
    )
    assert (delivery.message_id, delivery.receipt, delivery.queue, delivery.receives) == ("m", "r", LANE, 3)
    assert (delivery.sent_at, delivery.group, delivery.dead_generation, delivery.refusal) == (1000.5, "acme", 4, None)
    assert delivery.message is not None
    assert delivery.message.id == "1"
    # the copy is unchanged, except for the attributes of a dead letter
    assert unchanged_copy(delivery, "other").attributes == {"raw": {"DataType": "Binary", "BinaryValue": b"\x00\x01"}}
