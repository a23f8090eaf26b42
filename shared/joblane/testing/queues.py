"""The queues of a test: SQS in memory, with the clock of the test, and what a test reads from them. The bus of its
events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joblane.enqueue.event_bus import EventBus
from joblane.enqueue.wake import PLANNED, WOKEN
from joblane.local.memory_queues import DEAD_LETTERS, MemoryQueues, QueuedMessage
from joblane.names import SWEEP, dead_letter_name
from joblane.record.driver.connection import Connection
from joblane.record.events import Unsent, oldest_events, remove_events
from joblane.sqs.client import Entry
from joblane.sqs.message import DEAD_ATTRIBUTE, REASON_ATTRIBUTE, decode
from joblane.tasks.events import Event
from joblane.testing.clock import Clock

PAGE = 100


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


class KitQueues(MemoryQueues):
    """SQS in memory, whose delays and visibility timeouts end by the clock of the test."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock.seconds)
        self.sent: list[Entry] = []
        """All accepted messages, in order."""

    def send(self, entry: Entry, *, sent_at: float = 0.0) -> str:
        message_id = super().send(entry, sent_at=sent_at)
        self.sent.append(entry)
        return message_id

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        kept = {  # each drain sweeps, so that no sweep needs to be woken or planned
            position: entry
            for position, entry in enumerate(entries)
            if SWEEP not in entry.body or not (decode(entry.body).id or "").startswith((WOKEN, PLANNED))
        }
        positions = list(kept)
        return {positions[number]: why for number, why in super().send_many(list(kept.values())).items()}

    def next_lane(self) -> tuple[str, float] | None:
        """Return the lane with the message that is visible first, and that time; None if all lanes are empty."""
        self.forget_old()
        lanes = [name for name in self.queues if not name.endswith(DEAD_LETTERS)]
        waiting = [(at, name) for name in lanes if (at := self.next_visible_at(name)) is not None]
        return min(waiting)[::-1] if waiting else None

    def peek(self, queue: str) -> QueuedMessage:
        return next(iter(self.queues[queue].values()))

    def find(self, task_id: str) -> QueuedMessage | None:
        """Return the message of a task, in any lane."""
        for name, queue in self.queues.items():
            for message in [] if name.endswith(DEAD_LETTERS) else queue.values():
                if decode(message.entry.body).id == task_id:
                    return message
        return None

    def dead_letters(self, lane: str) -> list[DeadLetter]:
        return [_dead_letter(message.entry) for message in self.queues[dead_letter_name(lane)].values()]

    def redrive(self, lane: str) -> int:
        """Send a lane's dead letters back to it with their attributes, as SQS does. Return their number."""
        dead_letters = list(self.queues.pop(dead_letter_name(lane), {}).values())
        for message in dead_letters:
            self.send(Entry(lane, message.entry.body, group=message.entry.group, attributes=message.entry.attributes))
        return len(dead_letters)


def _dead_letter(entry: Entry) -> DeadLetter:
    message = decode(entry.body)
    attributes = {name: value.get("StringValue", "") for name, value in entry.attributes.items()}
    reason = attributes.get(REASON_ATTRIBUTE, "received too often")
    return DeadLetter(message.id, message.payload, reason, int(attributes.get(DEAD_ATTRIBUTE, 0)))


class CapturingBus(EventBus):
    """A bus that accepts every event. ``events``: in the order in which they came."""

    def __init__(self, prefix: str) -> None:
        super().__init__("test", prefix)
        self.events: list[Event] = []

    def send_many(self, events: Sequence[Unsent]) -> dict[str, str]:
        self.events += [Event.read(json.loads(event.detail)) for event in events]
        return {}

    def take_all(self, connection: Connection) -> None:
        """Send the events that no worker has sent, including events that a sweep would leave to its worker."""
        while found := oldest_events(connection, ("-infinity", ""), PAGE, older_than_seconds=0):
            self.send_many([event for event, _ in found])
            remove_events(connection, [event.id for event, _ in found])
