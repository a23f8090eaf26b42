"""Pausing a queue, a type, a tenant or a schedule."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from shared.jobs.inspector.answers import Pause, PauseScope

if TYPE_CHECKING:
    from shared.jobs.inspector.reach import Reach


def current(reach: Reach) -> tuple[Pause, ...]:
    raise NotImplementedError


def pause(reach: Reach, scope: PauseScope, name: str, reason: str | None, until: datetime | None) -> Pause:
    raise NotImplementedError


def resume(reach: Reach, scope: PauseScope, name: str, reason: str | None) -> Pause:
    raise NotImplementedError
