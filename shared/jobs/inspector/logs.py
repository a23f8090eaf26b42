"""The log lines of one task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.jobs.inspector.answers import LogLine

if TYPE_CHECKING:
    from shared.jobs.inspector.reach import Reach


def of_task(reach: Reach, id_: str, limit: int) -> tuple[LogLine, ...]:
    raise NotImplementedError
