"""Tasks by filter, a page at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.jobs.inspector.answers import Count, Filter, Page

if TYPE_CHECKING:
    from shared.jobs.inspector.reach import Reach


COUNT_CAP = 10_000
"""Rows are counted up to here."""


def tasks(reach: Reach, filter_: Filter, after: str | None, limit: int) -> Page:
    raise NotImplementedError


def count(reach: Reach, filter_: Filter) -> Count:
    raise NotImplementedError
