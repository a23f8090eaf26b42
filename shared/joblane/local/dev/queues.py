"""The queues of `joblane dev`: those of the declared types and the front doors, with the settings of the stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joblane.errors import SendError
from joblane.local.memory_queues import DEAD_LETTERS, MemoryQueues, QueuedMessage
from joblane.names import Queue, cron_group_name, dead_letter_name, front_door_name
from joblane.quotas import FRONT_DOOR
from joblane.sqs.client import Entry

DEAD_LETTER_SECONDS = 30
"""Visibility timeout of a dead-letter queue: SQS's default."""
NO_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class Rule:
    """The settings of a queue."""

    visibility_seconds: float
    max_receives: int = NO_LIMIT


class DevQueues(MemoryQueues):
    """``on_change`` is called with the name of a queue that may have a visible message now."""

    def __init__(self, prefix: str, on_change: Callable[[str], object]) -> None:
        super().__init__()
        self.prefix = prefix
        self.rules: dict[str, Rule] = {}
        self._on_change = on_change
        self.front_doors = [front_door_name(prefix, queue) for queue in Queue]
        for name in self.front_doors:
            self._add(name, Rule(FRONT_DOOR.visibility.total_seconds(), FRONT_DOOR.max_receive_count))
        self.rules[dead_letter_name(cron_group_name(prefix))] = Rule(DEAD_LETTER_SECONDS)

    def declare(self, types: Mapping[str, Mapping[str, Any]]) -> None:
        """Add the lanes of the declared types. Lanes of types that are not declared any more keep their messages."""
        for declared in types.values():
            for lane in declared["lanes"]:
                self._add(lane, Rule(declared["visibility_seconds"], declared["max_receive_count"]))

    def _add(self, name: str, rule: Rule) -> None:
        self.rules[name] = rule
        self.rules[dead_letter_name(name)] = Rule(DEAD_LETTER_SECONDS)

    def send(self, entry: Entry, *, sent_at: float = 0.0) -> str:
        """Send to a queue that exists. Raises :class:`SendError`."""
        if entry.queue not in self.rules:
            raise SendError(f"{entry.queue}: {self.unknown(entry.queue)}")
        message_id = super().send(entry, sent_at=sent_at)
        self._on_change(entry.queue)
        return message_id

    def set_visibility(self, queue: str, receipts: Mapping[str, int]) -> None:
        super().set_visibility(queue, receipts)
        self._on_change(queue)

    def receive_some(self, queue: str, most: int, visibility_seconds: float | None = None) -> list[QueuedMessage]:
        """Receive messages by the queue's rule. ``visibility_seconds``: another timeout than the queue's."""
        rule = self.rules[queue]
        seconds = rule.visibility_seconds if visibility_seconds is None else visibility_seconds
        return self.receive(queue, most, seconds, rule.max_receives)

    def give_back(self, messages: Sequence[QueuedMessage], seconds: float) -> None:
        """Let messages be received again after ``seconds``: their process has ended."""
        for message in messages:
            message.visible_at = self.seconds() + seconds
        for queue in {message.entry.queue for message in messages}:
            self._on_change(queue)

    def unknown(self, queue: str) -> str:
        """Return the sentence for a queue that does not exist."""
        start = f"`joblane dev` has no queue {queue!r}. "
        if not queue.startswith(f"{self.prefix}-"):
            return start + f"Its queues begin with {self.prefix}-: check JOBLANE_PREFIX of the sender."
        lanes = [name for name in self.rules if name not in self.front_doors and not name.endswith(DEAD_LETTERS)]
        lane = f" Each declared type has a lane, such as {lanes[0]}." if lanes else ""
        ways = f"The front doors are {', '.join(self.front_doors)}.{lane}"
        return f"{start}{ways} Is the type declared in a handler.py, and saved?"

    def find(self, queue: str, receipt: str) -> QueuedMessage | None:
        """Return the message that was received with this receipt handle last."""
        return next((message for message in self.queues[queue].values() if message.receipt == receipt), None)
