"""The messages of SQS's API: checked as SQS does, and with the digests that SDKs verify."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Mapping
from typing import Any

from joblane.local.memory_queues import QueuedMessage
from joblane.quotas import MAX_ATTRIBUTES, MAX_DELAY_SECONDS, MAX_MESSAGE_BYTES
from joblane.sqs.client import Entry
from joblane.sqs.message import TRACE_ATTRIBUTE, Attributes

ALLOWED = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
"""Source: SendMessage, SQS API reference."""
ATTRIBUTE_NAME = re.compile(r"(?!\.)(?!.*\.\.)(?!.*\.$)[A-Za-z0-9_.-]{1,256}")
GROUP = re.compile(r"[!-~]{1,128}")
DATA_TYPE = re.compile(r"(String|Number|Binary)(\..+)?")


class AwsError(Exception):
    """An error of AWS's API: its code, text and HTTP status."""

    def __init__(self, code: str, text: str, status: int = 400) -> None:
        super().__init__(f"{code}: {text}")
        self.code, self.text, self.status = code, text, status


def checked_entry(queue: str, given: Mapping[str, Any], *, whole: bool = True) -> Entry:
    """Return the message of a request. Raises :class:`AwsError`. ``whole=False``: only the parts that have a size."""
    body = given.get("MessageBody")
    attributes = _attributes(given.get("MessageAttributes") or {}, whole=whole)
    system = (given.get("MessageSystemAttributes") or {}).get(TRACE_ATTRIBUTE) or {}
    trace = system.get("StringValue")
    if not isinstance(trace, str | None):
        raise AwsError("SerializationException", f"The system attribute '{TRACE_ATTRIBUTE}' needs a StringValue.")
    entry = Entry(
        queue, body if isinstance(body, str) else "", attributes=attributes, keeps_chain=not trace, trace=trace
    )
    if not whole:
        return entry
    if not entry.body:
        raise AwsError("MissingParameter", "The request must contain the parameter MessageBody.")
    if not ALLOWED.fullmatch(entry.body):
        text = "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to"
        raise AwsError("InvalidMessageContents", f"{text} #xFFFD | #x10000 to #x10FFFF")
    if entry.size > MAX_MESSAGE_BYTES:
        raise _invalid(f"Message must be shorter than {MAX_MESSAGE_BYTES} bytes.")
    if len(attributes) > MAX_ATTRIBUTES:
        raise _invalid(
            f"Number of message attributes [{len(attributes)}] exceeds the allowed maximum [{MAX_ATTRIBUTES}]."
        )
    entry.delay_seconds = whole_number(given, "DelaySeconds", 0, MAX_DELAY_SECONDS, 0) or 0
    entry.group = given.get("MessageGroupId")
    if entry.group is not None and not (isinstance(entry.group, str) and GROUP.fullmatch(entry.group)):
        raise _invalid("MessageGroupId can only include alphanumeric and punctuation characters. 1 to 128 in length.")
    if given.get("MessageDeduplicationId") is not None:
        raise _invalid("The request includes a parameter that is not valid for this queue type.")
    return entry


def _attributes(given: Mapping[str, Any], *, whole: bool) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        kind = str(value.get("DataType") or "") if isinstance(value, Mapping) else ""
        key = "BinaryValue" if kind.startswith("Binary") else "StringValue"
        content = value.get(key) if isinstance(value, Mapping) else None
        if whole and not (ATTRIBUTE_NAME.fullmatch(name) and DATA_TYPE.fullmatch(kind) and isinstance(content, str)):
            raise _invalid(f"The message attribute '{name}' needs a valid name, a DataType, and a {key}.")
        if whole and not content:
            raise _invalid(f"Message (user) attribute '{name}' must contain a non-empty value of type '{kind}'.")
        try:
            known = base64.b64decode(content or "") if key == "BinaryValue" else content or ""
        except (binascii.Error, ValueError):
            raise AwsError("SerializationException", f"The attribute '{name}' is not in base 64.") from None
        found[name] = {"DataType": kind, key: known}
    return found


def whole_number(given: Mapping[str, Any], name: str, low: int, high: int, default: int | None) -> int | None:
    """Return a number of a request, or ``default`` if it has none. Raises :class:`AwsError` outside of the range."""
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or not low <= value <= high:
        raise AwsError(
            "InvalidParameterValue",
            f"Value {value} for parameter {name} is invalid. Reason: Must be between {low} and {high}, if provided.",
        )
    return value


def received(message: QueuedMessage, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message in the form of ReceiveMessage, with the attributes that the request names."""
    answer: dict[str, Any] = {
        "MessageId": message.message_id,
        "ReceiptHandle": message.receipt,
        "Body": message.entry.body,
        "MD5OfBody": md5_of(message.entry.body),
    }
    wanted = {*(given.get("AttributeNames") or ()), *(given.get("MessageSystemAttributeNames") or ())}
    system = {
        **message.system_attributes,
        "ApproximateFirstReceiveTimestamp": str(int(message.first_received_at * 1000)),
        "SenderId": "AIDAJOBLANEDEV",
    }
    if chosen := {name: value for name, value in system.items() if name in wanted or "All" in wanted}:
        answer["Attributes"] = chosen
    names = [str(name) for name in given.get("MessageAttributeNames") or ()]
    own = {name: value for name, value in message.entry.attributes.items() if _is_named(name, names)}
    if own:
        answer["MessageAttributes"] = {name: _as_json(value) for name, value in own.items()}
        answer["MD5OfMessageAttributes"] = md5_of_attributes(own)
    return answer


def _is_named(name: str, names: list[str]) -> bool:
    """Source: ReceiveMessage, SQS API reference, on ``All``, ``.*`` and ``prefix.*``."""
    return any(one in ("All", ".*", name) or (one.endswith(".*") and name.startswith(one[:-1])) for one in names)


def _as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    if "BinaryValue" in value:
        return {"DataType": value["DataType"], "BinaryValue": base64.b64encode(value["BinaryValue"]).decode()}
    return dict(value)


def md5_of(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def md5_of_attributes(attributes: Attributes) -> str:
    """Return the digest that SDKs verify. Source: SQS, *Amazon SQS message metadata*, on the calculation of it."""
    digest = hashlib.md5(usedforsecurity=False)
    for name, value in sorted(attributes.items()):
        is_binary = value.get("BinaryValue") is not None
        content = value["BinaryValue"] if is_binary else value["StringValue"].encode()
        for part in (name.encode(), value["DataType"].encode()):
            digest.update(struct.pack("!I", len(part)) + part)
        digest.update(bytes([2 if is_binary else 1]) + struct.pack("!I", len(content)) + content)
    return digest.hexdigest()


def _invalid(reason: str) -> AwsError:
    return AwsError("InvalidParameterValue", f"One or more parameters are invalid. Reason: {reason}")
