"""How many messages wait in SQS queues and in their dead-letter queues."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from threading import Event
from typing import TYPE_CHECKING

from joblane.inspector.views import Depth
from joblane.queues import dead_letter_name
from joblane.sqs.depth import Held, held, side_by_side

if TYPE_CHECKING:
    from joblane.sqs.client import Sqs


def held_by(sqs: Sqs, names: Iterable[str]) -> Mapping[str, Held | None]:
    """What each queue holds; None for one that is not there or does not answer.

    Where SQS cannot be reached the rest is not asked: each would take as long as the first.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    away = Event()

    def ask(name: str) -> Held | None:
        if away.is_set():
            return None
        try:
            return held(sqs, name)
        except ClientError:
            return None
        except BotoCoreError:  # no answer at all
            away.set()
            return None

    return side_by_side(sqs, ask, list(dict.fromkeys(names)))


def depth_of(found: Mapping[str, Held | None], queue: str) -> Depth:
    """Of a lane or front door, with its dead letters."""
    own, dead = found.get(queue), found.get(dead_letter_name(queue))
    return Depth(
        waiting=own.waiting if own else None,
        in_flight=own.in_flight if own else None,
        delayed=own.delayed if own else None,
        dead=dead.all if dead else None,
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
