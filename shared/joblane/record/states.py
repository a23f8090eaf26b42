"""TODO doc."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


ARCHIVED_RETENTION = timedelta(days=90)
"""Archived tasks keep payload and error this long, as in asynq: well past the last dead letter."""
SWEEP_MARGIN_SECONDS = 60
"""How long after a message should have been handled the sweep sends it again."""
LIVE = "('scheduled', 'pending', 'active', 'retry')"


class State(StrEnum):
    """States of a task, as asynq names them, and ``cancelled``, which it lacks."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    ACTIVE = "active"
    RETRY = "retry"
    COMPLETED = "completed"
    ARCHIVED = "archived"
    CANCELLED = "cancelled"
