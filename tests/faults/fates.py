"""What is to befall one invocation or producer, in the process that it befalls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pg8000.exceptions import InterfaceError

from joblane.record import claim, finish
from joblane.record.connection import Connection
from joblane.sqs.client import Entry, Sqs
from joblane.testing.faults import HookedDatabase, Send
from tests.faults.dice import Dice
from tests.faults.samples import die

STEPS = ("claim", "finish", "commit", "send", "answer", "statement")


@dataclass
class Fate:
    """``deed``: ``kill`` the process, or ``cut`` its connection. ``step``: one of :data:`STEPS`; ``number``: how many
    of its kind are let pass."""

    deed: str = ""
    when: str = "before"
    step: str = ""
    number: int = 0

    @classmethod
    def thrown(cls, dice: Dice, share: float, *about: object) -> Fate:
        if not dice.chance(share, "fate", *about):
            return cls()
        step = STEPS[int(dice.roll("step", *about) * len(STEPS))]
        deed = "cut" if step not in ("send", "answer") and dice.roll("deed", *about) < 0.35 else "kill"
        when = "before" if step == "answer" or dice.roll("when", *about) < 0.5 else "after"
        most = {"statement": 12, "commit": 2}.get(step, 1)
        return cls(deed, when, step, int(dice.roll("number", *about) * most))

    def __str__(self) -> str:
        return f"{'killed' if self.deed == 'kill' else 'cut off'} {self.when} the {self.step}"

    def meets(self, when: str, *steps: str) -> bool:
        """Whether this is the moment; counts down."""
        if when != self.when or self.step not in steps:
            return False
        self.number -= 1
        return self.number == -1


NONE = Fate()


class Exposed:
    """The fate of the process at present. One connection or queue may be told of it by many."""

    def __init__(self) -> None:
        self.fate = NONE

    def at(self, when: str, *steps: str) -> bool:
        """Die here where that is the fate; True where the connection is to be cut."""
        if not self.fate.meets(when, *steps):
            return False
        if self.fate.deed == "kill":
            die()
        return True


class ExposedDatabase(HookedDatabase):
    """A connection that may be cut, or its process killed, before or after any statement."""

    def __init__(self, url: str, exposed: Exposed) -> None:
        super().__init__(url, self._befall)
        self._exposed = exposed

    def _befall(self, sql: str, send: Send) -> Any:
        step = {claim.CLAIM: "claim", finish.FINISH: "finish"}.get(sql, sql)
        connection = self._connection
        if self._exposed.at("before", step, "statement"):
            _cut(connection)
        answer = send()
        if self._exposed.at("after", step, "statement"):
            _cut(connection)
            raise InterfaceError("the answer was lost")
        return answer


def _cut(connection: Connection | None) -> None:
    """As the network does it: nothing more comes or goes, and the last answer never came."""
    if connection is not None and connection._usock is not None:
        import socket

        connection._usock.shutdown(socket.SHUT_RDWR)
        connection._answered = False


class ExposedSqs(Sqs):
    def __init__(self, exposed: Exposed) -> None:
        super().__init__()
        self._exposed = exposed

    def send_many(self, entries: Sequence[Entry]) -> dict[int, str]:
        self._exposed.at("before", "send")
        failed = super().send_many(entries)
        self._exposed.at("after", "send")
        return failed
