"""How many messages wait in SQS queues, asked side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

from shared.jobs.inspector.answers import Depth
from shared.jobs.queues import dead_letter_name
from shared.jobs.sqs import CONNECTIONS

if TYPE_CHECKING:
    from mypy_boto3_sqs.literals import QueueAttributeNameType

    from shared.jobs.sqs import Sqs

ATTRIBUTES: tuple[QueueAttributeNameType, ...] = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)


@dataclass(frozen=True, slots=True)
class Held:
    """Messages in one queue, counted approximately."""

    waiting: int
    in_flight: int
    delayed: int


def held(sqs: Sqs, names: Iterable[str]) -> Mapping[str, Held | None]:
    """What each queue holds; None for one that is not there or does not answer.

    Where SQS cannot be reached the rest is not asked: each would take as long as the first.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    away = Event()

    def ask(name: str) -> Held | None:
        if away.is_set():
            return None
        try:
            answer = sqs.client.get_queue_attributes(QueueUrl=sqs.url(name), AttributeNames=ATTRIBUTES)
        except ClientError:
            return None
        except BotoCoreError:  # no answer at all
            away.set()
            return None
        found = answer["Attributes"]
        return Held(*(int(found[attribute]) for attribute in ATTRIBUTES))

    asked = list(dict.fromkeys(names))
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        return dict(zip(asked, threads.map(ask, asked), strict=True))


def depth_of(found: Mapping[str, Held | None], queue: str) -> Depth:
    """Of a lane or front door, with its dead letters."""
    own, dead = found.get(queue), found.get(dead_letter_name(queue))
    return Depth(
        waiting=own.waiting if own else None,
        in_flight=own.in_flight if own else None,
        delayed=own.delayed if own else None,
        dead=dead.waiting + dead.in_flight + dead.delayed if dead else None,
    )


def total(depths: Iterable[Depth]) -> Depth:
    """Summed; None where any part is not known, as a sum of the others would be too small."""

    def add(numbers: Iterable[int | None]) -> int | None:
        known = list(numbers)
        return None if None in known else sum(number for number in known if number is not None)

    every = list(depths)
    return Depth(
        waiting=add(depth.waiting for depth in every),
        in_flight=add(depth.in_flight for depth in every),
        delayed=add(depth.delayed for depth in every),
        dead=add(depth.dead for depth in every),
    )
