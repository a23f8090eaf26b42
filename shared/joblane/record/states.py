"""The states of a task, their groups, and the times that go with them; each group for Python and for SQL."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from enum import StrEnum

ARCHIVED_RETENTION = timedelta(days=90)
"""Archived tasks keep payload and error this long, as in asynq: well past the last dead letter."""
SWEEP_MARGIN_SECONDS = 60
"""How long after a message should have been handled the sweep sends it again."""


class State(StrEnum):
    """States of a task, as asynq names them, and ``cancelled``, which it lacks."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    ACTIVE = "active"
    RETRY = "retry"
    COMPLETED = "completed"
    ARCHIVED = "archived"
    CANCELLED = "cancelled"


WAITING = frozenset({State.SCHEDULED, State.PENDING, State.RETRY})
"""No run of it is under way; a message or the sweep starts it."""
LIVE = WAITING | {State.ACTIVE}
"""It has not ended: it counts as work to do, and holds its unique key."""
ENDED = frozenset({State.COMPLETED, State.ARCHIVED, State.CANCELLED})
"""Nothing happens to it by itself any more but the end of its retention."""


def in_sql(states: Iterable[State]) -> str:
    """A list for SQL's ``in``: ``('scheduled', 'pending')``."""
    chosen = set(states)
    return f"({', '.join(repr(str(state)) for state in State if state in chosen)})"


WAITING_SQL, LIVE_SQL, ENDED_SQL = in_sql(WAITING), in_sql(LIVE), in_sql(ENDED)
