"""A received SQS message: its queue and attributes, and the decoded message or the reason for refusing it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from joblane.errors import MessageError
from joblane.sqs.client import TRACE_ATTRIBUTE, Attributes
from joblane.sqs.message import DEAD_ATTRIBUTE, Message, decode
from joblane.sqs.traceparent import HEADER, caller_of, headers_within


@dataclass(slots=True)
class Received:
    """A received message. ``message`` is None if the body is refused, and ``refusal`` is the reason.

    ``receipt`` is valid for this receive only. ``sent_at``: seconds since 1970. ``dead_generation``: the generation on
    a dead letter, None for any other message. ``group``: the tenant. ``trace``: the trace header.
    """

    message_id: str
    receipt: str
    queue: str
    body: str
    receives: int
    sent_at: float
    group: str | None
    trace: str | None
    attributes: Attributes
    dead_generation: int | None
    message: Message | None
    refusal: str | None

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Received:
        """Read a record of a Lambda event for SQS. It never raises for a message that a producer can send.

        Source of the shape: Lambda, *Using Lambda with Amazon SQS*, example event.
        """
        return cls._of(
            message_id=record["messageId"],
            receipt=record["receiptHandle"],
            queue=record["eventSourceARN"].rpartition(":")[2],
            body=record["body"],
            system=record["attributes"],
            attributes={name: _as_sent(value) for name, value in (record.get("messageAttributes") or {}).items()},
        )

    @classmethod
    def from_receive(
        cls, message: Mapping[str, Any], queue: str, *, read: Callable[[str], Message] = decode
    ) -> Received:
        """Read a message from the response of ReceiveMessage. ``read``: reads its body."""
        return cls._of(
            read=read,
            message_id=message["MessageId"],
            receipt=message["ReceiptHandle"],
            queue=queue,
            body=message["Body"],
            system=message.get("Attributes", {}),
            attributes={
                name: {part: value[part] for part in ("DataType", "StringValue", "BinaryValue") if value.get(part)}
                for name, value in message.get("MessageAttributes", {}).items()
            },
        )

    @classmethod
    def _of(
        cls,
        *,
        message_id: str,
        receipt: str,
        queue: str,
        body: str,
        system: Mapping[str, str],
        attributes: Attributes,
        read: Callable[[str], Message] = decode,
    ) -> Received:
        message, refusal = None, None
        try:
            message = read(body)
            if attributes and not message.rec:
                message = _traced(message, attributes)
        except MessageError as error:
            refusal = str(error)
        return cls(
            message_id=message_id,
            receipt=receipt,
            queue=queue,
            body=body,
            receives=int(system.get("ApproximateReceiveCount", 1)),
            sent_at=int(system.get("SentTimestamp", 0)) / 1000,
            group=system.get("MessageGroupId"),
            trace=system.get(TRACE_ATTRIBUTE),
            attributes=attributes,
            dead_generation=_generation(attributes[DEAD_ATTRIBUTE]) if DEAD_ATTRIBUTE in attributes else None,
            message=message,
            refusal=refusal,
        )


def _traced(message: Message, attributes: Attributes) -> Message:
    """Return an external message with the trace of its attribute in its headers, unless they have a trace already."""
    span = caller_of(attributes.get(HEADER, {}).get("StringValue"))
    return message if span is None else replace(message, headers=headers_within(span, message.headers))


def _as_sent(value: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an attribute from the form of a Lambda event to the form of SendMessage."""
    if value.get("binaryValue") is not None:
        return {"DataType": value["dataType"], "BinaryValue": base64.b64decode(value["binaryValue"])}
    return {"DataType": value["dataType"], "StringValue": value.get("stringValue") or ""}


def _generation(attribute: Mapping[str, Any]) -> int | None:
    text = attribute.get("StringValue", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None
