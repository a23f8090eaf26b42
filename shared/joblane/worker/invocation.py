"""An invocation: how long its process may run, and its response, the messages that stay in the queue.

A function on AWS, ``joblane dev`` and the test kit invoke a worker in the same way, with received messages.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from joblane.quotas import MAX_DELAY_SECONDS
from joblane.sqs.message import Received
from joblane.tasks.event_kinds import OBSERVERS

UNAVAILABLE_FIRST_SECONDS = 15
UNAVAILABLE_LONGEST_SECONDS = MAX_DELAY_SECONDS


class Invocation:
    """An invocation that starts now, for any host of workers.

    ``id_``: the ``request_id`` of its runs. ``seconds``: the time after which the host kills the process.
    """

    __slots__ = ("ends", "id", "is_shared")

    def __init__(self, id_: str, seconds: float) -> None:
        self.id = id_
        self.ends = time.monotonic() + seconds
        """The time of the kill, a value of ``time.monotonic()``."""
        self.is_shared = False
        """True if it has messages of several types: each worker handles some of them."""


@dataclass
class BatchResponse:
    """The messages that stay in the queue. The host deletes every other message of the invocation."""

    kept: list[str] = field(default_factory=list)
    """The SQS ids of these messages."""
    visibility: dict[str, int] = field(default_factory=dict)
    """Receipt handle → visibility timeout in seconds. A message without an entry keeps the queue's own timeout."""

    def keep(self, received: Received, seconds: int | None = None) -> None:
        """Leave a message in the queue. ``seconds``: its visibility timeout; None: the queue's own timeout."""
        if received.message_id not in self.kept:
            self.kept.append(received.message_id)
        if seconds is not None:
            self.visibility[received.receipt] = seconds


Handle = Callable[[Sequence[Received], Invocation], BatchResponse]
"""Handles the messages of an invocation, as workers and the router do, and sets their visibility timeouts."""


def lambda_handler(handle: Handle) -> Callable[[Mapping[str, Any], Any], dict[str, list[dict[str, str]]]]:
    """Return the handler of a Lambda function: an SQS event in, a partial batch response out.

    Source: Lambda, *Implementing partial batch responses*, and *Using the Lambda context object to retrieve Python
    function information*.
    """

    def handler(event: Mapping[str, Any], context: Any) -> dict[str, list[dict[str, str]]]:
        invocation = Invocation(context.aws_request_id, context.get_remaining_time_in_millis() / 1000)
        response = handle([Received.read(record) for record in event["Records"]], invocation)
        if OBSERVERS:
            from joblane.worker.flush import flush

            flush(invocation.ends)
        return {"batchItemFailures": [{"itemIdentifier": id_} for id_ in response.kept]}

    return handler


def growing_seconds(receives: int, first: int = UNAVAILABLE_FIRST_SECONDS) -> int:
    """Return the visibility timeout of a message that waits for the database: ``first`` seconds, doubling to 15 min.

    Jitter spreads out a backlog. The maximum follows from the queue's maxReceiveCount, which allows for
    RECEIVES_PER_OUTAGE_HOUR receives an hour.
    """
    longest: int = min(UNAVAILABLE_LONGEST_SECONDS, first * 2 ** min(receives - 1, 10))
    return longest - random.randint(0, longest // 10 if longest < UNAVAILABLE_LONGEST_SECONDS else 0)  # noqa: S311
