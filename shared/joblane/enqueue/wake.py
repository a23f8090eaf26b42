"""TODO doc."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from joblane.queues import Queue, lane_name
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import Message

if TYPE_CHECKING:
    pass
from joblane.maintenance.sweep import TYPE


def wake(sqs: Sqs, prefix: str) -> None:
    """Ask for a sweep now. Passed over where it cannot be sent: the next one comes by its schedule."""
    message = Message(TYPE, f"{TYPE}:woken:{uuid.uuid4()}")
    sqs.send_many([Entry(lane_name(prefix, Queue.LOW, TYPE), message.encode())])
