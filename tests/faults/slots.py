"""Threads that drive the processes: pollers that invoke functions as Lambda does, and programs that enqueue."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from tests.faults.clock import Clock
from tests.faults.dice import Dice
from tests.faults.fates import Fate
from tests.faults.mix import Act
from tests.faults.processes import Process
from tests.faults.queues import Queues
from tests.ways import SHARE

FAULTY_INVOCATIONS, FAULTY_PRODUCERS = 0.1, 0.25
"""The shares of invocations and of programs with a fault."""
TRIES = 50
"""The tries of a program while the database is unavailable. It uses the same ids each time."""
MAX_BACKLOG = 60
"""The producers wait while more messages than this are visible."""


@dataclass(frozen=True)
class Scene:
    """``address``: of the fork server. ``counts``: of the run."""

    address: Path
    queues: Queues
    clock: Clock
    dice: Dice
    counts: Counter[str]


class Driver(threading.Thread, ABC):
    """A thread with its process, until it is stopped.

    ``raised``: errors of the suite, and of code that must not raise. After one the run continues, and fails.
    """

    def __init__(self, scene: Scene) -> None:
        super().__init__(daemon=True)
        self._scene = scene
        self.process = Process(scene.address)
        self.raised: list[str] = []
        self._stopping = False

    def run(self) -> None:
        while not self._stopping:
            try:
                self.turn()
            except Exception as error:
                self.raised.append(f"{type(self).__name__}: {error!r}")
        self.process.close()

    @abstractmethod
    def turn(self) -> None:
        """Do one thing."""

    def stop(self) -> None:
        self._stopping = True

    def _send(self, order: Mapping[str, Any], seconds: float, *about: object) -> dict[str, Any] | None:
        """Send an order to the process, and count the ways of its tasks. A killed process takes its counts with it."""
        is_short = self._scene.dice.roll("way", *about) < SHARE
        answer = self.process.send({**order, "ahead": self._scene.clock.ahead, "is_short": is_short}, seconds)
        self._scene.counts.update((answer or {}).get("ways", {}))
        return answer


class Slot(Driver):
    """An execution environment of the functions: at most one process, with one batch at a time."""

    def __init__(self, scene: Scene, seconds: Mapping[str, float]) -> None:
        """``seconds``: queue → the timeout of its function."""
        super().__init__(scene)
        self._seconds = seconds

    def turn(self) -> None:
        if (received := self._scene.queues.receive(0.2)) is None:
            return
        queue, messages = received
        acknowledged = []
        try:
            failed = self._invoke(queue, messages)
            acknowledged = [message for message in messages if message.id not in failed]
        finally:
            self._scene.queues.acknowledge(queue, acknowledged)

    def _invoke(self, queue: str, messages: Any) -> set[str]:
        """Return the ids of the messages that stay in the queue."""
        fate = Fate.draw(self._scene.dice, FAULTY_INVOCATIONS, queue, messages[0].about)
        order = {
            "invoke": queue,
            "records": [message.record(queue, self._scene.clock.ahead) for message in messages],
            "seconds": self._seconds[queue],
            "fate": asdict(fate),
        }
        answer = self._send(order, self._seconds[queue], queue, messages[0].about)
        self._scene.counts["invocations"] += 1
        self._scene.counts["deliveries"] += len(messages)
        if answer is None:
            self._scene.counts["processes that died"] += 1
            self._scene.counts[str(fate)] += fate.action == "kill"
        elif "raised" in answer:
            self.raised.append(f"an invocation of {queue} raised: {answer['raised']}")
        return {message.id for message in messages} if answer is None else set(answer["failed"])


class Producer(Driver):
    """Performs the acts of the mix, one after the other."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.acts: SimpleQueue[Act] = SimpleQueue()
        self.created: set[str] = set()
        self.replaced: set[str] = set()
        self.cancelled: dict[str, str] = {}
        """Task id → the state that the cancel returned."""
        self._given = self._done = 0

    @property
    def pending(self) -> int:
        """The number of acts that are not done yet."""
        return self._given - self._done

    def do(self, act: Act) -> None:
        self._given += 1
        self.acts.put(act)

    def turn(self) -> None:
        try:
            act = self.acts.get(timeout=0.1)
        except Empty:
            return
        while self._scene.dice.on and self._scene.queues.visible() > MAX_BACKLOG:
            time.sleep(0.02)
        try:
            self._do(act)
        finally:
            self._done += 1

    def _do(self, act: Act) -> None:
        if "send" in act:
            self._scene.queues.send(act["send"], act["body"])
            return
        fate = (
            Fate.draw(self._scene.dice, FAULTY_PRODUCERS, "producer", act["jobs"][0]["id"])
            if "produce" in act
            else Fate()
        )
        for _ in range(TRIES):
            answer = self._send(act | {"fate": asdict(fate)}, 30, "producer", *act.get("cancel", ()))
            fate, first = Fate(), fate  # the next try meets no fault, which would be the same at the same statement
            if answer is None:
                self._scene.counts["producers that died"] += 1
                self._scene.counts[f"producers {first}"] += 1
                return
            self.cancelled |= {id_: state for id_, state in answer.get("states", {}).items() if state}
            self.created |= set(answer.get("created", ()))
            self.replaced |= set(answer.get("replaced", ()))
            if "unavailable" not in answer:
                return
            self._scene.counts["enqueues that met an error"] += 1
            fate = Fate()  # else a connection that is cut at the same statement each time ends no try
            time.sleep(0.2)
        raise RuntimeError(f"{TRIES} tries of {act} have failed: {answer and answer['unavailable']}")
