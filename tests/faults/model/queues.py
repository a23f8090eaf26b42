"""SQS in the model: it delivers at least once. Messages come twice and early, and deletions are lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from joblane.local.memory_queues import DEAD_LETTERS, MemoryQueues, QueuedMessage
from joblane.sqs.client import Entry
from joblane.sqs.message import DEAD_ATTRIBUTE, REASON_ATTRIBUTE, decode
from joblane.tasks.task import Task

if TYPE_CHECKING:
    from tests.faults.model.world import World

COPIED, UNDELETED, HIDDEN = 0.03, 0.03, 0.04
"""The shares of sends that arrive twice, of deletions that are lost, and of deliveries with a hidden message."""


class ModelQueues(MemoryQueues):
    """The queues. ``roles``: SQS message id → the part of the library that has sent it."""

    def __init__(self, world: World) -> None:
        super().__init__(lambda: world.now)
        self._world = world
        self.roles: dict[str, str] = {}
        self.dead_letters: Counter[tuple[str | None, int | None]] = Counter()
        """The dead letters that were sent, by task id and generation."""

    def role(self, message: QueuedMessage) -> tuple[str, str]:
        """Return the task id of a message, or its own id, and the part of the library that has sent it."""
        id_ = json.loads(message.entry.body).get("id") or message.message_id
        return id_, self.roles.get(message.message_id, "outside")

    def accept(self, entry: Entry) -> None:
        """Take a message from a process."""
        world, actor = self._world, self._world.actors.current
        message_id = self.send(entry)
        self.roles[message_id] = actor.role if actor is not None else "outside"
        world.counts["messages sent"] += 1
        if entry.queue.endswith(DEAD_LETTERS):
            generation = entry.attributes.get(DEAD_ATTRIBUTE)
            id_ = decode(entry.body).id
            self.dead_letters[id_, int(generation["StringValue"]) if generation else None] += 1
            if not entry.attributes.get(REASON_ATTRIBUTE):
                world.wrong("a dead letter has no reason", id_)
        if world.chance(COPIED):
            self.copy(entry, message_id, 100)

    def copy(self, entry: Entry, message_id: str, most_seconds: float) -> None:
        """Let a message arrive a second time, later."""
        copy_id = self.send(entry)
        self.queues[entry.queue][copy_id].visible_at += self._world.dice.random() * most_seconds
        self.roles[copy_id] = self.roles.get(message_id, "outside")
        self._world.counts["messages that came twice"] += 1

    def take_some(self, task: Task[Any, Any], lane: str, *, may_be_hidden: bool) -> list[QueuedMessage]:
        """Receive some of the visible messages of a lane, in any order, and at times a hidden one."""
        world = self._world
        self.forget_old(lane)
        messages = list(self.queues[lane].values())
        ready = [message for message in messages if message.visible_at <= world.now]
        world.dice.shuffle(ready)
        if may_be_hidden and messages and world.chance(HIDDEN):
            hidden = world.dice.choice(messages)
            if hidden not in ready:
                ready.insert(0, hidden)
                world.counts["deliveries of hidden messages"] += 1
        if not ready:
            return []
        taken = ready[: world.dice.randint(1, task.batch_size)]
        for message in taken:
            if message.receives >= task.numbers.max_receive_count:
                world.wrong("SQS would have moved a message to the dead letters", lane, message.entry.body)
            self.take(message, task.numbers.visibility.total_seconds())
        return taken

    def delete_answered(self, taken: list[QueuedMessage], kept: Collection[str]) -> None:
        """Delete the messages that a worker does not keep. Some deletions are lost."""
        for message in taken:
            if message.message_id in kept:
                continue
            if self._world.chance(UNDELETED):
                message.visible_at = self._world.now + self._world.dice.random() * 300
                self._world.counts["lost deletions"] += 1
            else:
                self.delete(message)

    def redrive(self, lane: str) -> None:
        """Move some dead letters back to their lane, as SQS does it, and some of them twice."""
        dead = self.queues[lane + DEAD_LETTERS]
        for message in list(dead.values()):
            if self._world.dice.random() < 0.3:
                del dead[message.message_id]
                again = QueuedMessage(message.entry, self._world.now, self._world.now)
                again.entry = Entry(lane, message.entry.body, 0, message.entry.group, message.entry.attributes)
                self.queues[lane][again.message_id] = again
                self._world.counts["redriven dead letters"] += 1
                if self._world.dice.random() < 0.2:
                    self.copy(again.entry, again.message_id, 50)
