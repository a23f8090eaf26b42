"""One task whole, and why it is not running."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.jobs.inspector.answers import TaskView

if TYPE_CHECKING:
    from shared.jobs.inspector.reach import Reach


def task(reach: Reach, id_: str) -> TaskView:
    raise NotImplementedError
