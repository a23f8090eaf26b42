"""Times and durations, as people write and read them: ``10m``, ``1h30m``, ``2026-11-25 14:30:05Z``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

ONE_MINUTE, ONE_HOUR, ONE_DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))
SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
PART = re.compile(r"(\d+(?:\.\d+)?)(s|min|m|h|d|w)")
SHAPE = re.compile(rf"(?:{PART.pattern})+")
RATE_SHAPE = re.compile(r"(\d{1,9})/(.+)")
CLOCK_SHAPE = re.compile(r"\d{1,2}:\d{2}[Zz]?")
LONGEST = timedelta(days=36_500)
FORMS = "90s, 10m, 1h30m, 3d or 1w"


def duration(text: str) -> timedelta:
    """``1h30m`` → a timedelta. Raises ValueError with examples of the right form."""
    if not SHAPE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration; give a number and a unit, such as {FORMS}")
    seconds = sum(float(number) * SECONDS[unit] for number, unit in PART.findall(text))
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"{text!r} is longer than {LONGEST.days} days")
    return timedelta(seconds=seconds)


def starts(text: str) -> tuple[int, timedelta]:
    """``100/1m`` → the starts of a rate, and the time in which they may start. Raises ValueError."""
    match = RATE_SHAPE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a rate; give starts and a time, such as 100/1m or 5/1s")
    return int(match[1]), duration(match[2])


def written(time: timedelta) -> str:
    """The text that :func:`duration` reads as ``time``: ``90d``, ``1h30m``; fractions of a second are dropped."""
    left = int(time.total_seconds())
    if left <= 0:
        return f"{left}s"
    parts = []
    for unit in ("d", "h", "m", "s"):
        number, left = divmod(left, SECONDS[unit])
        parts += [f"{number}{unit}"] if number else []
    return "".join(parts)


def moment(text: str) -> datetime:
    """ISO 8601 → an aware time; UTC if the text has no offset. Raises ValueError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a time; give ISO 8601, such as 2026-11-25T14:30Z (UTC if it has no offset)"
        ) from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is outside the calendar") from None


def ago(text: str, now: datetime) -> datetime:
    """``now`` minus a duration, the last ``14:30`` in UTC, or the given time. Raises ValueError."""
    if CLOCK_SHAPE.fullmatch(text):
        today = moment(f"{now.astimezone(UTC):%Y-%m-%d}T{text.rstrip('Zz').zfill(5)}")
        return today if today <= now else today - timedelta(days=1)
    return now - duration(text) if SHAPE.fullmatch(text) else _moment_or_duration(text)


def _moment_or_duration(text: str) -> datetime:
    try:
        return moment(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a duration, such as {FORMS}, nor a time, such as 14:30 or 2026-11-25T14:30Z (UTC)"
        ) from None


def stamp(at: datetime) -> str:
    """``2026-11-25 14:30:05Z``."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def lasting(time: timedelta) -> str:
    """``3 d``, ``4 h``, ``5 min``, ``6 s``: in the largest unit that fits; ``0 s`` for a negative time."""
    seconds = max(0, int(time.total_seconds()))
    return next((f"{seconds // size} {unit}" for unit, size in UNITS if seconds >= size), f"{seconds} s")


def milliseconds(ms: float) -> str:
    """``87 ms``, ``4.2 s``."""
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"
