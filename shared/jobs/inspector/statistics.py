"""What ran within a time, and what it cost."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from shared.jobs.inspector.answers import Statistic

if TYPE_CHECKING:
    from shared.jobs.inspector.reach import Reach


def statistics(reach: Reach, within: timedelta, by: str) -> tuple[Statistic, ...]:
    raise NotImplementedError
