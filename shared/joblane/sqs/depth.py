"""How many messages SQS queues hold."""

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
    """Messages in one queue, counted approximately. ``in_flight``: in somebody's hand."""

    waiting: int
    in_flight: int
    delayed: int

    @property
    def all(self) -> int:
        return self.waiting + self.in_flight + self.delayed


def queue_depth(sqs: Sqs, queue: str) -> QueueDepth:
    """Raises botocore's errors."""
    found = sqs.client.get_queue_attributes(QueueUrl=sqs.url(queue), AttributeNames=ATTRIBUTES)["Attributes"]
    return QueueDepth(*(int(found[attribute]) for attribute in ATTRIBUTES))


def queue_depth_if_exists(sqs: Sqs, queue: str) -> QueueDepth | None:
    """None where there is no such queue: what is deployed may be older than what is declared here."""
    from botocore.exceptions import ClientError

    try:
        return queue_depth(sqs, queue)
    except ClientError as error:
        if any(name in str(error) for name in NO_SUCH_QUEUE):
            return None
        raise


def side_by_side(sqs: Sqs, ask: Callable[[str], T], queues: Sequence[str]) -> dict[str, T]:
    """What ``ask`` answers for each queue, several at once."""
    assert sqs.client  # made by one thread
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        return dict(zip(queues, threads.map(ask, queues), strict=True))
