"""The states of a task, and their groups for Python and for SQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TypeVar

Word = TypeVar("Word", bound=StrEnum)
ARCHIVED_RETENTION = timedelta(days=90)
"""Archived tasks keep payload and error this long, as in asynq. SQS deletes their dead letters much earlier."""
SWEEP_MARGIN_SECONDS = 60
"""The sweep handles a task this long after it was due, if no worker has claimed it."""


class State(StrEnum):
    """The states of a task: those of asynq, ``held`` and ``cancelled``. A held task waits for a slot of a limit, or for
    other tasks."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    HELD = "held"
    ACTIVE = "active"
    RETRY = "retry"
    COMPLETED = "completed"
    ARCHIVED = "archived"
    CANCELLED = "cancelled"


WAITING = frozenset({State.SCHEDULED, State.PENDING, State.HELD, State.RETRY})
"""No run is under way. A message, the sweep, or the end of another task starts it."""
LIVE = WAITING | {State.ACTIVE}
"""The task has not ended. It holds its unique key."""
ENDED = frozenset({State.COMPLETED, State.ARCHIVED, State.CANCELLED})
"""The task has ended. Its row changes only when an operator acts, and when it expires."""


def as_read(kind: type[Word], text: str) -> Word:
    """Return the member of a word in a row. A word that no code writes is a member of its own, so that it is shown."""
    try:
        return kind(text)
    except ValueError:
        unknown = str.__new__(kind, text)
        unknown._name_ = unknown._value_ = text
        return unknown


class WaitKind(StrEnum):
    """The kinds of ``wait_kind``."""

    LIMIT = "limit"
    """It waits for a slot of the limit in ``waits_for``."""
    PARENTS = "parents"
    """It waits for other tasks, those in ``task_parents``."""


class Passed(StrEnum):
    """The steps of a task on its way through its limits, in their order.

    At each limit the task takes a slot, and then a time, if the limit has a rate. It passes a limit that it does not
    have. Before the first step, ``passed`` is null.
    """

    KEY_SLOT = "key_slot"
    KEY_TIME = "key_time"
    TYPE_SLOT = "type_slot"
    TYPE_TIME = "type_time"
    SHARED_SLOT = "shared_slot"
    ALL = "all"
    """It has a slot and a time of each of its limits."""


@dataclass(frozen=True, slots=True)
class Level:
    """A level of limits: the column of ``tasks`` with the limit's name, and the steps that take its slot and its time.

    A task has the slot from the first step on. At the second it may wait for the time, which is its ``due_at``.
    """

    column: str
    slot: Passed
    time: Passed

    @property
    def has_slot(self) -> str:
        """The condition on ``passed`` that a task has the slot, without the column, as in the index of the level."""
        steps = [*Passed]
        first = steps.index(self.slot)
        return f"in {_listed(steps[first:])}" if first else "is not null"


LEVELS: Mapping[int, Level] = {
    1: Level("key_limit", Passed.KEY_SLOT, Passed.KEY_TIME),
    2: Level("total_limit", Passed.TYPE_SLOT, Passed.TYPE_TIME),
    3: Level("shared_limit", Passed.SHARED_SLOT, Passed.ALL),
}
"""The levels of limits, from the narrowest to the widest."""


def in_sql(states: Iterable[State]) -> str:
    """Return a list for SQL's ``in``: ``('scheduled', 'pending')``."""
    chosen = set(states)
    return _listed(state for state in State if state in chosen)


def _listed(words: Iterable[StrEnum]) -> str:
    return f"({', '.join(repr(str(word)) for word in words)})"


WAITING_SQL, LIVE_SQL, ENDED_SQL = in_sql(WAITING), in_sql(LIVE), in_sql(ENDED)
