"""Schedules: what comes next, and what came."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.jobs.inspector.answers import Acted, ScheduleView

if TYPE_CHECKING:
    from shared.jobs.inspector.reach import Reach


def schedules(reach: Reach) -> tuple[ScheduleView, ...]:
    raise NotImplementedError


def tick(reach: Reach, type_: str, schedule: str | None, reason: str | None) -> Acted:
    raise NotImplementedError
