"""Dead letters that SQS moved itself. They lack the attribute of the library's own dead letters, and have no reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from joblane.names import Queue, dead_letter_name, lane_name
from joblane.quotas import DEAD_LETTER_RETENTION, MAX_BATCH
from joblane.record.driver.connection import Connection
from joblane.record.row.states import as_read
from joblane.sqs.client import Sqs
from joblane.sqs.depth import queue_depth
from joblane.sqs.message import DEAD_ATTRIBUTE

MAX_RECEIVES = 5
"""The most receives from one queue, each of up to ten messages: enough to find such dead letters, not to count all."""

EXPECTED = f"""
select queue, type, count(*) from joblane.tasks
 where state = 'archived' and not cleared
   and dead_sent_at is not null and dead_sent_at > clock_timestamp() - interval '{DEAD_LETTER_RETENTION.days} days'
 group by queue, type
"""


def unmarked_dead_letters(connection: Connection, sqs: Sqs, prefix: str, names: Iterable[str]) -> dict[str, int]:
    """Count the dead letters without the library's attribute: lane or front door → number, if there are any.

    The messages stay visible to other readers. A queue that holds no more dead letters than the task table explains is
    still read once, because an operator may have removed some of them.

    Raises botocore's errors.
    """
    expected = expected_dead_letters(connection, prefix)
    unmarked = {name: _unmarked(sqs, dead_letter_name(name), expected) for name in names}
    return {name: number for name, number in unmarked.items() if number}


def expected_dead_letters(connection: Connection, prefix: str) -> Counter[str]:
    """Count the dead letters that each dead-letter queue should hold according to the archived rows."""
    expected: Counter[str] = Counter()
    for queue, type_, number in connection.run(EXPECTED):
        expected[dead_letter_name(lane_name(prefix, as_read(Queue, queue), type_))] += number
    return expected


def _unmarked(sqs: Sqs, queue: str, expected: Counter[str]) -> int:
    depth = queue_depth(sqs, queue).waiting
    is_marked: dict[str, bool] = {}
    for _ in range(0 if not depth else MAX_RECEIVES if depth > expected[queue] else 1):
        messages = sqs.client.receive_message(
            QueueUrl=sqs.url(queue),
            MaxNumberOfMessages=MAX_BATCH,
            VisibilityTimeout=0,
            MessageAttributeNames=[DEAD_ATTRIBUTE],
        ).get("Messages", [])
        is_marked |= {
            message["MessageId"]: DEAD_ATTRIBUTE in message.get("MessageAttributes", {}) for message in messages
        }
        if len(is_marked) >= depth:
            break
    return sum(not marked for marked in is_marked.values())
