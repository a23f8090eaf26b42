"""Queues in memory for the storm of limits, in the place of :class:`joblane.sqs.client.Sqs`."""

from __future__ import annotations

import heapq
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from joblane.names import SWEEP, slug_of
from joblane.sqs.client import Entry, Sqs
from tests.builders.events import record

SPEED = 10.0
VISIBILITY_SECONDS = 0.8


@dataclass(slots=True)
class Sent:
    """A message. ``number``: that of its only valid entry in the heap; 0: it has been deleted."""

    queue: str
    body: str
    group: str | None
    attributes: Mapping[str, tuple[str, str]]
    receives: int = 0
    number: int = 0


class Lanes:
    """The queues. ``dead``: the dead letters. ``depth``: the number of other messages, those in flight included, but
    not those of the sweep.

    ``speed``: delays and visibility timeouts are this many times shorter than on SQS. ``visibility``: the seconds after
    which a message comes again whose worker has not answered.
    """

    def __init__(self, speed: float = SPEED, visibility: float = VISIBILITY_SECONDS) -> None:
        self._speed, self._in_flight = speed, visibility
        self.dead: list[Entry] = []
        self.covered: dict[str, tuple[float, float]] = {}
        self.depth = 0
        self._lock = threading.Lock()
        self._heaps: dict[str, list[tuple[float, int, Sent]]] = defaultdict(list)
        self._numbers = count(1)
        self._received: dict[str, tuple[Sent, int]] = {}
        self._visibility: dict[str, float] = {}

    def now(self) -> float:
        return time.time()

    def covers(self, prefix: str) -> bool:
        return Sqs.covers(self, prefix)  # type: ignore[arg-type]

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        for entry in entries:
            if entry.queue.endswith("-dlq"):
                self.dead.append(entry)
            else:
                self.put(entry.queue, entry.body, entry.delay_seconds, entry.group, attributes_of(entry))
        return {}

    def put(
        self,
        queue: str,
        body: str,
        delay: float = 0,
        group: str | None = None,
        attributes: Mapping[str, tuple[str, str]] = {},
    ) -> None:
        with self._lock:
            self.depth += not is_of_sweep(queue)
            self._push(Sent(queue, body, group, attributes), delay / self._speed)

    def _push(self, message: Sent, seconds: float) -> None:
        message.number = next(self._numbers)
        heapq.heappush(self._heaps[message.queue], (time.monotonic() + seconds, message.number, message))

    def set_visibility(self, queue: str, receipts: Mapping[str, int]) -> None:
        self._visibility.update(receipts)

    def receive(self, queue: str, most: int) -> list[dict[str, Any]]:
        """Return records. They come again after the visibility timeout, unless they are answered."""
        records: list[dict[str, Any]] = []
        with self._lock:
            heap, now = self._heaps[queue], time.monotonic()
            while heap and len(records) < most and heap[0][0] <= now:
                _, number, message = heapq.heappop(heap)
                if number != message.number:
                    continue
                message.receives += 1
                made = record(
                    message.body,
                    queue,
                    group=message.group,
                    attributes=message.attributes,
                    receives=message.receives,
                )
                records.append(made)
                self._push(message, self._in_flight)
                self._received[made["receiptHandle"]] = (message, message.number)
        return records

    def answer(self, records: Sequence[dict[str, Any]], kept: Collection[str] = ()) -> None:
        """Delete the messages that are not kept. The others come again as their visibility says."""
        with self._lock:
            for one in records:
                receipt = one["receiptHandle"]
                message, number = self._received.pop(receipt)
                if number != message.number:  # it has come again since
                    continue
                if one["messageId"] in kept:
                    self._push(message, self._visibility.pop(receipt, 0) / self._speed)
                else:
                    message.number = 0
                    self.depth -= not is_of_sweep(message.queue)


def is_of_sweep(queue: str) -> bool:
    return queue.endswith(slug_of(SWEEP))


def attributes_of(entry: Entry) -> dict[str, tuple[str, str]]:
    return {name: (value["DataType"], value["StringValue"]) for name, value in (entry.attributes or {}).items()}
