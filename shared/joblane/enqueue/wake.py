"""The wake-up of the sweep, for rows whose messages it must send."""

from __future__ import annotations

import math
import time

from joblane.queues import Queue, lane_name
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import Message

SWEEP = "jobs:sweep"
"""Task type of the sweep."""
WOKEN = f"{SWEEP}:woken:"
"""The beginning of the id of a sweep that was woken."""
SHARED_SECONDS = 5
"""All wake-ups within an interval of this many seconds start one sweep, at its end."""


def wake(sqs: Sqs, prefix: str) -> None:
    """Start a sweep by a message, within five seconds. If SQS does not accept it, the next scheduled sweep does the
    work."""
    now = time.time()
    ends = (math.floor(now / SHARED_SECONDS) + 1) * SHARED_SECONDS
    message = Message(SWEEP, f"{WOKEN}{ends}")
    sqs.send_many([Entry(lane_name(prefix, Queue.LOW, SWEEP), message.encode(), math.ceil(ends - now))], brief=True)
