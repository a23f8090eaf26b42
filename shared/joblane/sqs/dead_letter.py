"""Forwarded messages: dead letters, and copies of external messages that get an id.

The sender acknowledges the original message only after the forwarded one was sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from joblane import telemetry
from joblane.names import dead_letter_name
from joblane.quotas import MAX_ATTRIBUTES, MAX_MESSAGE_BYTES
from joblane.sqs.client import Entry, attribute_size
from joblane.sqs.message import DEAD_ATTRIBUTE, REASON_ATTRIBUTE, Attributes, Message

if TYPE_CHECKING:
    from joblane.sqs.message import Received

MAX_REASON = 1000
"""The most characters of a reason."""
NO_ROOM = (
    "MessageError: body: an external message without an id needs room for one; stay 1 KiB below SQS's limit of "
    f"{MAX_MESSAGE_BYTES} bytes, or send an id"
)

TRACE = re.compile(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24}(;[A-Za-z]+=[\w:|-]{1,500}){0,10}", re.ASCII)
"""The form of a trace header. SQS may refuse another one. Source: AWS X-Ray, *Tracing header*."""


def with_id(delivery: Received, queue: str) -> Entry:
    """Return a copy of the message for ``queue``, with its SQS message id as task id if it has no id.

    The id must be in the body, because a redrive changes the SQS message id, and the task would then run twice. The
    copy stays in the chain of the message, and not in the one of an invocation with other messages.
    """
    message = delivery.message
    assert message is not None
    body = replace(message, id=message.id or delivery.message_id).encode()
    attributes = _within(body, {}, delivery.attributes)
    trace = delivery.trace if TRACE.fullmatch(delivery.trace or "") else None
    return Entry(queue, body, group=delivery.group, attributes=attributes, trace=trace)


def unchanged_copy(delivery: Received, queue: str) -> Entry:
    """Return a copy of the message for ``queue``, without the attributes of a dead letter."""
    attributes = _within(delivery.body, {}, delivery.attributes)
    return Entry(queue, delivery.body, group=delivery.group, attributes=attributes)


def fits(entry: Entry) -> bool:
    return entry.size <= MAX_MESSAGE_BYTES


def archived_dead_letter(queue: str, message: Message, reason: str, generation: int, group: str | None) -> Entry:
    """Return the dead letter of a task.

    Without room for the attributes, it omits the payload, which the row has too.
    """
    added = _dead_attributes(reason, generation)
    body = message.encode()
    if not fits(Entry(queue, body, attributes=added)):
        body = replace(message, payload=None).encode()
    return Entry(dead_letter_name(queue), body, group=group, attributes=_within(body, added, {}))


def refused_dead_letter(delivery: Received, reason: str) -> Entry:
    """Return the dead letter of a message without a row: its unchanged body and attributes.

    The reason is logged as well, because a body near SQS's limit leaves no room for more attributes.
    """
    telemetry.logger().warning(
        "message refused; it becomes a dead letter",
        extra={"reason": reason, "message_id": delivery.message_id, "queue": delivery.queue},
    )
    added = _dead_attributes(reason, delivery.dead_generation or 0)
    attributes = _within(delivery.body, added, delivery.attributes)
    return Entry(dead_letter_name(delivery.queue), delivery.body, group=delivery.group, attributes=attributes)


def _dead_attributes(reason: str, generation: int) -> dict[str, Mapping[str, Any]]:
    return {
        DEAD_ATTRIBUTE: {"DataType": "Number", "StringValue": str(generation)},
        REASON_ATTRIBUTE: {"DataType": "String", "StringValue": printable(reason)},
    }


def _within(body: str, added: Attributes, others: Attributes) -> dict[str, Mapping[str, Any]]:
    """Return the attributes for which ``body`` leaves room, ``added`` first.

    Those of an earlier dead letter are removed.
    """
    room = MAX_MESSAGE_BYTES - Entry("", body).size
    kept: dict[str, Mapping[str, Any]] = {}
    others = {name: value for name, value in others.items() if name not in (DEAD_ATTRIBUTE, REASON_ATTRIBUTE)}
    for name, value in {**added, **others}.items():
        size = attribute_size(name, value)
        if size <= room and len(kept) < MAX_ATTRIBUTES:
            kept[name] = value
            room -= size
    return kept


def printable(text: str) -> str:
    """Return ``text`` as an attribute value: without control characters, not empty, at most 1,000 characters."""
    allowed = "".join(character if _is_allowed(character) else "?" for character in text[:MAX_REASON])
    return allowed or "unknown"


def _is_allowed(character: str) -> bool:
    """Source: SendMessage, SQS API reference: #x9 | #xA | #xD | #x20-#xD7FF | #xE000-#xFFFD | #x10000-#x10FFFF."""
    code = ord(character)
    return code in (0x9, 0xA, 0xD) or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000
