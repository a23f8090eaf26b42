"""How many messages wait in SQS queues and in their dead-letter queues."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from threading import Event

from joblane.inspector.views import Depth
from joblane.queues import dead_letter_name
from joblane.sqs.client import Sqs
from joblane.sqs.depth import Held, held, side_by_side


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
    every = list(depths)

    def add(name: str) -> int | None:
        numbers = [getattr(depth, name) for depth in every]
        return None if None in numbers else sum(numbers)

    return Depth(**{each.name: add(each.name) for each in fields(Depth)})
