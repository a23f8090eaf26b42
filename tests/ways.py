"""The two ways of an ordinary job: a switch that forbids the short one, and counts of the tasks that went each way.

The short way is ``claim_one.sql``, ``finish_one.sql`` and ``insert_one.sql``. The long way is the functions that handle
every kind of task. What happens to a task must not depend on its way.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Self
from unittest.mock import patch

from joblane.enqueue import insert
from joblane.record.driver.connection import Connection
from joblane.record.sql_functions import VERSION
from joblane.record.task import claim, finish, run_session

STEPS = ("claims", "finishes", "enqueues")
GATES: tuple[tuple[str, Any, str], ...] = (
    ("claims", claim, "may_be_ordinary"),
    ("finishes", finish, "may_be_ordinary"),
    ("finishes", run_session, "may_be_ordinary"),
    ("enqueues", insert, "plain"),
)
"""The functions whose true answer sends a task the short way."""
SHARE = 0.5
"""The share of ordinary tasks that storms allow the short way."""
MANY = 30
"""So many tasks that are allowed the short way are enough for at least one to take it."""


def _claimed(answer: Any) -> tuple[int, int]:
    """Return the tasks of an answer that went the short way, and the others."""
    one = isinstance(answer, list) and not isinstance(answer[0], dict)
    return (1, 0) if one else (0, len(answer) if isinstance(answer, list) else 1)


def _finished(answer: Any) -> tuple[int, int]:
    # let_go.sql answers for an ordinary task with children, and finish.sql for one that keeps nothing: there is none
    return (1, 0) if answer is None or "look" in answer else (0, len(answer["finished"]))


NOTED: Mapping[str, tuple[str, Callable[[list[Any]], tuple[int, int]]]] = {
    f"joblane.{name}_{VERSION}(": (step, ways)
    for name, step, ways in (
        ("claim", "claims", lambda rows: _claimed(rows[0][0])),
        ("claim_one", "claims", lambda rows: _claimed(rows[0][0])),
        ("finish", "finishes", lambda rows: (0, len(rows[0][0]["finished"]))),
        ("finish_one", "finishes", lambda rows: _finished(rows[0][0])),
        ("insert", "enqueues", lambda rows: (0, len(rows))),
        ("insert_one", "enqueues", lambda rows: (1, 0)),
    )
}
"""A function's call → its step, and the ways of the tasks in its answer."""


class Ways:
    """The switch. ``allows``: called for each task that may be ordinary, at each step. False: it goes the long way."""

    def __init__(self, allows: Callable[[], bool]) -> None:
        self.counts: Counter[str] = Counter()
        self._allows, self._lock = allows, threading.Lock()

    @classmethod
    def mixed(cls, seed: int) -> Self:
        """Return a switch that allows a share of the tasks the short way."""
        dice = random.Random(f"ways {seed}")
        return cls(lambda: dice.random() < SHARE)

    @contextmanager
    def switched(self) -> Iterator[None]:
        """Ask and count during the block. Statements of other drivers than the library's own are not counted."""
        execute: Any = Connection._execute

        def noting(connection: Connection, statements: Any, main: str) -> Any:
            context = execute(connection, statements, main)
            self._note(main, context.rows)
            return context

        with ExitStack() as patches:
            for step, module, name in GATES:
                patches.enter_context(patch.object(module, name, self._gate(step, getattr(module, name))))
            patches.enter_context(patch.object(Connection, "_execute", noting))
            yield

    def _gate(self, step: str, is_ordinary: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def gate(given: Any) -> Any:
            found = is_ordinary(given)
            if found and not self._allows():
                return None
            self._count(f"{step} allowed the short way", bool(found))
            return found

        return gate

    def _note(self, statement: str, rows: Any) -> None:
        for call, (step, ways) in NOTED.items():
            if call in statement and rows:
                short, others = ways(rows)
                self._count(f"{step} by the short way", short)
                self._count(f"{step} by the functions", others)

    def _count(self, what: str, number: int) -> None:
        with self._lock:
            self.counts[what] += number

    def taken(self) -> Counter[str]:
        """Return the counts so far, and begin anew."""
        with self._lock:
            counts, self.counts = self.counts, Counter()
        return counts


def never_short(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a line for each step at which no task went the short way, although many were allowed it."""
    for step in STEPS:
        allowed = counts.get(f"{step} allowed the short way", 0)
        if allowed >= MANY and not counts.get(f"{step} by the short way"):
            yield f"none of {allowed} {step} went the short way"
