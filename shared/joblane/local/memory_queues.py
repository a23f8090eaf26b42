"""SQS in memory, with delays, visibility timeouts, receive counts and dead letters."""

from __future__ import annotations

import itertools
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from joblane.errors import SendError
from joblane.names import dead_letter_name
from joblane.quotas import DEAD_LETTER_RETENTION, MAX_ATTRIBUTES, MAX_DELAY_SECONDS, MAX_MESSAGE_BYTES, QUEUE_RETENTION
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.depth import ATTRIBUTES
from joblane.sqs.message import TRACE_ATTRIBUTE, Received

DEAD_LETTERS = dead_letter_name("")
"""The end of the names of dead-letter queues."""


@dataclass(eq=False)
class QueuedMessage:
    """A message in a queue. ``visible_at``: the time, in seconds since 1970, from which it can be received.
    ``receipt``: the receipt handle of the last receive. ``trace``: the trace header; None: it begins a chain.
    """

    entry: Entry
    sent_at: float
    visible_at: float
    message_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    receives: int = 0
    receipt: str = ""
    first_received_at: float = 0.0
    trace: str | None = None

    @property
    def system_attributes(self) -> dict[str, str]:
        """Return the attributes that SQS adds to a message."""
        system = {"ApproximateReceiveCount": str(self.receives), "SentTimestamp": str(int(self.sent_at * 1000))}
        if self.first_received_at:
            system["ApproximateFirstReceiveTimestamp"] = str(int(self.first_received_at * 1000))
        if self.entry.group:
            system["MessageGroupId"] = self.entry.group
        if self.trace:
            system[TRACE_ATTRIBUTE] = self.trace
        return system

    def parts(self) -> dict[str, Any]:
        """Return what :meth:`Received.of` reads."""
        return {
            "message_id": self.message_id,
            "receipt": self.receipt,
            "queue": self.entry.queue,
            "body": self.entry.body,
            "system": self.system_attributes,
            "attributes": self.entry.attributes,
        }

    def received(self) -> Received:
        return Received.of(**self.parts())


class MemoryQueues(Sqs):
    """Queues that behave like SQS and never reach AWS. The first send to a queue creates it.

    ``seconds``: the clock, in seconds since 1970.
    """

    def __init__(self, seconds: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.seconds = seconds
        self.covered = {}  # type: ignore[misc]  # these are not the queues of the process
        self.queues: defaultdict[str, dict[str, QueuedMessage]] = defaultdict(dict)
        """Queue → its messages by SQS message id, in the order of their sends."""
        self.trace: str | None = None
        """The trace header of the invocation or request that uses these queues now. None: it has none."""
        self._receipts = itertools.count(1)

    def now(self) -> float:
        return self.seconds()

    def url(self, queue: str) -> str:
        return f"memory:{queue}"

    def attributes(self, queue: str, names: Sequence[str]) -> Mapping[str, str]:
        self.forget_old()
        now, messages = self.seconds(), self.queues[queue].values()
        hidden = [message for message in messages if message.visible_at > now]
        delayed = sum(not message.receives for message in hidden)
        counts = (len(messages) - len(hidden), len(hidden) - delayed, delayed)
        return dict(zip(ATTRIBUTES, map(str, counts), strict=True))

    def send(self, entry: Entry, *, sent_at: float = 0.0) -> str:
        """``sent_at``: the time in the message, if it is later than now, as for a tick of a later time."""
        if entry.size > MAX_MESSAGE_BYTES or len(entry.attributes) > MAX_ATTRIBUTES:
            raise SendError(f"{entry.queue}: {entry.size} bytes and {len(entry.attributes)} attributes are too much")
        if not entry.body or not 0 <= entry.delay_seconds <= MAX_DELAY_SECONDS:
            raise SendError(f"{entry.queue}: the body is empty, or the delay of {entry.delay_seconds} s is not allowed")
        now = self.seconds()
        trace = self.trace if entry.keeps_chain else entry.trace
        message = QueuedMessage(entry, max(now, sent_at), now + entry.delay_seconds, trace=trace)
        self.queues[entry.queue][message.message_id] = message
        return message.message_id

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        failed: dict[int, str] = {}
        for position, entry in enumerate(entries):
            try:
                self.send(entry)
            except SendError as error:
                failed[position] = str(error)
        return failed

    def set_visibility(self, queue: str, receipts: Mapping[str, int]) -> None:
        for message in self.queues[queue].values():
            if message.receipt in receipts:
                message.visible_at = self.seconds() + max(0, receipts[message.receipt])

    def receive(self, queue: str, most: int, visibility_seconds: float, max_receives: int) -> list[QueuedMessage]:
        """Receive and hide the visible messages, oldest first.

        A message that was received too often is a dead letter.
        """
        self.forget_old(queue)
        now, received = self.seconds(), list[QueuedMessage]()
        for message in [message for message in self.queues[queue].values() if message.visible_at <= now]:
            if message.receives >= max_receives:
                self.delete(message)
                message.entry = replace(message.entry, queue=dead_letter_name(queue))
                self.queues[message.entry.queue][message.message_id] = message
            elif len(received) < most:
                received.append(self.take(message, visibility_seconds))
        return received

    def take(self, message: QueuedMessage, visibility_seconds: float) -> QueuedMessage:
        """Receive a message, even if it is hidden."""
        now = self.seconds()
        message.receives += 1
        message.first_received_at = message.first_received_at or now
        message.receipt = f"receipt-{next(self._receipts)}"
        message.visible_at = now + visibility_seconds
        return message

    def delete(self, message: QueuedMessage) -> None:
        """Delete a message from the queue that it was sent to. Does nothing if it is not there."""
        self.queues[message.entry.queue].pop(message.message_id, None)

    def delete_handled(self, batch: Sequence[QueuedMessage], kept: Collection[str]) -> list[QueuedMessage]:
        """Delete the messages of an invocation. ``kept``: the ids of those that stay, which are returned."""
        for message in batch:
            if message.message_id not in kept:
                self.delete(message)
        return [message for message in batch if message.message_id in kept]

    def next_visible_at(self, queue: str) -> float | None:
        """Return the time from which the queue has a visible message, maybe in the past; None if it is empty."""
        return min((message.visible_at for message in self.queues[queue].values()), default=None)

    def forget_old(self, *names: str) -> None:
        """Delete the messages whose retention has ended, also hidden ones. ``names``: the queues, by default all."""
        for name in names or list(self.queues):
            retention = DEAD_LETTER_RETENTION if name.endswith(DEAD_LETTERS) else QUEUE_RETENTION
            oldest, queue = self.seconds() - retention.total_seconds(), self.queues[name]
            for message in [message for message in queue.values() if message.sent_at < oldest]:
                del queue[message.message_id]
