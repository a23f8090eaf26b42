"""The answer of an invocation: the messages that stay in the queue, and until when they are hidden."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from joblane.limits import MAX_DELAY_SECONDS

if TYPE_CHECKING:
    from joblane.sqs.received import Received

UNAVAILABLE_FIRST_SECONDS = 15
UNAVAILABLE_LONGEST_SECONDS = MAX_DELAY_SECONDS


@dataclass
class BatchResponse:
    """A message that is not mentioned here is acknowledged: Lambda deletes it.

    Source: Lambda, *Implementing partial batch responses*.
    """

    failures: list[dict[str, str]] = field(default_factory=list)
    """The messages that stay in the queue, as Lambda reads them."""
    visibility: dict[str, int] = field(default_factory=dict)
    """Receipt handle → seconds until they are seen again; without an entry, the queue's own timeout."""

    def keep(self, received: Received, seconds: int | None = None) -> None:
        """Leave a message in the queue. ``seconds``: hidden for so long; None: for the queue's own timeout."""
        failure = {"itemIdentifier": received.message_id}
        if failure not in self.failures:
            self.failures.append(failure)
        if seconds is not None:
            self.visibility[received.receipt] = seconds


def growing_seconds(receives: int) -> int:
    """Visibility while something is unavailable: 15 s doubling to 15 min, with jitter to spread a backlog's return.

    Source of the longest: RECEIVES_PER_OUTAGE_HOUR receives an hour is what the queue's maxReceiveCount allows for.
    """
    longest: int = min(UNAVAILABLE_LONGEST_SECONDS, UNAVAILABLE_FIRST_SECONDS * 2 ** min(receives - 1, 10))
    return longest - random.randint(0, longest // 10 if longest < UNAVAILABLE_LONGEST_SECONDS else 0)  # noqa: S311
