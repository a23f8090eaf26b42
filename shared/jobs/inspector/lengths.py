"""Lengths of time in sentences."""

from __future__ import annotations

from datetime import timedelta

UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def lasting(time: timedelta) -> str:
    """``3 d``, ``4 h``, ``5 min``, ``6 s``: the largest unit that fits; ``0 s`` for less than nothing."""
    seconds = max(0, int(time.total_seconds()))
    return next((f"{seconds // size} {unit}" for unit, size in UNITS if seconds >= size), f"{seconds} s")
