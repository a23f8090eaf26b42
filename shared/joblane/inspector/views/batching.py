"""The saving of a larger ``batch_size`` for a type."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Obstacle(StrEnum):
    """Why no larger ``batch_size`` is advised."""

    PLACE = "place"
    FULL = "full"
    RESUMABLE = "resumable"
    LIMITED = "limited"
    LOST = "lost"
    TIMEOUT = "timeout"
    WAITS = "waits"
    ALONE = "alone"
    LITTLE = "little"


@dataclass(frozen=True, slots=True)
class Batching:
    """The saving of ``advised`` instead of ``batch_size``, if the next runs are like the runs of the last 7 days.

    ``advised`` None: no larger batch is advised, and ``obstacle`` says why. The numbers are then for the largest batch
    that the task allows.
    """

    type: str
    runs: int
    """Runs of the last 7 days, in whole hours."""
    batch_size: int
    advised: int | None
    obstacle: Obstacle | None
    messages: float
    """Mean number of messages of an invocation: at least as many waited in the lane at the same time."""
    usd_a_month: float
    """Requests of Lambda and SQS, and the time of the invocations that are spared."""
    usd_per_million: float
    share: float
    """The saving as a part of the estimated cost of the runs, from 0 to 1."""
    database_seconds_per_million: float
    """Processor time of PostgreSQL that is spared at most: a task with a session of its own is finished alone."""
    later_ms: int
    """Mean additional time until a job starts: those before it in its batch run first. Waits of runs do not include it,
    because they end with the claim of the batch."""
    latest_ms: int
    """The same for the last job of a full batch."""
