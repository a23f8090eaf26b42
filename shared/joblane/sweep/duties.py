"""The duties of a sweep take turns. A duty that fails or takes long does not stop the other duties.

The function of ``jobs:sweep`` gives each statement :data:`joblane.record.driver.time_limits.SWEEP`, so a statement that
hangs takes a small part of the sweep's time. A broken connection ends the sweep, because no duty can continue without
one. The task of the sweep is then tried again, with another connection.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import chain, count
from typing import Any, TypeVar

from pg8000.exceptions import DatabaseError

from joblane import telemetry
from joblane.errors import text_of
from joblane.record.driver.connection import Connection
from joblane.sweep.next_sweep import NextSweep

T = TypeVar("T")
Item = TypeVar("Item")
FAILED: Any = object()

SHARE_SECONDS = 20
"""A duty that has used this time waits until each other duty has used as much, or has ended."""
SMALLER = 10
"""A batch that fails is repeated in this number of parts, or with so many times fewer rows."""
MOST_FAILURES = 10
"""After this number of failures of a duty, the next sweep does its rest."""


@dataclass
class Duties:
    """Runs duties. ``failed``: how often each duty failed; another sweep follows in one to five minutes."""

    connection: Connection
    following: NextSweep
    failed: Counter[str] = field(default_factory=Counter)

    def run(self, name: str, step: Callable[[], T], otherwise: T) -> T:
        """Return the result of ``step``. If it fails, log the error and return ``otherwise``.

        Raises the error if the connection is broken.
        """
        try:
            return step()
        except Exception as error:
            if not self.connection.usable:
                raise
            self.connection.rollback()
            self._note(name, error)
        return otherwise

    def run_batches(
        self, name: str, steps: Callable[[Sequence[Item]], Iterator[None]], batches: Iterable[Sequence[Item]]
    ) -> Iterator[None]:
        """Take the ``steps`` of each batch. One that fails is repeated last, in parts: one item may be the cause."""
        parts = deque[Sequence[Item]]()
        for batch in chain(batches, _taken(parts)):
            if self.failed[name] >= MOST_FAILURES:
                return
            has_more = partial(_has_more, steps(batch))
            while (answer := self.run(name, has_more, FAILED)) is True:
                yield
            if answer is FAILED:
                if len(batch) > 1:
                    size = math.ceil(len(batch) / SMALLER)
                    parts += [batch[start : start + size] for start in range(0, len(batch), size)]
                yield

    def take_turns(self, duties: Mapping[str, Iterator[None]], may_continue: Callable[[], bool]) -> bool:
        """Take a step of each duty in turn. Return False if there was no time for all steps."""
        used, numbers = Counter[str](), count()
        waiting = [(0, next(numbers), name) for name in duties]
        while waiting and may_continue():
            _, _, name = heappop(waiting)
            started = time.monotonic()
            has_more = self.run(name, partial(_has_more, duties[name]), False)
            used[name] += round(1000 * (time.monotonic() - started))
            if has_more:
                heappush(waiting, (used[name] // (1000 * SHARE_SECONDS), next(numbers), name))
        return not waiting

    def _note(self, name: str, error: Exception) -> None:
        self.following.is_due = True
        self.failed[name] += 1
        telemetry.logger().error(
            "a duty of the sweep failed. Its other duties continue, and the next sweep tries this one again. If a "
            "statement timed out (57014) or waited for a lock (55P03), the database is busy, or an open transaction "
            "holds a lock: end it. Otherwise remove the cause that the error names",
            extra={"duty": name, "error": text_of(error)},
            exc_info=None if isinstance(error, DatabaseError) else error,
        )


def within_share(may_continue: Callable[[], bool]) -> Callable[[], bool]:
    """Return ``may_continue`` for a duty that takes no turns: it is also false after :data:`SHARE_SECONDS`."""
    ends = time.monotonic() + SHARE_SECONDS
    return lambda: time.monotonic() < ends and may_continue()


def _taken(parts: deque[Sequence[Item]]) -> Iterator[Sequence[Item]]:
    while parts:
        yield parts.popleft()


def _has_more(steps: Iterator[None]) -> bool:
    """Take a step. Return False if there was none."""
    for _ in steps:
        return True
    return False
