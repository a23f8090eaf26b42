"""Enqueueing by hand, and what can be enqueued."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shared.jobs.inspector.answers import Acted, TypeView

if TYPE_CHECKING:
    from shared.jobs.inspector.reach import Reach


def types(reach: Reach) -> tuple[TypeView, ...]:
    raise NotImplementedError


def enqueue(
    reach: Reach, type_: str, payload: Mapping[str, Any], options: Mapping[str, Any], reason: str | None
) -> Acted:
    raise NotImplementedError
