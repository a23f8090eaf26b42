"""What an operator does to one task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shared.jobs.inspector.answers import Acted

if TYPE_CHECKING:
    from shared.jobs.inspector.reach import Reach


def run(reach: Reach, id_: str, reason: str | None) -> Acted:
    raise NotImplementedError


def retry(reach: Reach, id_: str, reason: str | None) -> Acted:
    raise NotImplementedError


def archive(reach: Reach, id_: str, reason: str | None) -> Acted:
    raise NotImplementedError


def delete(reach: Reach, id_: str, reason: str | None) -> Acted:
    raise NotImplementedError


def cancel(reach: Reach, id_: str, reason: str | None) -> Acted:
    raise NotImplementedError


def replay(reach: Reach, id_: str, reason: str | None) -> Acted:
    raise NotImplementedError


def edit(reach: Reach, id_: str, payload: Mapping[str, Any], reason: str | None) -> Acted:
    raise NotImplementedError


def replay_with(reach: Reach, id_: str, payload: Mapping[str, Any], reason: str | None) -> Acted:
    raise NotImplementedError
