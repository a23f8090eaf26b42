"""Actors: threads that move one at a time, so that the seed decides what happens.

At a *point*, which is before or after a statement, a send or a change of visibility, an actor may be suspended while
others move, killed, or lose an answer. An actor whose statement waits for a lock lets others move as well.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.model.processes import Process

FIRST_LOOK_SECONDS = 0.02
"""After this time a statement may wait for a lock. It is longer than the shortest ``lock_timeout`` of the functions."""
HANGS_SECONDS = 60.0


class Killed(KeyboardInterrupt):
    """The end of a process: the only error that a worker lets pass."""


class AnswerLostError(OSError):
    """A statement has its effect, and its answer is lost."""


@dataclass
class Faults:
    """The shares of actors that are killed and lose an answer, of points with a switch, and of refused sends.

    ``on`` False: nothing fails any more. ``is_calm``: nothing fails in this seed, so that no work is left to the sweep.
    """

    kill: float
    lose: float
    switch: float
    refuse: float
    on: bool = True

    @classmethod
    def drawn(cls, dice: random.Random, *, is_calm: bool) -> Faults:
        switch = dice.choice((0.1, 0.35, 0.6))
        if is_calm:
            return cls(0, 0, switch, 0)
        return cls(dice.choice((0.05, 0.15, 0.3)), dice.choice((0, 0.05, 0.1)), switch, dice.choice((0, 0.02, 0.1)))

    @property
    def is_calm(self) -> bool:
        return not (self.kill or self.lose or self.refuse)


class Actor:
    """An act of a process. ``kills_at``, ``loses_at``: the point from which it is killed, or loses an answer; 0: never.

    ``role``: the part of the library that sends its messages. ``messages``: task id → the role that sent its message.
    """

    def __init__(self, name: str, process: Process, number: int, role: str, messages: Mapping[str, str]) -> None:
        self.name, self.process, self.number, self.role, self.messages = name, process, number, role, messages
        self.kills_at = self.loses_at = self.points = 0
        self.go, self.stopped = threading.Semaphore(0), threading.Event()
        self.is_over = self.is_blocked = False


class Actors:
    """All actors of a seed. ``is_locked``: whether one of these back ends waits for a lock."""

    def __init__(
        self,
        dice: random.Random,
        faults: Faults,
        counts: Counter[str],
        wrong: Callable[..., None],
        is_locked: Callable[[Sequence[int]], bool],
    ) -> None:
        self._dice, self._faults, self._counts, self._wrong, self._is_locked = dice, faults, counts, wrong, is_locked
        self._here = threading.local()
        self._all: list[Actor] = []
        self._started = 0

    @property
    def current(self) -> Actor | None:
        """The actor whose thread this is. None: the model's own thread."""
        return getattr(self._here, "actor", None)

    def number(self) -> int:
        """Return the next number. Numbers grow with the moments at which they are given."""
        self._started += 1
        return self._started

    def all(self) -> list[Actor]:
        """Return the actors that have not ended."""
        self._all = [actor for actor in self._all if not actor.is_over]
        return self._all

    def start(
        self,
        name: str,
        process: Process,
        act: Callable[[], None],
        *,
        role: str = "a client",
        messages: Mapping[str, str] | None = None,
    ) -> None:
        actor = Actor(name, process, self.number(), role, messages or {})
        if self._faults.on and self._dice.random() < self._faults.kill:
            actor.kills_at = self._dice.randint(1, 60)
        if self._faults.on and self._dice.random() < self._faults.lose:
            actor.loses_at = self._dice.randint(1, 40)
        threading.Thread(target=self._run, args=(actor, act), daemon=True).start()
        self._all.append(actor)
        self._move(actor)

    def step(self) -> bool:
        """Move an actor that is suspended. Return False if there is none."""
        free = [actor for actor in self.all() if actor.stopped.is_set()]
        if free:
            self._move(self._dice.choice(free))
        return bool(free)

    def settle(self) -> None:
        """Let all actors end."""
        ends = time.monotonic() + HANGS_SECONDS
        while self.all():
            if not self.step():
                self._look_at_blocked()
            if time.monotonic() > ends:
                self._wrong("hangs", *[actor.name for actor in self._all])
                return

    def point(self, process: Process, *, may_suspend: bool = True) -> None:
        """Pass a point. Raises :class:`Killed` if the process dies here, or is dead."""
        actor = self.current
        if process.is_dead:
            raise Killed
        if actor is None:
            return
        actor.points += 1
        if actor.is_blocked:  # others have moved meanwhile
            self._suspend(actor)
        if actor.kills_at and actor.points >= actor.kills_at:
            process.kill()
        elif may_suspend and self._faults.on and self._dice.random() < self._faults.switch:
            self._counts["suspensions"] += 1
            self._suspend(actor)
        if process.is_dead:
            raise Killed

    def loses_answer(self) -> bool:
        """Return True once for an actor that loses an answer."""
        actor = self.current
        if actor is None or not actor.loses_at or actor.points < actor.loses_at:
            return False
        actor.loses_at = 0
        self._counts["lost answers of statements"] += 1
        return True

    def _run(self, actor: Actor, act: Callable[[], None]) -> None:
        self._here.actor = actor
        actor.go.acquire()
        try:
            act()
        except Killed:
            self._counts[f"killed: {actor.name.partition(' of ')[0]}"] += 1
            actor.process.kill()
        except BaseException:
            self._wrong("raised", actor.name, traceback.format_exc()[-1800:])
        actor.is_over = True
        actor.process.is_busy = False
        actor.stopped.set()

    def _suspend(self, actor: Actor) -> None:
        actor.stopped.set()
        actor.go.acquire()

    def _move(self, actor: Actor) -> None:
        actor.stopped.clear()
        actor.is_blocked = False
        actor.go.release()
        self._await(actor, FIRST_LOOK_SECONDS)
        self._look_at_blocked()

    def _look_at_blocked(self) -> None:
        """Let each actor whose lock was released come to its next point."""
        for actor in self._all:
            if actor.is_blocked and not actor.stopped.is_set():
                self._await(actor, 0.0)

    def _await(self, actor: Actor, seconds: float) -> None:
        """Wait until an actor is suspended, has ended, or waits for a lock."""
        ends = time.monotonic() + HANGS_SECONDS
        while not actor.stopped.wait(seconds):
            if self._is_locked(actor.process.backends()) or time.monotonic() > ends:
                self._counts["waits for a lock"] += not actor.is_blocked
                actor.is_blocked = True
                return
            seconds = 0.005
