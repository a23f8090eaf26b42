"""The messages that are sent to SQS: each send is recorded and checked against SQS's limits.

moto checks only bodies. SQS also counts attributes, refuses an eleventh attribute, and refuses characters that XML
lacks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from joblane.enqueue.wake import AFTER_COMMIT
from joblane.quotas import MAX_ATTRIBUTES, MAX_BATCH, MAX_MESSAGE_BYTES
from joblane.sqs.client import Sqs

REFUSED = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Source: SendMessage, SQS API reference."""
NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass
class Sends:
    """Every sent message in order, as ``(queue, entry)``, and the number of requests; both without the wake-ups that
    precede a commit."""

    messages: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    requests: int = 0

    @classmethod
    def of(cls, sqs: Sqs) -> Sends:
        sends = cls()
        for client in (sqs.client, sqs.brief_client):
            client.meta.events.register("provide-client-params.sqs.SendMessage", sends._single)
            client.meta.events.register("provide-client-params.sqs.SendMessageBatch", sends._batch)
        return sends

    def to(self, queue: str) -> list[Mapping[str, Any]]:
        """Return the entries that were sent to a queue."""
        return [entry for name, entry in self.messages if name == queue]

    def delays(self, queue: str) -> list[int]:
        return [entry.get("DelaySeconds", 0) for entry in self.to(queue)]

    def clear(self) -> None:
        self.messages.clear()
        self.requests = 0

    def _single(self, params: Mapping[str, Any], **_: Any) -> None:
        self._take(params["QueueUrl"], [params])

    def _batch(self, params: Mapping[str, Any], **_: Any) -> None:
        entries = params["Entries"]
        assert 1 <= len(entries) <= MAX_BATCH
        assert len({entry["Id"] for entry in entries}) == len(entries)
        self._take(params["QueueUrl"], entries)

    def _take(self, url: str, entries: list[Mapping[str, Any]]) -> None:
        assert sum(size_of(entry) for entry in entries) <= MAX_MESSAGE_BYTES
        for entry in entries:
            check(entry)
        if is_before_commit(entries[0]["MessageBody"]):
            return
        self.requests += 1
        self.messages += [(url.rpartition("/")[2], entry) for entry in entries]


def is_before_commit(body: str) -> bool:
    """True for a wake-up of the sweep: the first write of a test sends it, whatever its subject."""
    return f'"id":"{AFTER_COMMIT}' in body


def check(entry: Mapping[str, Any]) -> None:
    """Assert SQS's limits for one message."""
    attributes = entry.get("MessageAttributes", {})
    assert len(attributes) <= MAX_ATTRIBUTES
    assert entry["MessageBody"]
    assert not REFUSED.search(entry["MessageBody"])
    assert 0 <= entry.get("DelaySeconds", 0) <= 900
    for name, value in attributes.items():
        assert NAME.fullmatch(name)
        assert len(name) <= 256
        if "BinaryValue" in value:
            assert value["BinaryValue"]
        else:
            assert value["StringValue"]
            assert not REFUSED.search(value["StringValue"])


def size_of(entry: Mapping[str, Any]) -> int:
    """Bytes that count: the body, and names, types and values of attributes. Source: SQS message quotas."""
    size = len(entry["MessageBody"].encode())
    for name, value in entry.get("MessageAttributes", {}).items():
        content = value["BinaryValue"] if "BinaryValue" in value else value["StringValue"].encode()
        size += len(name.encode()) + len(value["DataType"].encode()) + len(content)
    return size
