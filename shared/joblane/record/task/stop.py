"""The waits of a run: whether it can stop, and the wait at which it stops. Most functions never import this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from joblane.errors import StepError


@dataclass(frozen=True, slots=True)
class Stop:
    """The wait at which a run stops.

    ``signal`` None: a sleep, a poll, or a wait for children. ``seconds``: until it ends, from the first stop; or
    ``at``: that time. ``again``: seconds until the next look of a poll. ``children``: the tasks that this run has
    enqueued, and for which it waits.
    """

    name: str
    signal: str | None = None
    seconds: float | None = None
    at: datetime | None = None
    again: float | None = None
    children: Sequence[str] | None = None


@dataclass(slots=True)
class WaitsOfRun:
    """The state of a run's waits."""

    refusal: str | None = None
    """The reason why the run cannot stop at a wait, and what to do instead. None: it can."""
    stop: Stop | None = None
    """The wait at which the run stops. None: it has reached no open wait."""
    misplaced: StepError | None = None
    """The error of a wait in a thread or another asyncio task. Its handler may never see it."""
