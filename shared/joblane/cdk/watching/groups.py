"""The division of a list over alarms, widgets and queries, which each accept a limited number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_groups(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield ``things`` in groups of at most ``size``, in their order."""
    return (things[start : start + size] for start in range(0, len(things), size))
