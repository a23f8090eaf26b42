"""What operators have done, when and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.jobs.inspector.answers import AuditEntry

if TYPE_CHECKING:
    from shared.jobs.inspector.reach import Reach


def entries(
    reach: Reach, target: str | None, who: str | None, before: int | None, limit: int
) -> tuple[AuditEntry, ...]:
    raise NotImplementedError
