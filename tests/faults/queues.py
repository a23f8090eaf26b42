"""SQS in memory, as unkind as it may be: at least once, in no order, late, twice, and with refusals.

A message is delivered again when its visibility timeout is over, or at once where the dice say so; a delete may not
take; a receive above ``maxReceiveCount`` moves it to the dead letters without a word. An old receipt deletes a message
even while another reader holds it, as SQS's does.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.clock import Clock
from tests.faults.dice import Dice

DELIVERED_TWICE = 0.06
DELIVERED_LATE = 0.05
DELETE_LOST = 0.03
LATE_SECONDS = 40


@dataclass(slots=True)
class Message:
    """``about``: what the dice know it by. ``attributes``: as SendMessage takes them."""

    id: str
    about: str
    body: str
    group: str | None
    attributes: Mapping[str, Mapping[str, Any]]
    sent_at: float
    visible_at: float
    receives: int = 0

    @property
    def receipt(self) -> str:
        return f"{self.id}#{self.receives}"

    def record(self, queue: str, ahead: float) -> dict[str, Any]:
        """As Lambda hands it over. Its age is told by the clock of the processes, which is behind by ``ahead``."""
        system = {
            "ApproximateReceiveCount": str(self.receives),
            "SentTimestamp": str(int((self.sent_at - ahead) * 1000)),
        } | ({"MessageGroupId": self.group} if self.group else {})
        return {
            "messageId": self.id,
            "receiptHandle": self.receipt,
            "body": self.body,
            "attributes": system,
            "messageAttributes": {
                name: {"dataType": value["DataType"], "stringValue": value["StringValue"]}
                for name, value in self.attributes.items()
            },
            "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{queue}",
        }


@dataclass(slots=True)
class Lane:
    """``batch`` 0: nobody reads it."""

    name: str
    visibility: float
    max_receives: int
    batch: int
    messages: dict[str, Message] = field(default_factory=dict)
    """By id."""


class Queues:
    """All queues of a run. Any number of threads."""

    def __init__(self, clock: Clock, dice: Dice) -> None:
        self._clock = clock
        self._dice = dice
        self._lanes: dict[str, Lane] = {}
        self._changed = threading.Condition()
        self._random = random.Random(dice.seed)
        self._numbers = 0
        self.in_hand = 0
        """Batches that were taken and not yet settled."""
        self.counts: Counter[str] = Counter()
        self.redriven: list[tuple[str, Message]] = []

    def make(self, name: str, *, visibility: float = 30, max_receives: int = 1000, batch: int = 1) -> None:
        self._lanes[name] = Lane(name, visibility, max_receives, batch)
        self._lanes[f"{name}-dlq"] = Lane(f"{name}-dlq", visibility, max_receives, 0)

    def knows(self, name: str) -> bool:
        return name in self._lanes

    # --- A sender's side -------------------------------------------------------------------------------------------

    def send(
        self,
        queue: str,
        body: str,
        *,
        delay: float = 0,
        group: str | None = None,
        attributes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> str:
        """Take a message. Returns its id."""
        about = what(body)
        if self._dice.chance(DELIVERED_LATE, "late", queue, about):
            self.counts["messages delayed"] += 1
            delay += LATE_SECONDS * self._dice.roll("how late", about)
        now = self._clock.now()
        with self._changed:
            self._numbers += 1
            id_ = f"{self._numbers:08}-0000-4000-8000-{self._random.randrange(16**12):012x}"
            self._lanes[queue].messages[id_] = Message(id_, about, body, group, attributes or {}, now, now + delay)
            self.counts["messages sent"] += 1
            self._changed.notify()
        return id_

    def redrive(self, queue: str, share: float) -> int:
        """Move some dead letters back, each once, as StartMessageMoveTask does: under new message ids."""
        with self._changed:
            dead_letters = list(self._lanes[f"{queue}-dlq"].messages.values())
        moved = 0
        for dead_letter in dead_letters:
            if (
                self._dice.roll("redrive", dead_letter.about) < share
                and dead_letter.about not in self._redriven_already()
            ):
                del self._lanes[f"{queue}-dlq"].messages[dead_letter.id]
                self.redriven.append((f"{queue}-dlq", dead_letter))
                self.send(queue, dead_letter.body, group=dead_letter.group, attributes=dead_letter.attributes)
                moved += 1
        self.counts["dead letters redriven"] += moved
        return moved

    def _redriven_already(self) -> set[str]:
        return {dead_letter.about for _, dead_letter in self.redriven}

    # --- The poller's side -----------------------------------------------------------------------------------------

    def take(self, timeout: float) -> tuple[str, list[Message]] | None:
        """A batch of any lane that has one; :meth:`settle` ends it."""
        ends = time.monotonic() + timeout
        with self._changed:
            while True:
                now = self._clock.now()
                ready = [(lane, some) for lane in self._lanes.values() if lane.batch and (some := _visible(lane, now))]
                if ready:
                    lane, some = self._random.choice(ready)
                    batch = self._random.sample(some, min(lane.batch, len(some)))
                    taken = [message for message in batch if self._receive(lane, message, now)]
                    if taken:
                        self.in_hand += 1
                        return lane.name, taken
                    continue
                if (left := ends - time.monotonic()) <= 0:
                    return None
                self._changed.wait(min(left, 0.02))

    def _receive(self, lane: Lane, message: Message, now: float) -> bool:
        message.receives += 1
        if message.receives > lane.max_receives:
            self.counts["moved by maxReceiveCount"] += 1
            del lane.messages[message.id]
            message.receives = 0
            self._lanes[f"{lane.name}-dlq"].messages[message.id] = message
            return False
        message.visible_at = now + lane.visibility
        if self._dice.chance(DELIVERED_TWICE, "twice", message.about):
            self.counts["messages delivered twice"] += 1
            message.visible_at = now + 0.05 * self._dice.roll("how soon", message.about)
        return True

    def settle(self, queue: str, delete: Sequence[Message]) -> None:
        with self._changed:
            self.in_hand -= 1
            for message in delete:
                if self._dice.chance(DELETE_LOST, "delete", message.about):
                    self.counts["deletes lost"] += 1
                else:
                    self._lanes[queue].messages.pop(message.id, None)
            self._changed.notify()

    def set_visibility(self, queue: str, receipt: str, seconds: float) -> bool:
        """False where the message is gone."""
        with self._changed:
            message = self._lanes[queue].messages.get(receipt.partition("#")[0])
            if message is None:
                return False
            message.visible_at = self._clock.now() + seconds
            self._changed.notify()
            return True

    # --- From outside ----------------------------------------------------------------------------------------------

    def visible(self) -> int:
        now = self._clock.now()
        with self._changed:
            return sum(len(_visible(lane, now)) for lane in self._lanes.values() if lane.batch)

    def next_at(self) -> float | None:
        """When the next message will be seen; None where there is none in any lane."""
        with self._changed:
            times = [m.visible_at for lane in self._lanes.values() if lane.batch for m in lane.messages.values()]
        return min(times, default=None)

    def dead_letters(self) -> list[tuple[str, Message]]:
        """All that lie in the queues of dead letters, and those that were redriven."""
        with self._changed:
            lying = [(name, m) for name, lane in self._lanes.items() if not lane.batch for m in lane.messages.values()]
        return lying + self.redriven

    def left(self) -> list[str]:
        """What is in the lanes."""
        with self._changed:
            return [
                f"{name}: {m.about}" for name, lane in self._lanes.items() if lane.batch for m in lane.messages.values()
            ]


def _visible(lane: Lane, now: float) -> list[Message]:
    return [message for message in lane.messages.values() if message.visible_at <= now]


def what(body: str) -> str:
    """What a message is about, whoever sends it and how often."""
    try:
        fields = json.loads(body)
        return str(fields.get("id") or fields.get("tick", {}).get("at") or fields["payload"]["nonce"])
    except (ValueError, KeyError, AttributeError, TypeError):
        return body[:40]
