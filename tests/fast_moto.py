"""Makes moto's queues fast. To send a message, moto counts all messages of the queue, and reads the clock for each."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

from moto.core import responses, utils
from moto.sqs import models
from moto.sqs.models import Message, Queue


def accelerate() -> None:
    """Replace the clock, the counts of messages and the conversion of names by equal ones."""
    convert = cache(utils.camelcase_to_underscores)
    replacements: list[tuple[Any, str, Any]] = [
        (models, "unix_time", time.time),
        (models, "unix_time_millis", _now),
        (models, "camelcase_to_underscores", convert),
        (responses, "camelcase_to_underscores", convert),
        (Queue, "messages", property(_messages)),
        (Queue, "approximate_number_of_messages_delayed", property(_delayed)),
        (Queue, "approximate_number_of_messages_not_visible", property(_not_visible)),
    ]
    for owner, name, replacement in replacements:
        setattr(owner, name, replacement)


def _now() -> float:
    return time.time() * 1000


def _messages(queue: Queue) -> list[Message]:
    now = _now()
    return [message for message in queue._messages if message.visible_at < now and message.delayed_until <= now]


def _delayed(queue: Queue) -> int:
    now = _now()
    return sum(now < message.delayed_until for message in queue._messages)


def _not_visible(queue: Queue) -> int:
    now = _now()
    return sum(now <= message.visible_at for message in queue._messages)
