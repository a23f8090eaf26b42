"""Looking a deployment over: is all there that has to be, and on?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.jobs.inspector.answers import Examined

if TYPE_CHECKING:
    from shared.jobs.inspector.reach import Reach


def examine(reach: Reach) -> tuple[Examined, ...]:
    raise NotImplementedError
