"""What an invocation says of its messages at its end: which stay in the queue, and until when they are not seen."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from joblane.limits import MAX_DELAY_SECONDS
from joblane.sqs.received import Received

AWAY_FIRST_SECONDS = 15
AWAY_LONGEST_SECONDS = MAX_DELAY_SECONDS


@dataclass
class Settled:
    """What is said of this invocation's messages at its end. Who is not mentioned is acknowledged."""

    kept: set[str] = field(default_factory=set)
    """SQS message ids that stay in the queue."""
    visibility: dict[str, int] = field(default_factory=dict)
    """Receipt handle → seconds until they are seen again; without an entry, the queue's own timeout."""

    def keep(self, delivery: Received, seconds: int | None = None) -> None:
        self.kept.add(delivery.message_id)
        if seconds is not None:
            self.visibility[delivery.receipt] = seconds

    def answer(self) -> dict[str, list[dict[str, str]]]:
        """The partial batch response. An empty list means that all succeeded."""
        return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in sorted(self.kept)]}


def growing_seconds(receives: int) -> int:
    """Visibility while something is away: 15 s doubling to 15 min, with jitter to spread a backlog's return.

    Source of the longest: RECEIVES_PER_OUTAGE_HOUR receives an hour is what the queue's maxReceiveCount allows for.
    """
    longest: int = min(AWAY_LONGEST_SECONDS, AWAY_FIRST_SECONDS * 2 ** min(receives - 1, 10))
    return longest - random.randint(0, longest // 10 if longest < AWAY_LONGEST_SECONDS else 0)  # noqa: S311
