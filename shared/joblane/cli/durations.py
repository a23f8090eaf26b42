"""Durations for columns: ``10m``, ``3h20m``, ``5d``."""

from __future__ import annotations

from datetime import datetime


def short(seconds: float) -> str:
    """Seconds in at most two units: ``43s``, ``12m``, ``3h20m``, ``5d``."""
    if seconds < 1:
        return "0s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes}m" if minutes and hours < 10 else f"{hours}h"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours}h" if hours and days < 3 else f"{days}d"


def milliseconds(value: float | None) -> str:
    """``87 ms``, ``4.2 s``, ``4m44s``, ``12m``; a dash for None."""
    if value is None:
        return "–"
    if value < 1000:
        return f"{value:.0f} ms"
    if value < 60_000:
        return f"{value / 1000:.1f} s"
    minutes, seconds = divmod(round(value / 1000), 60)
    return f"{minutes}m{seconds}s" if minutes < 10 and seconds else short(value / 1000)


def relative(at: datetime, now: datetime) -> str:
    """``3m ago``, ``in 2h``."""
    seconds = (at - now).total_seconds()
    return f"in {short(seconds)}" if seconds >= 1 else f"{short(-seconds)} ago"
