"""Dead letters: what was given up, grouped by what went wrong, and sent back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.jobs.inspector.answers import BulkView, DeadLetters, Filter

if TYPE_CHECKING:
    from shared.jobs.inspector.reach import Reach


def groups(reach: Reach) -> DeadLetters:
    raise NotImplementedError


def redrive(reach: Reach, filter_: Filter, canary: int, rate: int, reason: str | None) -> BulkView:
    raise NotImplementedError
