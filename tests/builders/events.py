"""Builds the SQS events that Lambda passes to a function, and invokes workers. Only this module knows their shape."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from joblane.sqs.message import Received
from joblane.worker.invocation import Handle, Invocation

_numbers = itertools.count(1)


def record(
    body: str | Mapping[str, Any],
    queue: str,
    *,
    message_id: str | None = None,
    receives: int = 1,
    sent_at: float | None = None,
    group: str | None = None,
    attributes: Mapping[str, tuple[str, str]] | None = None,
    receipt: str | None = None,
    system: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return a record. ``attributes``: name → (data type, string value). ``system``: SQS's own attributes."""
    number = next(_numbers)
    made_up = {
        "ApproximateReceiveCount": str(receives),
        "SentTimestamp": str(int((sent_at or time.time()) * 1000)),
        "ApproximateFirstReceiveTimestamp": str(int(time.time() * 1000)),
        "SenderId": "AIDAEXAMPLE",
    }
    if group:
        made_up["MessageGroupId"] = group
    return {
        "messageId": message_id or f"00000000-0000-4000-8000-{number:012}",
        "receiptHandle": receipt or f"receipt-{number}",
        "body": body if isinstance(body, str) else json.dumps(body),
        "attributes": dict(system or made_up),
        "messageAttributes": {
            name: {"dataType": kind, "stringValue": value, "stringListValues": [], "binaryListValues": []}
            for name, (kind, value) in (attributes or {}).items()
        },
        "md5OfBody": "0" * 32,
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{queue}",
        "awsRegion": "us-east-1",
    }


def message(do: str, id_: str = "it", number: int = 0, type_: str = "sample:one") -> dict[str, Any]:
    """Return the body of an external message for a sample task. ``do``: the behaviour of its handler."""
    return {"type": type_, "id": id_, "payload": {"do": do, "number": number}}


def event(*records: dict[str, Any]) -> dict[str, Any]:
    return {"Records": list(records)}


def deliveries(records: Iterable[Mapping[str, Any]]) -> list[Received]:
    return [Received.read(each) for each in records]


def invocation(seconds: float = 60.0, id_: str = "11111111-2222-4333-8444-555555555555") -> Invocation:
    """Return an invocation that starts now."""
    return Invocation(id_, seconds)


def invoke(handle: Handle, *records: Mapping[str, Any], seconds: float = 60.0) -> list[str]:
    """Invoke a worker or the router. Return the ids of the messages that stay in the queue."""
    return handle(deliveries(records), invocation(seconds)).kept


@dataclass
class LambdaContext:
    """The attributes of Lambda's context object that the library reads."""

    seconds: float = 60.0
    aws_request_id: str = "11111111-2222-4333-8444-555555555555"
    memory_limit_in_mb: str = "512"
    log_stream_name: str = "stream"
    started: float = field(default_factory=time.monotonic)

    def get_remaining_time_in_millis(self) -> int:
        return int(max(0.0, self.seconds - (time.monotonic() - self.started)) * 1000)
