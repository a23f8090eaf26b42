"""The wait at which a run stops. A module of its own, because most functions never import it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


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
