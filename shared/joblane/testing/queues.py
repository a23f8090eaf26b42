"""SQS in memory: lanes with delays, visibility timeouts, receive counts and dead letters."""

from __future__ import annotations

import itertools
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from joblane.enqueue.wake import WOKEN
from joblane.errors import SendError
from joblane.limits import DEAD_LETTER_RETENTION, MAX_ATTRIBUTES, MAX_DELAY_SECONDS, MAX_MESSAGE_BYTES, QUEUE_RETENTION
from joblane.queues import dead_letter_name
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.depth import ATTRIBUTES
from joblane.sqs.message import DEAD_ATTRIBUTE, REASON_ATTRIBUTE, decode
from joblane.testing.clock import Clock

DEAD_LETTERS = dead_letter_name("")


@dataclass
class QueuedMessage:
    """A message in a queue. ``visible_at``: the clock's seconds from which it can be received. ``receipt``: the receipt
    handle of the last receive."""

    entry: Entry
    sent_at: float
    visible_at: float
    message_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    receives: int = 0
    receipt: str = ""

    def record(self, *, receipt: str | None = None) -> dict[str, Any]:
        """Return a record of a Lambda event. Source: Lambda, *Using Lambda with Amazon SQS*, example event."""
        system = {"ApproximateReceiveCount": str(self.receives), "SentTimestamp": str(int(self.sent_at * 1000))}
        if self.entry.group:
            system["MessageGroupId"] = self.entry.group
        return {
            "messageId": self.message_id,
            "receiptHandle": self.receipt if receipt is None else receipt,
            "body": self.entry.body,
            "attributes": system,
            "messageAttributes": {
                name: {"dataType": value["DataType"], "stringValue": value.get("StringValue")}
                for name, value in self.entry.attributes.items()
            },
            "eventSource": "aws:sqs",
            "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{self.entry.queue}",
            "awsRegion": "us-east-1",
        }


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter."""

    id: str | None
    """Id of the task. None: the message had none."""
    payload: Mapping[str, Any] | None
    """Payload. None: only the row has it."""
    reason: str
    """Reason why the task was archived, or the message refused."""
    generation: int
    """Generation of the task when it was archived."""


class MemoryQueues(Sqs):
    """All queues, each created by the first send to it. They behave like SQS and never reach AWS."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._queues: defaultdict[str, list[QueuedMessage]] = defaultdict(list)
        self._receipts = itertools.count(1)
        self.sent: list[Entry] = []
        """All accepted messages, in order."""

    def url(self, queue: str) -> str:
        return f"memory:{queue}"

    def attributes(self, queue: str, names: Sequence[str]) -> Mapping[str, str]:
        self._forget_old()
        now = self._clock.seconds()
        hidden = [message for message in self._queues[queue] if message.visible_at > now]
        delayed = sum(not message.receives for message in hidden)
        counts = (len(self._queues[queue]) - len(hidden), len(hidden) - delayed, delayed)
        return dict(zip(ATTRIBUTES, map(str, counts), strict=True))

    def send(self, entry: Entry, *, sent_at: float = 0.0) -> str:
        """``sent_at``: the time in the message, if it is later than now, as for a tick of a later time."""
        if entry.size > MAX_MESSAGE_BYTES or len(entry.attributes) > MAX_ATTRIBUTES:
            raise SendError(f"{entry.queue}: {entry.size} bytes and {len(entry.attributes)} attributes are too much")
        if not entry.body or not 0 <= entry.delay_seconds <= MAX_DELAY_SECONDS:
            raise SendError(f"{entry.queue}: the body is empty, or the delay of {entry.delay_seconds} s is not allowed")
        now = self._clock.seconds()
        message = QueuedMessage(entry, max(now, sent_at), now + entry.delay_seconds)
        self._queues[entry.queue].append(message)
        self.sent.append(entry)
        return message.message_id

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        failed: dict[int, str] = {}
        for position, entry in enumerate(entries):
            if WOKEN in entry.body and (decode(entry.body).id or "").startswith(WOKEN):
                continue  # each drain sweeps
            try:
                self.send(entry)
            except SendError as error:
                failed[position] = str(error)
        return failed

    def set_visibility(self, queue: str, receipts: Mapping[str, int]) -> None:
        for message in self._queues[queue]:
            if message.receipt in receipts:
                message.visible_at = self._clock.seconds() + max(0, receipts[message.receipt])

    def receive(self, queue: str, most: int, visibility_seconds: float, max_receives: int) -> list[QueuedMessage]:
        """Receive and hide the visible messages, oldest first.

        A message that was received too often is a dead letter.
        """
        self._forget_old()
        now = self._clock.seconds()
        visible = [message for message in self._queues[queue] if message.visible_at <= now]
        for message in [message for message in visible if message.receives >= max_receives]:
            self._queues[queue].remove(message)
            self._queues[dead_letter_name(queue)].append(message)
            visible.remove(message)
        for message in visible[:most]:
            self.take(message, visibility_seconds)
        return visible[:most]

    def take(self, message: QueuedMessage, visibility_seconds: float) -> QueuedMessage:
        """Receive a message, even if it is hidden."""
        message.receives += 1
        message.receipt = f"receipt-{next(self._receipts)}"
        message.visible_at = self._clock.seconds() + visibility_seconds
        return message

    def delete(self, message: QueuedMessage) -> None:
        if message in self._queues[message.entry.queue]:
            self._queues[message.entry.queue].remove(message)

    def next_lane(self) -> tuple[str, float] | None:
        """Return the lane with the message that is visible first, and that time; None if all lanes are empty."""
        self._forget_old()
        waiting = [
            (message.visible_at, name)
            for name, queue in self._queues.items()
            if not name.endswith(DEAD_LETTERS)
            for message in queue
        ]
        return min(waiting)[::-1] if waiting else None

    def peek(self, queue: str) -> QueuedMessage:
        return self._queues[queue][0]

    def find(self, task_id: str) -> QueuedMessage | None:
        """Return the message of a task, in any lane."""
        for name, queue in self._queues.items():
            for message in [] if name.endswith(DEAD_LETTERS) else queue:
                if decode(message.entry.body).id == task_id:
                    return message
        return None

    def dead_letters(self, lane: str) -> list[DeadLetter]:
        return [_dead_letter(message.entry) for message in self._queues[dead_letter_name(lane)]]

    def redrive(self, lane: str) -> int:
        """Send a lane's dead letters back to it with their attributes, as SQS does. Return their number."""
        dead_letters = self._queues.pop(dead_letter_name(lane), [])
        for message in dead_letters:
            self.send(Entry(lane, message.entry.body, group=message.entry.group, attributes=message.entry.attributes))
        return len(dead_letters)

    def _forget_old(self) -> None:
        """Delete the messages whose retention has ended, also hidden ones."""
        for name, queue in self._queues.items():
            retention = DEAD_LETTER_RETENTION if name.endswith(DEAD_LETTERS) else QUEUE_RETENTION
            oldest = self._clock.seconds() - retention.total_seconds()
            queue[:] = [message for message in queue if message.sent_at >= oldest]


def _dead_letter(entry: Entry) -> DeadLetter:
    message = decode(entry.body)
    attributes = {name: value.get("StringValue", "") for name, value in entry.attributes.items()}
    reason = attributes.get(REASON_ATTRIBUTE, "received too often")
    return DeadLetter(message.id, message.payload, reason, int(attributes.get(DEAD_ATTRIBUTE, 0)))
