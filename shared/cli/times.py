"""Times and durations as people write and read them: ``10m``, ``2h``, ``3d``, and ISO 8601."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
SHAPE = re.compile(rf"(?:{PART.pattern})+")
LONGEST = timedelta(days=36500)
FORM = "a number with s, m, h, d or w, such as 90s, 10m or 1h30m"


def duration(text: str) -> timedelta:
    """``1h30m`` → a timedelta. Raises ValueError with the form that is right."""
    if not SHAPE.fullmatch(text):
        raise ValueError(f"{text!r} is no duration; give {FORM}")
    seconds = sum(float(number) * SECONDS[unit] for number, unit in PART.findall(text))
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"{text!r} is longer than {LONGEST.days} days")
    return timedelta(seconds=seconds)


def moment(text: str) -> datetime:
    """ISO 8601 → an aware time; without an offset it is UTC. Raises ValueError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no time; give one such as 2026-11-25T14:30Z, which is UTC without the Z"
        ) from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is beyond the calendar") from None


def ago(text: str, now: datetime) -> datetime:
    """A duration before ``now``, or a time as it is. Raises ValueError."""
    return now - duration(text) if SHAPE.fullmatch(text) else _moment_or_duration(text)


def _moment_or_duration(text: str) -> datetime:
    try:
        return moment(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a duration ({FORM}) nor a time such as 2026-11-25T14:30Z") from None


def short(seconds: float) -> str:
    """Seconds in two units at the most, for a column: ``43s``, ``12m``, ``3h20m``, ``5d``."""
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
    """``87 ms``, ``4.2 s``, ``12m``; a dash where there is none."""
    if value is None:
        return "–"
    if value < 1000:
        return f"{value:.0f} ms"
    return f"{value / 1000:.1f} s" if value < 60_000 else short(value / 1000)


def stamp(at: datetime) -> str:
    """``2026-11-25 14:30:05Z``."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def relative(at: datetime, now: datetime) -> str:
    """``3m ago``, ``in 2h``."""
    seconds = (at - now).total_seconds()
    return f"in {short(seconds)}" if seconds >= 1 else f"{short(-seconds)} ago"
