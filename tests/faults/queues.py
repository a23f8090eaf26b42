"""SQS in memory with every fault that SQS permits: delivery at least once, out of order, late, twice, and refusals.

A message is delivered again after its visibility timeout, or at once if the dice decide so. A delete may have no
effect. A receive above ``maxReceiveCount`` moves the message to the dead letters, without a reason. As in SQS, an old
receipt handle deletes a message even after another receive.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.builders.events import record
from tests.faults.clock import Clock
from tests.faults.dice import Dice

DELIVERED_TWICE = 0.06
DELIVERED_LATE = 0.05
DELETE_LOST = 0.03
LATE_SECONDS = 40


@dataclass(slots=True)
class Message:
    """A message. ``about``: its name for the dice. ``attributes``: in the form of SendMessage."""

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
        """Return a record of a Lambda event.

        Its times are of the processes' clock, which is ``ahead`` seconds behind.
        """
        return record(
            self.body,
            queue,
            message_id=self.id,
            receipt=self.receipt,
            receives=self.receives,
            sent_at=self.sent_at - ahead,
            group=self.group,
            attributes={name: (value["DataType"], value["StringValue"]) for name, value in self.attributes.items()},
        )


@dataclass(slots=True)
class Lane:
    """A queue. ``batch`` 0: it has no reader."""

    name: str
    visibility: float
    max_receives: int
    batch: int
    messages: dict[str, Message] = field(default_factory=dict)
    """Message id → message."""


class Queues:
    """All queues of a run, for any number of threads."""

    def __init__(self, clock: Clock, dice: Dice) -> None:
        self._clock = clock
        self._dice = dice
        self._lanes: dict[str, Lane] = {}
        self._changed = threading.Condition()
        self._random = random.Random(dice.seed)
        self._numbers = 0
        self.in_flight = 0
        """The number of batches that were received and are not acknowledged yet."""
        self.is_open = True
        """False: nothing is received any more."""
        self.counts: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        """Subject → messages sent, dead letters aside."""
        self.sent_by_sweep: Counter[str] = Counter()
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
        by_sweep: bool = False,
    ) -> str:
        """Accept a message and return its id."""
        about = subject(body)
        if self._dice.chance(DELIVERED_LATE, "late", queue, about):
            self.counts["messages delayed"] += 1
            delay += LATE_SECONDS * self._dice.roll("how late", about)
        now = self._clock.now()
        with self._changed:
            self._numbers += 1
            id_ = f"{self._numbers:08}-0000-4000-8000-{self._random.randrange(16**12):012x}"
            self._lanes[queue].messages[id_] = Message(id_, about, body, group, attributes or {}, now, now + delay)
            self.counts["messages sent"] += 1
            self.sent[about] += not queue.endswith("-dlq")
            self.sent_by_sweep[about] += by_sweep and not queue.endswith("-dlq")
            self._changed.notify()
        return id_

    def counted(self, queue: str) -> tuple[int, int, int]:
        """Return the numbers of visible, received and delayed messages."""
        now = self._clock.now()
        with self._changed:
            hidden = [one for one in self._lanes[queue].messages.values() if one.visible_at > now]
            delayed = sum(not one.receives for one in hidden)
            return len(self._lanes[queue].messages) - len(hidden), len(hidden) - delayed, delayed

    def redrive(
        self, queue: str, share: float, *, again: bool = False, wanted: Callable[[Message], bool] = lambda _: True
    ) -> int:
        """Move a share of the dead letters back, with new message ids, as StartMessageMoveTask does.

        ``again`` False: at most one of each subject in the whole run. ``wanted``: the others stay.
        """
        with self._changed:
            dead_letters = list(self._lanes[f"{queue}-dlq"].messages.values())
        moved = 0
        for dead_letter in dead_letters:
            if (
                self._dice.roll("redrive", dead_letter.about) < share
                and (again or dead_letter.about not in self._redriven_already())
                and wanted(dead_letter)
            ):
                del self._lanes[f"{queue}-dlq"].messages[dead_letter.id]
                self.redriven.append((f"{queue}-dlq", dead_letter))
                self.send(queue, dead_letter.body, group=dead_letter.group, attributes=dead_letter.attributes)
                moved += 1
        self.counts["dead letters redriven"] += moved
        return moved

    def take_dead(self, queue: str, receipts: Collection[str]) -> None:
        """Delete dead letters, by their receipts."""
        with self._changed:
            messages = self._lanes[queue].messages
            for message in [message for message in messages.values() if message.receipt in receipts]:
                self.redriven.append((queue, messages.pop(message.id)))

    def present_dead(self) -> dict[str, list[Message]]:
        """Return the messages in each dead-letter queue."""
        with self._changed:
            return {name: [*lane.messages.values()] for name, lane in self._lanes.items() if name.endswith("-dlq")}

    def _redriven_already(self) -> set[str]:
        return {dead_letter.about for _, dead_letter in self.redriven}

    # --- The poller's side -----------------------------------------------------------------------------------------

    def receive(self, timeout: float) -> tuple[str, list[Message]] | None:
        """Receive a batch from any lane. :meth:`acknowledge` ends the receive."""
        ends = time.monotonic() + timeout
        with self._changed:
            while True:
                now = self._clock.now()
                lanes = [lane for lane in self._lanes.values() if lane.batch and _visible(lane, now)]
                if lanes and self.is_open:
                    lane = self._random.choice(lanes)
                    visible = _visible(lane, now)
                    batch = self._random.sample(visible, min(lane.batch, len(visible)))
                    received = [message for message in batch if self._receive(lane, message, now)]
                    if received:
                        self.in_flight += 1
                        return lane.name, received
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

    def acknowledge(self, queue: str, delete: Sequence[Message]) -> None:
        with self._changed:
            self.in_flight -= 1
            for message in delete:
                if self._dice.chance(DELETE_LOST, "delete", message.about):
                    self.counts["deletes lost"] += 1
                else:
                    self._lanes[queue].messages.pop(message.id, None)
            self._changed.notify()

    def set_visibility(self, queue: str, receipt: str, seconds: float) -> bool:
        """Return False if the message does not exist."""
        with self._changed:
            message = self._lanes[queue].messages.get(receipt.partition("#")[0])
            if message is None:
                return False
            message.visible_at = self._clock.now() + seconds
            self._changed.notify()
            return True

    # --- Inspection ------------------------------------------------------------------------------------------------

    def visible(self) -> int:
        now = self._clock.now()
        with self._changed:
            return sum(len(_visible(lane, now)) for lane in self._lanes.values() if lane.batch)

    def next_at(self) -> float | None:
        """Return the time at which the next message is visible; None if all lanes are empty."""
        with self._changed:
            times = [m.visible_at for lane in self._lanes.values() if lane.batch for m in lane.messages.values()]
        return min(times, default=None)

    def dead_letters(self) -> list[tuple[str, Message]]:
        """Return the messages in the dead-letter queues, and the redriven ones."""
        with self._changed:
            present = [
                (name, m) for name, lane in self._lanes.items() if not lane.batch for m in lane.messages.values()
            ]
        return present + self.redriven

    def left(self, without: str) -> list[str]:
        """Return the messages in the lanes, as text. ``without``: the lane that is left out."""
        return [f"{name}: {message.about}" for name, message in self.waiting(without)]

    def waiting(self, without: str) -> list[tuple[str, Message]]:
        """Return the messages in the lanes. ``without``: the lane that is left out."""
        with self._changed:
            return [
                (name, m)
                for name, lane in self._lanes.items()
                if lane.batch and name != without
                for m in lane.messages.values()
            ]


def _visible(lane: Lane, now: float) -> list[Message]:
    return [message for message in lane.messages.values() if message.visible_at <= now]


def subject(body: str) -> str:
    """Return the subject of a message: the same for every copy of it."""
    try:
        fields = json.loads(body)
        return str(fields.get("id") or fields.get("tick", {}).get("at") or fields["payload"]["nonce"])
    except (ValueError, KeyError, AttributeError, TypeError):
        return body[:40]
