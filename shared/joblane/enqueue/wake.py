"""The wake-up of the sweep, for rows whose messages it must send."""

from __future__ import annotations

import uuid

from joblane.queues import Queue, lane_name
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import Message

SWEEP = "jobs:sweep"
"""Task type of the sweep."""


def wake(sqs: Sqs, prefix: str) -> None:
    """Start a sweep by a message. If SQS does not accept it, the next scheduled sweep does the work."""
    message = Message(SWEEP, f"{SWEEP}:woken:{uuid.uuid4()}")
    sqs.send_many([Entry(lane_name(prefix, Queue.LOW, SWEEP), message.encode())], brief=True)
