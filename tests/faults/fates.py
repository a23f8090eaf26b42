"""The fault that happens to an invocation or a producer, inside its process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import InterfaceError

from joblane.record.driver.connection import Connection
from joblane.record.task import claim, finish
from joblane.sqs.client import Entry, Sqs
from joblane.testing.faults import HookedDatabase, Send
from tests.faults.dice import Dice
from tests.faults.samples import die

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

SENDER, SWEEP = "X-Sender", "sweep"
STEPS = ("claim", "finish", "commit", "send", "answer", "statement")


@dataclass
class Fate:
    """A fault. ``action``: ``kill`` the process, or ``cut`` its connection. ``step``: one of :data:`STEPS`. ``number``:
    the number of such steps before it."""

    action: str = ""
    when: str = "before"
    step: str = ""
    number: int = 0

    @classmethod
    def draw(cls, dice: Dice, share: float, *about: object) -> Fate:
        if not dice.chance(share, "fate", *about):
            return cls()
        step = STEPS[int(dice.roll("step", *about) * len(STEPS))]
        action = "cut" if step not in ("send", "answer") and dice.roll("deed", *about) < 0.35 else "kill"
        when = "before" if step == "answer" or dice.roll("when", *about) < 0.5 else "after"
        most = {"statement": 12, "commit": 2}.get(step, 1)
        return cls(action, when, step, int(dice.roll("number", *about) * most))

    def __str__(self) -> str:
        return f"{'killed' if self.action == 'kill' else 'cut off'} {self.when} the {self.step}"

    def happens(self, when: str, *steps: str) -> bool:
        """Count a step. Return True if the fault happens now."""
        if when != self.when or self.step not in steps:
            return False
        self.number -= 1
        return self.number == -1


NONE = Fate()


class CurrentFate:
    """The current fault of the process, shared by its connections and its queues.

    ``ahead``: the seconds by which the clock of the queues is ahead of the process's. ``is_short``: an ordinary task
    may go the short way.
    """

    def __init__(self) -> None:
        self.fate = NONE
        self.ahead = 0.0
        self.is_short = True

    def at(self, when: str, *steps: str) -> bool:
        """Kill the process here if the fault says so. Return True if the connection must be cut."""
        if not self.fate.happens(when, *steps):
            return False
        if self.fate.action == "kill":
            die()
        return True


class FaultyDatabase(HookedDatabase):
    """A connection that the fault may cut before or after any statement, or whose process it may kill there."""

    def __init__(self, url: str, current: CurrentFate) -> None:
        super().__init__(url, self._execute)
        self._current = current

    def _execute(self, sql: str, send: Send) -> Any:
        step = "claim" if sql in claim.CLAIMS else "finish" if sql in finish.FINISHES else sql
        connection = self._connection
        if self._current.at("before", step, "statement"):
            _cut(connection)
        answer = send()
        if self._current.at("after", step, "statement"):
            _cut(connection)
            raise InterfaceError("the answer was lost")
        return answer


def _cut(connection: Connection | None) -> None:
    """Cut the connection as a network does: the last answer does not arrive, and no further data passes."""
    if connection is not None and connection._usock is not None:
        import socket

        connection._usock.shutdown(socket.SHUT_RDWR)
        connection._answered = False


class FaultySqs(Sqs):
    """SQS with the faults of a process. ``sender``: sent with each request as the header :data:`SENDER`."""

    def __init__(self, current: CurrentFate, sender: str = "") -> None:
        super().__init__()
        self._current = current
        self._sender = sender

    def now(self) -> float:
        return time.time() + self._current.ahead

    @cached_property
    def client(self) -> SQSClient:
        client = super().client
        client.meta.events.register(
            "before-sign.sqs", lambda request, **_: request.headers.add_header(SENDER, self._sender)
        )
        return client

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        self._current.at("before", "send")
        failed = super().send_many(entries, brief=brief)
        self._current.at("after", "send")
        return failed
