"""The release of tasks whose parents have ended, see ``release_children.sql``."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from joblane.quotas import MAX_DELAY_SECONDS
from joblane.record.flow.free_slots import PAUSES_SECONDS, Call, Turn
from joblane.record.row.conditions import MOST_RELEASED
from joblane.record.sql_functions import VERSION

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection

RELEASE = f"select joblane.release_children_{VERSION}($1::text[], $2::text[])"
RELEASE_SECONDS = 1.0
"""The time for which the process that ends a task releases its children. It then wakes the sweep, which does the rest:
a task may have any number of children, and they may have children too."""


class Release:
    """The release of the children of ended tasks, after the commit of the ends.

    ``ended``: tasks whose children have to be looked for, or cancelled. ``children``: tasks that a committed finish has
    let go.

    ``is_done``: no step is left. It stays false if rows stay locked by others. The sweep finds everything that a
    release leaves, and the messages of a caller that dies before it has sent them.
    """

    def __init__(self, ended: Iterable[str], children: Iterable[str] = ()) -> None:
        self._parents, self._children = list(dict.fromkeys(ended)), list(dict.fromkeys(children))
        self._locked_parents: list[str] = []
        self._locked_children: list[str] = []

    @property
    def is_done(self) -> bool:
        return not (self._parents or self._children or self._locked_parents or self._locked_children)

    def steps(self, call: Call, *, to_end: bool = False) -> Iterator[list[Turn]]:
        """Yield the tasks of each step whose messages are to be sent.

        No step starts after :data:`RELEASE_SECONDS`, except with ``to_end``. If ``call`` returns None, no further step
        follows.
        """
        until = math.inf if to_end else time.monotonic() + RELEASE_SECONDS
        pauses = iter(PAUSES_SECONDS)
        while not self.is_done and time.monotonic() < until:
            if not self._parents and not self._children:
                if (pause := next(pauses, None)) is None:
                    return
                time.sleep(pause)
                self._parents, self._locked_parents = self._locked_parents, []
                self._children, self._locked_children = self._locked_children, []
            if (turns := call(self._step)) is None:
                return
            yield [turn for turn in turns if turn.delay <= MAX_DELAY_SECONDS]

    def _step(self, connection: Connection) -> list[Turn]:
        parents, children = self._parents[:MOST_RELEASED], self._children[:MOST_RELEASED]
        ((answer,),) = connection.run(RELEASE, parents, children)
        remaining = answer["remaining"]
        # Depth first, so that these lists stay short.
        self._parents = [*answer["ended"], *(remaining if answer["progress"] else ()), *self._parents[len(parents) :]]
        self._children = [*answer["children"], *self._children[len(children) :]]
        self._locked_parents += () if answer["progress"] else remaining
        self._locked_children += answer["later"]
        return [Turn(**turn) for turn in answer["turns"]]
