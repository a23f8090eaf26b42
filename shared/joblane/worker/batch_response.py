"""The response of an invocation: the messages that stay in the queue, and how long they stay hidden."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from joblane.quotas import MAX_DELAY_SECONDS

if TYPE_CHECKING:
    from joblane.sqs.message import Received

UNAVAILABLE_FIRST_SECONDS = 15
UNAVAILABLE_LONGEST_SECONDS = MAX_DELAY_SECONDS


@dataclass
class BatchResponse:
    """The partial batch response. Lambda deletes every message that is not listed in ``failures``.

    Source: Lambda, *Implementing partial batch responses*.
    """

    failures: list[dict[str, str]] = field(default_factory=list)
    """The messages that stay in the queue, in Lambda's form."""
    visibility: dict[str, int] = field(default_factory=dict)
    """Receipt handle → visibility timeout in seconds. A message without an entry keeps the queue's own timeout."""

    def keep(self, received: Received, seconds: int | None = None) -> None:
        """Leave a message in the queue. ``seconds``: its visibility timeout; None: the queue's own timeout."""
        failure = {"itemIdentifier": received.message_id}
        if failure not in self.failures:
            self.failures.append(failure)
        if seconds is not None:
            self.visibility[received.receipt] = seconds


def growing_seconds(receives: int, first: int = UNAVAILABLE_FIRST_SECONDS) -> int:
    """Return the visibility timeout of a message that waits for the database: ``first`` seconds, doubling to 15 min.

    Jitter spreads out a backlog. The maximum follows from the queue's maxReceiveCount, which allows for
    RECEIVES_PER_OUTAGE_HOUR receives an hour.
    """
    longest: int = min(UNAVAILABLE_LONGEST_SECONDS, first * 2 ** min(receives - 1, 10))
    return longest - random.randint(0, longest // 10 if longest < UNAVAILABLE_LONGEST_SECONDS else 0)  # noqa: S311
