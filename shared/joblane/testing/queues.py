"""SQS in memory, as far as the library uses it: lanes with delays, visibility, receive counts and dead letters."""

from __future__ import annotations

import itertools
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from joblane.errors import SendError
from joblane.limits import DEAD_LETTER_RETENTION, MAX_ATTRIBUTES, MAX_DELAY_SECONDS, MAX_MESSAGE_BYTES, QUEUE_RETENTION
from joblane.queues import dead_letter_name
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import DEAD_ATTRIBUTE, REASON_ATTRIBUTE, decode
from joblane.testing.clock import Clock
from joblane.testing.errors import KitError

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

DEAD_LETTERS = dead_letter_name("")


@dataclass
class QueuedMessage:
    """A message in a queue. ``seen_at``: when it can be received, in the clock's seconds. ``receipt``: of the last
    receive."""

    entry: Entry
    sent_at: float
    seen_at: float
    message_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    receives: int = 0
    receipt: str = ""

    def record(self, *, receipt: str | None = None) -> dict[str, Any]:
        """As Lambda hands it to a function. Source: Lambda, *Using Lambda with Amazon SQS*, example event."""
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
    """Every queue there is, made by the first send to it. It answers as SQS does, and never reaches AWS."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._queues: defaultdict[str, list[QueuedMessage]] = defaultdict(list)
        self._receipts = itertools.count(1)
        self.sent: list[Entry] = []
        """Every message that was taken, in order."""

    @property
    def client(self) -> SQSClient:
        raise KitError("a test of jobs has no SQS; the library's sends go to queues in memory")

    def url(self, queue: str) -> str:
        return f"memory:{queue}"

    def send(self, entry: Entry) -> str:
        if entry.size > MAX_MESSAGE_BYTES or len(entry.attributes) > MAX_ATTRIBUTES:
            raise SendError(f"{entry.queue}: {entry.size} bytes and {len(entry.attributes)} attributes are too much")
        if not entry.body or not 0 <= entry.delay_seconds <= MAX_DELAY_SECONDS:
            raise SendError(f"{entry.queue}: an empty body, or a delay of {entry.delay_seconds} s")
        now = self._clock.seconds()
        held = QueuedMessage(entry, now, now + entry.delay_seconds)
        self._queues[entry.queue].append(held)
        self.sent.append(entry)
        return held.message_id

    def send_many(self, entries: Sequence[Entry]) -> dict[int, str]:
        failed: dict[int, str] = {}
        for position, entry in enumerate(entries):
            try:
                self.send(entry)
            except SendError as error:
                failed[position] = str(error)
        return failed

    def set_visibility(self, queue: str, receipts: Mapping[str, int]) -> None:
        for held in self._queues[queue]:
            if held.receipt in receipts:
                held.seen_at = self._clock.seconds() + max(0, receipts[held.receipt])

    def receive(self, queue: str, most: int, visibility_seconds: float, max_receives: int) -> list[QueuedMessage]:
        """Messages that can be seen, oldest first, and hide them. Those received too often become dead letters."""
        self._forget_old()
        now = self._clock.seconds()
        seen = [held for held in self._queues[queue] if held.seen_at <= now]
        for held in [held for held in seen if held.receives >= max_receives]:
            self._queues[queue].remove(held)
            self._queues[dead_letter_name(queue)].append(held)
            seen.remove(held)
        for held in seen[:most]:
            self.take(held, visibility_seconds)
        return seen[:most]

    def take(self, held: QueuedMessage, visibility_seconds: float) -> QueuedMessage:
        """Receive this one, seen or not."""
        held.receives += 1
        held.receipt = f"receipt-{next(self._receipts)}"
        held.seen_at = self._clock.seconds() + visibility_seconds
        return held

    def delete(self, held: QueuedMessage) -> None:
        if held in self._queues[held.entry.queue]:
            self._queues[held.entry.queue].remove(held)

    def next_lane(self) -> tuple[str, float] | None:
        """The lane whose message can be seen first, and when. None where all are empty."""
        self._forget_old()
        waiting = [
            (held.seen_at, name)
            for name, queue in self._queues.items()
            if not name.endswith(DEAD_LETTERS)
            for held in queue
        ]
        return min(waiting)[::-1] if waiting else None

    def peek(self, queue: str) -> QueuedMessage:
        return self._queues[queue][0]

    def find(self, task_id: str) -> QueuedMessage | None:
        """The message of a task, which is in some lane."""
        for name, queue in self._queues.items():
            for held in [] if name.endswith(DEAD_LETTERS) else queue:
                if decode(held.entry.body).id == task_id:
                    return held
        return None

    def dead_letters(self, lane: str) -> list[DeadLetter]:
        return [_dead_letter(held.entry) for held in self._queues[dead_letter_name(lane)]]

    def redrive(self, lane: str) -> int:
        """Send a lane's dead letters back to it, as SQS does: with their attributes. Returns how many there were."""
        letters = self._queues.pop(dead_letter_name(lane), [])
        for held in letters:
            self.send(Entry(lane, held.entry.body, group=held.entry.group, attributes=held.entry.attributes))
        return len(letters)

    def _forget_old(self) -> None:
        """Retention ends a message, in whatever state."""
        for name, queue in self._queues.items():
            retention = DEAD_LETTER_RETENTION if name.endswith(DEAD_LETTERS) else QUEUE_RETENTION
            oldest = self._clock.seconds() - retention.total_seconds()
            queue[:] = [held for held in queue if held.sent_at >= oldest]


def _dead_letter(entry: Entry) -> DeadLetter:
    message = decode(entry.body)
    attributes = {name: value.get("StringValue", "") for name, value in entry.attributes.items()}
    reason = attributes.get(REASON_ATTRIBUTE, "received too often")
    return DeadLetter(message.id, message.payload, reason, int(attributes.get(DEAD_ATTRIBUTE, 0)))
