"""Dead letters that SQS moved by itself: they lack the mark of those that the library gave up, and say no reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from joblane.limits import DEAD_LETTER_RETENTION, MAX_BATCH
from joblane.queues import Queue, dead_letter_name, lane_name
from joblane.record.connection import Connection
from joblane.sqs.client import Sqs
from joblane.sqs.depth import queue_depth
from joblane.sqs.message import DEAD_ATTRIBUTE

LOOKS = 5
"""Receives at most from one queue, each of ten letters: enough to tell that there are some, not to count them all."""

EXPLAINED = f"""
select queue, type, count(*) from joblane.tasks
 where state = 'archived' and not cleared
   and dead_sent_at > clock_timestamp() - interval '{DEAD_LETTER_RETENTION.days} days'
 group by queue, type
"""


def moved_by_sqs(connection: Connection, sqs: Sqs, prefix: str, names: Iterable[str]) -> dict[str, int]:
    """Name of a lane or front door → letters without a mark in its DLQ, as far as seen; those with none are left out.

    Nothing is taken: what is received stays visible for whoever reads beside it. A queue that holds no more than the
    record explains gets one look all the same, as letters may have been removed by hand.

    Raises botocore's errors.
    """
    expected = explained(connection, prefix)
    found = {name: _unmarked(sqs, dead_letter_name(name), expected) for name in names}
    return {name: number for name, number in found.items() if number}


def explained(connection: Connection, prefix: str) -> Counter[str]:
    """How many letters of archived rows each dead-letter queue should hold."""
    found: Counter[str] = Counter()
    for queue, type_, number in connection.run(EXPLAINED):
        found[dead_letter_name(lane_name(prefix, Queue(queue), type_))] += number
    return found


def _unmarked(sqs: Sqs, queue: str, expected: Counter[str]) -> int:
    depth = queue_depth(sqs, queue).waiting
    seen: dict[str, bool] = {}
    for _ in range(0 if not depth else LOOKS if depth > expected[queue] else 1):
        letters = sqs.client.receive_message(
            QueueUrl=sqs.url(queue),
            MaxNumberOfMessages=MAX_BATCH,
            VisibilityTimeout=0,
            MessageAttributeNames=[DEAD_ATTRIBUTE],
        ).get("Messages", [])
        seen |= {letter["MessageId"]: DEAD_ATTRIBUTE in letter.get("MessageAttributes", {}) for letter in letters}
        if len(seen) >= depth:
            break
    return sum(not marked for marked in seen.values())
