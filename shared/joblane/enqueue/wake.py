"""Ask for a sweep at once, where rows wait for it to send their messages."""

from __future__ import annotations

import uuid

from joblane.queues import Queue, lane_name
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import Message

SWEEP = "jobs:sweep"
"""The sweep's task type."""


def wake(sqs: Sqs, prefix: str) -> None:
    """Send a message to the sweep. Where SQS does not take it, the next sweep comes by its schedule."""
    message = Message(SWEEP, f"{SWEEP}:woken:{uuid.uuid4()}")
    sqs.send_many([Entry(lane_name(prefix, Queue.LOW, SWEEP), message.encode())])
