"""The messages between `joblane dev` and its processes."""

from __future__ import annotations

from typing import Any

from joblane.local.dev.channel import decoded, encoded
from joblane.local.memory_queues import MemoryQueues
from joblane.sqs.client import Entry
from joblane.sqs.message import Message, Received


def test_a_received_message_with_bytes_reaches_a_process_unchanged() -> None:
    attributes: dict[str, dict[str, Any]] = {
        "bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
        "word": {"DataType": "String", "StringValue": "é"},
    }
    queues = MemoryQueues(lambda: 1_800_000_000.0)
    queues.send(Entry("jobs-default-a-b", Message("a:b", "it").encode(), group="acme", attributes=attributes))
    [queued] = queues.receive("jobs-default-a-b", 1, 60, 10)

    line = encoded({"kind": "invoke", "messages": [queued.parts()]})

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    [parts] = decoded(line)["messages"]
    assert Received.of(**parts) == queued.received()
    assert queued.received().attributes == attributes
    assert queued.received().first_received_at == 1_800_000_000
