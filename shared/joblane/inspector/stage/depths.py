"""The number of messages in SQS queues and their dead-letter queues."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from threading import Event

from joblane.inspector.views import Depth
from joblane.names import dead_letter_name
from joblane.sqs.client import Sqs
from joblane.sqs.depth import QueueDepth, call_for_queues, queue_depth_if_exists


class Missing:
    """Stands for the depth of a queue that does not exist."""


def depths_by_name(sqs: Sqs, names: Iterable[str]) -> Mapping[str, QueueDepth | Missing | None]:
    """The depth of each queue; None if SQS does not answer for it.

    Once SQS cannot be reached, no further queue is asked for: each request would take as long as the first.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    unavailable = Event()

    def ask(name: str) -> QueueDepth | Missing | None:
        if unavailable.is_set():
            return None
        try:
            return queue_depth_if_exists(sqs, name) or Missing()
        except ClientError:
            return None
        except BotoCoreError:  # no response at all
            unavailable.set()
            return None

    return call_for_queues(sqs, ask, list(dict.fromkeys(names)))


def depth_of(found: Mapping[str, QueueDepth | Missing | None], queue: str) -> Depth:
    """The depth of a lane or front door, with its dead letters."""
    names = (queue, dead_letter_name(queue))
    own, dead = (each if isinstance(each := found.get(name), QueueDepth) else None for name in names)
    return Depth(
        waiting=own.waiting if own else None,
        in_flight=own.in_flight if own else None,
        delayed=own.delayed if own else None,
        dead=dead.all if dead else None,
        missing=tuple(name for name in names if isinstance(found.get(name), Missing)),
    )


def total(depths: Iterable[Depth]) -> Depth:
    """The sum of depths. A number is None if it is not known for all parts: the sum of the rest would be too small."""
    every = list(depths)

    def add(name: str) -> int | None:
        numbers = [getattr(depth, name) for depth in every]
        return None if None in numbers else sum(numbers)

    missing = tuple(name for depth in every for name in depth.missing)
    return Depth(**{each.name: add(each.name) for each in fields(Depth) if each.name != "missing"}, missing=missing)
