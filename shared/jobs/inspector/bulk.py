"""Actions on many tasks: each a task of type ``jobs:bulk``, with a frozen filter, progress and an end of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.jobs.inspector.answers import BulkAction, BulkView, Filter

if TYPE_CHECKING:
    from shared.jobs.inspector.reach import Reach


def start(
    reach: Reach, action: BulkAction, filter_: Filter, *, rate: int, canary: int = 0, reason: str | None
) -> BulkView:
    raise NotImplementedError


def view(reach: Reach, id_: str) -> BulkView:
    raise NotImplementedError


def bulks(reach: Reach, limit: int) -> tuple[BulkView, ...]:
    raise NotImplementedError


def abort(reach: Reach, id_: str, reason: str | None) -> BulkView:
    raise NotImplementedError
