"""A schedule in words: ``30 6 * * MON-FRI`` is ``weekdays at 06:30 Europe/Berlin``."""

from __future__ import annotations

from calendar import day_name, month_name
from collections.abc import Collection, Sequence

from joblane.tasks.cron_text import values_of

ORIGINS = {"code": "code", "run_time": "run time"}
"""Origin of a schedule → its words."""
MOST_TIMES = 4
"""Times of a day, or days of a month, that are listed. A schedule with more, and without a step, stays in cron."""


def a_day(ticks: float) -> str:
    """A number of ticks a day: ``1,440``, ``0.14``."""
    return f"{ticks:,.0f}" if ticks >= 10 else f"{ticks:.2g}"


def in_words(text: str, timezone: str) -> str:
    """``text``: five fields of cron. A schedule without a short name is given in cron, and so is a text that is not
    cron: a row may have been written by hand."""
    try:
        minutes, hours, days, months, weekdays = (sorted(found) for found in values_of(text))
    except ValueError:
        return f"cron {text} {timezone}"
    often, at = _often(minutes, hours), _at(minutes, hours)
    on = _days(days, months, weekdays)
    if on is None or not (often or at):
        return f"cron {text} {timezone}"
    if not often:
        return f"{on or 'every day'} at {at} {timezone}"
    if not on:
        return often if len(hours) == 24 and timezone == "UTC" else f"{often} {timezone}"
    return f"{often} {on if on.startswith('on ') else f'on {on}'} {timezone}"


def _often(minutes: Sequence[int], hours: Sequence[int]) -> str:
    """``every 15 minutes from 09:00 to 17:45``; empty if it is not that regular."""
    step = _step(minutes, 60)
    spans = len(hours) == 24 or (len(hours) > 2 and _is_range(hours))
    within = "" if len(hours) == 24 else f" from {hours[0]:02}:{minutes[0]:02} to {hours[-1]:02}:{minutes[-1]:02}"
    if step and spans:
        return f"every {'minute' if step == 1 else f'{step} minutes'}{within}"
    if len(minutes) == 1 and spans:
        past = f" at :{minutes[0]:02}" if minutes[0] and not within else ""
        return f"every hour{past}{within}"
    step = _step(hours, 24)
    if len(minutes) == 1 and step and step < 12:
        return f"every {step} hours" + (f" at :{minutes[0]:02}" if minutes[0] else "")
    if len(hours) == 24 and len(minutes) <= MOST_TIMES:
        return "every hour at " + listed([f":{minute:02}" for minute in minutes])
    return ""


def _at(minutes: Sequence[int], hours: Sequence[int]) -> str:
    """``06:00 and 18:00``; empty if these are too many."""
    if len(minutes) * len(hours) > MOST_TIMES:
        return ""
    return listed([f"{hour:02}:{minute:02}" for hour in hours for minute in minutes])


def _days(days: Sequence[int], months: Sequence[int], weekdays: Collection[int]) -> str | None:
    """``weekdays in July``; empty for every day, None if it is not that regular."""
    in_months = "" if len(months) == 12 else listed([month_name[month] for month in months])
    of_week = "" if len(weekdays) == 7 else _of_week(weekdays)
    if len(days) == 31:
        name = of_week or ("every day" if in_months else "")
        return f"{name} in {in_months}" if in_months else name
    if len(days) > MOST_TIMES and not _is_range(days):
        return None
    numbers = listed([nth(day) for day in days]) if len(days) <= MOST_TIMES else f"{nth(days[0])} to {nth(days[-1])}"
    dates = f"on the {numbers} of {in_months or 'the month'}"
    return f"{dates}, and {of_week}{f' in {in_months}' if in_months else ''}," if of_week else dates


def _of_week(weekdays: Collection[int]) -> str:
    known = {(1, 2, 3, 4, 5): "weekdays", (0, 6): "weekends"}
    return known.get(tuple(sorted(weekdays))) or listed([f"{day_name[day - 1]}s" for day in sorted(weekdays)])


def _step(values: Sequence[int], size: int) -> int | None:
    """The step of several values from 0 that divides ``size`` evenly."""
    step = size // len(values)
    return step if len(values) > 1 and [*values] == [*range(0, size, step)] and size % step == 0 else None


def _is_range(values: Sequence[int]) -> bool:
    return values[-1] - values[0] == len(values) - 1


def nth(number: int) -> str:
    """``1st``, ``22nd``, ``113th``."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
