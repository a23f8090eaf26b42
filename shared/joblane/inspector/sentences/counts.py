"""Numbers and names in sentences: ``1,200 tasks wait``, ``a, b, c, …``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from joblane.inspector.views import Count, Preview


def first_of(names: Sequence[str], most: int = 3) -> str:
    """``a, b, c, …``: the first names of a list. ``most``: their number."""
    return ", ".join(names[:most]) + ", …" * (len(names) > most)


def plural(number: int, noun: str = "task") -> str:
    """``1 task``, ``1,200 tasks``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def waits(number: int, noun: str = "task") -> str:
    """``1 task waits``, ``1,200 tasks wait``."""
    return f"{plural(number, noun)} wait{'s' if number == 1 else ''}"


def counted(count: Count | Preview, noun: str = "task") -> str:
    """``at least 10,000 tasks``."""
    return ("" if count.exact else "at least ") + plural(count.number, noun)


def by(who: str | None) -> str:
    return f" by {who}" if who else ""


def because(reason: str | None) -> str:
    return f": {reason}" if reason else ""
