"""Queues and lanes as they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.jobs.inspector.answers import Overview

if TYPE_CHECKING:
    from shared.jobs.inspector.reach import Reach


def overview(reach: Reach, minutes: int) -> Overview:
    raise NotImplementedError
