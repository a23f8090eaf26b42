"""SQS in virtual time: it refuses sends for a while, and a visible message is delivered soon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joblane.errors import SendError
from joblane.local.memory_queues import DEAD_LETTERS, MemoryQueues, QueuedMessage
from joblane.names import SWEEP, slug_of
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import decode
from tests.faults.days.process import Process

SWEEP_SLUG = slug_of(SWEEP)


@dataclass(frozen=True)
class Refusal:
    """A time in which SQS refuses the sends for a queue; None: for all."""

    begins: float
    ends: float
    queue: str | None

    def holds(self, now: float, queue: str) -> bool:
        return self.begins <= now < self.ends and self.queue in (None, queue)


class DayQueues(MemoryQueues):
    """``visible``: is called with a queue and the time at which one of its messages can be received."""

    def __init__(self, seconds: Callable[[], float], visible: Callable[[str, float], None]) -> None:
        super().__init__(seconds)
        self.refusals: list[Refusal] = []
        self._visible = visible

    def refuses(self, queue: str) -> bool:
        return any(refusal.holds(self.seconds(), queue) for refusal in self.refusals)

    def accepts_since(self, queue: str) -> float:
        """Return the time since which SQS accepts messages for a queue. Now, if it refuses them."""
        now = self.seconds()
        ends = [
            min(now, refusal.ends)
            for refusal in self.refusals
            if refusal.queue in (None, queue) and refusal.begins <= now
        ]
        return max(ends, default=0.0)

    def send(self, entry: Entry, *, sent_at: float = 0.0) -> str:
        message_id = super().send(entry, sent_at=sent_at)
        if not entry.queue.endswith(DEAD_LETTERS):
            self._visible(entry.queue, self.queues[entry.queue][message_id].visible_at)
        return message_id

    def set_visibility(self, queue: str, receipts: Mapping[str, int]) -> None:
        super().set_visibility(queue, receipts)
        for message in self.queues[queue].values():
            if message.receipt in receipts:
                self._visible(queue, message.visible_at)

    def take(self, message: QueuedMessage, visibility_seconds: float) -> QueuedMessage:
        super().take(message, visibility_seconds)
        self._visible(message.entry.queue, message.visible_at)
        return message


class VirtualSqs(Sqs):
    """SQS as a process sees it. ``step``: passes a moment at which the process may die or stand still."""

    def __init__(self, queues: MemoryQueues, step: Callable[[], None]) -> None:
        super().__init__()
        self.covered = {}  # type: ignore[misc]  # each process knows its own wake-ups
        self._queues, self._step = queues, step

    def url(self, queue: str) -> str:
        return self._queues.url(queue)

    def attributes(self, queue: str, names: Sequence[str]) -> Mapping[Any, str]:
        return self._queues.attributes(queue, names)

    def send(self, entry: Entry) -> str:
        for why in self.send_many([entry]).values():
            raise SendError(why)
        return ""

    def set_visibility(self, queue: str, receipts: Mapping[str, int]) -> None:
        self._step()
        self._queues.set_visibility(queue, receipts)
        self._step()

    def receive_many(self, *_: Any, **__: Any) -> list[Any]:
        return []


class ProcessSqs(VirtualSqs):
    """``lost``: draws whether SQS takes a message and its answer is lost."""

    def __init__(
        self, queues: DayQueues, process: Process, lost: Callable[[Entry], bool], note: Callable[[str], None]
    ) -> None:
        super().__init__(queues, process.step)
        self._refuses, self._process, self._lost, self._note = queues.refuses, process, lost, note
        self.covered = process.covered  # type: ignore[misc]

    def attributes(self, queue: str, names: Sequence[str]) -> Mapping[Any, str]:
        self._process.alive()
        return super().attributes(queue, names)

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        failed: dict[int, str] = {}
        for position, entry in enumerate(entries):
            self._process.step(is_send=True)
            refused = self._refuses(entry.queue)
            if brief and entry.queue.endswith(SWEEP_SLUG):
                self._process.unwoken_since = self._queues.seconds() if refused else None
            if refused or entry.queue.endswith(SWEEP_SLUG):
                self._note(
                    f"{self._process.name} sends {decode(entry.body).id} to {entry.queue} in {entry.delay_seconds} s"
                    + ": refused" * refused
                )
            if refused:
                failed[position] = "Refused: by the day"
                continue
            self._queues.send(entry)
            if self._lost(entry):
                failed[position] = "no answer: by the day"
            self._process.step(is_send=True)
        return failed
