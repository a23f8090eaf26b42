"""The states of a task, and their groups for Python and for SQL."""

from __future__ import annotations

from collections.abc import Iterable
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


PARENTS = "*parents"
"""Value of ``waits_for`` of a task that waits for its parents. No limit has such a name."""


def in_sql(states: Iterable[State]) -> str:
    """Return a list for SQL's ``in``: ``('scheduled', 'pending')``."""
    chosen = set(states)
    return f"({', '.join(repr(str(state)) for state in State if state in chosen)})"


WAITING_SQL, LIVE_SQL, ENDED_SQL = in_sql(WAITING), in_sql(LIVE), in_sql(ENDED)
