"""The number of messages in SQS queues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from joblane.sqs.client import CONNECTIONS, NO_SUCH_QUEUE, Sqs

if TYPE_CHECKING:
    from mypy_boto3_sqs.literals import QueueAttributeNameType

T = TypeVar("T")
ATTRIBUTES: tuple[QueueAttributeNameType, ...] = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """The approximate number of messages in one queue. ``in_flight``: received and not deleted yet."""

    waiting: int
    in_flight: int
    delayed: int

    @property
    def all(self) -> int:
        return self.waiting + self.in_flight + self.delayed


def queue_depth(sqs: Sqs, queue: str) -> QueueDepth:
    """Return the depth of a queue. Raises botocore's errors."""
    counts = sqs.attributes(queue, ATTRIBUTES)
    return QueueDepth(*(int(counts[attribute]) for attribute in ATTRIBUTES))


def queue_depth_if_exists(sqs: Sqs, queue: str) -> QueueDepth | None:
    """Return the depth of a queue, or None if it does not exist: the deployed code may be older than this code."""
    from botocore.exceptions import ClientError

    try:
        return queue_depth(sqs, queue)
    except ClientError as error:
        if any(name in str(error) for name in NO_SUCH_QUEUE):
            return None
        raise


def call_for_queues(sqs: Sqs, call: Callable[[str], T], queues: Sequence[str]) -> dict[str, T]:
    """Return the result of ``call`` for each queue, with several calls at once.

    The first call is alone: it creates the client, and the requests of the others are copies of its request.
    """
    assert sqs.client
    found = {queue: call(queue) for queue in queues[:1]}
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        return found | dict(zip(queues[1:], threads.map(call, queues[1:]), strict=True))
