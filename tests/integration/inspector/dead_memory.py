"""Reads 300 large dead letters with 256 MB of memory. A program, because the limit holds for a whole process."""

from __future__ import annotations

import resource
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from joblane.inspector.bulk import dead
from joblane.quotas import MAX_BATCH
from joblane.sqs.client import Sqs

BODIES: tuple[Callable[[int], str], ...] = (
    lambda size: "x" * size,
    lambda size: '{"type":"sample:one","payload":{"a":[' + "0," * (size // 2) + "0]}}",
    lambda size: '{"type":"sample:one","payload":{"a":[' + "{}," * (size // 3) + "0]}}",
)


class Full(Sqs):
    """Queues with a hundred messages of 1 MiB each, made as they are received."""

    def __init__(self) -> None:
        super().__init__()
        self.received: Counter[str] = Counter()

    def receive_many(self, queue: str, visibility_seconds: int, *, wait_seconds: int = 0) -> list[Any]:
        first = self.received[queue]
        self.received[queue] += MAX_BATCH
        body = BODIES[int(queue)]
        return [
            {"MessageId": f"{queue}-{n}", "ReceiptHandle": f"{n}", "Body": body(1_000_000), "Attributes": {}}
            for n in range(first, first + MAX_BATCH)
        ]

    def set_visibility(self, queue: str, receipts: Any) -> None:
        assert len(receipts) == dead.MAX_READ


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (256 * 1024**2, 256 * 1024**2))
    resource.setrlimit(resource.RLIMIT_CPU, (25, 25))
    sqs = Full()
    kept = [dead._sample(sqs, queue, dead.MAX_READ) for queue in "012"]  # all at once, as an inspector holds them
    assert [len(found) for found in kept] == [dead.MAX_READ] * 3
    assert [found[0].message is not None for found in kept] == [False, True, True]
    sys.stdout.write("read")


if __name__ == "__main__":
    main()
