"""Unix cron text: the values of its fields, and its form for EventBridge Scheduler.

Schedules are written as in a crontab: ``minute hour day-of-month month day-of-week``, or a macro such as ``@hourly``.
EventBridge Scheduler takes ``cron(minute hour day-of-month month day-of-week year)`` and differs in this:

=====================  =======================  =======================================================
what                   Unix                     EventBridge
=====================  =======================  =======================================================
day-of-week            0-7, Sunday is 0 and 7   1-7 from Sunday; by name, SUN-SAT, none is off by one
both day fields set    either may match         refused, one must be ``?``; so two schedules are made
one starts with ``*``  both must match          as above; refused here if both leave out days
``/``                  ``range/step``           ``first/step`` to the field's end; none in day-of-week
clock goes forward     runs skipped times late  a local time that does not exist does not fire
clock goes back        depends on the fields    a local time that comes twice fires once; AWS does not document
                                                which, the first is assumed here
=====================  =======================  =======================================================

Each field is expanded to its values and written anew, so that steps and ranges need not mean the same on both sides.

Sources:
crontab(5) of Debian cron, with the rule of its ``DOM_STAR`` and ``DOW_STAR`` flags as ``cronsim`` has it;
https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html (fields, wildcards, clock changes);
https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-cron-expressions.html (the same fields).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from joblane.errors import DeclarationError

MACROS: Mapping[str, str] = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_TERM = re.compile(r"(\*|(?P<first>[0-9]+|[A-Z]+)(-(?P<last>[0-9]+|[A-Z]+))?)(/(?P<step>[0-9]+))?")
_QUARTZ = re.compile(r"[?#]|^L|[0-9][LW]$")
_LONGEST_MONTH = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True)
class _Field:
    """A field of Unix cron. ``names``: names of the values, from ``low``."""

    title: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def values(self, text: str) -> frozenset[int]:
        """Return the values of this field: ``"1-5/2,8"`` → ``{1, 3, 5, 8}``. Raises ValueError."""
        return frozenset(value for term in text.split(",") for value in self._term(term))

    def _term(self, term: str) -> range:
        match = _TERM.fullmatch(term)
        if match is None:
            raise self._refusal(term, self._advice(term))
        first, last, step_text = match["first"], match["last"], match["step"]
        low = self._number(first, term) if first else self.low
        high = self._number(last, term) if last else low if first else self.high
        if low > high:
            bottom, top = (self.names[0], self.names[-1]) if self.names else (self.low, self.high)
            raise self._refusal(term, f"a range runs upwards: write '{first}-{top},{bottom}-{last}'")
        if step_text and first and not last:
            raise self._refusal(term, f"a step needs '*' or a range: write '{first}-{self.high}/{step_text}'")
        if step_text and not 1 <= int(step_text) <= high - low:  # cronsim takes '9-9/2' for '9-59/2'
            raise self._refusal(term, f"a step is 1 or more and reaches a second value within {low}-{high}")
        return range(low, high + 1, int(step_text or 1))

    def _number(self, text: str, term: str) -> int:
        if text in self.names:
            return self.low + self.names.index(text)
        if not text.isdigit() or not self.low <= int(text) <= self.high:
            raise self._refusal(term, self._advice(term))
        return int(text)

    def _advice(self, term: str) -> str:
        if _QUARTZ.search(term):
            return (
                "'?', 'L', 'W' and '#' are not Unix cron: write '*' for '?'; for the last or n-th day name every day "
                "it can fall on, as '28-31', and let the task look at the date"
            )
        names = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        return f"write '*', {self.low}-{self.high}{names}, a range 'a-b', a step '*/n' or 'a-b/n', or a list of these"

    def _refusal(self, term: str, advice: str) -> ValueError:
        return ValueError(f"{self.title} {term!r}: {advice}")


_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day-of-month", 1, 31)
_MONTH = _Field("month", 1, 12, ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"))
_WEEKDAY = _Field("day-of-week", 0, 7, ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"))


def values_of(text: str) -> tuple[frozenset[int], ...]:
    """Return minutes, hours, days of the month, months, and days of the week from Sunday, which is 0.

    If both kinds of days are limited, either may match. ``text``: the text of a :class:`Schedule`.
    """
    fields = (_MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY)
    *others, days, months, weekdays = (field.values(part) for field, part in zip(fields, text.split(), strict=True))
    weekdays = frozenset(number % 7 for number in weekdays)
    if not both_must_match(text) and (len(days) == 31 or len(weekdays) == 7):  # "1-31 * MON" is every day
        days, weekdays = _DAY.values("*"), frozenset(range(7))
    return (*others, days, months, weekdays)


def both_must_match(text: str) -> bool:
    """True if a day field starts with ``*``: a day has to match both day fields."""
    _, _, days, _, weekdays = text.split()
    return days.startswith("*") or weekdays.startswith("*")


def translate(text: str) -> tuple[str, ...]:
    """Translate five fields to one EventBridge expression, or to two that together fire when either day field matches.

    On a day that both match, both fire at the same time. The tick's id, made of schedule and time, is then the same, so
    the task runs once. Raises ValueError with the name of the wrong field.
    """
    minutes, hours, days, months, weekdays = values_of(text)
    _, _, day_text, month_text, weekday_text = text.split()
    clock = f"{_written(minutes, 0, 59)} {_written(hours, 0, 23)}"
    # Refused with a weekday, too: "0 0 31 2 MON" is valid cron for Mondays, and surely a mistake.
    if min(_DAY.values(day_text)) > max(_LONGEST_MONTH[month] for month in months):
        raise ValueError(f"day-of-month {day_text!r} never comes in month {month_text!r}: name a day that month has")

    month = _written(months, 1, 12)
    every_day, every_weekday = len(days) == 31, len(weekdays) == 7
    by_date = f"cron({clock} {_written(days, 1, 31)} {month} ? *)"
    by_weekday = f"cron({clock} ? {month} {_written(weekdays, 0, 6, _WEEKDAY.names)} *)"
    if every_weekday:
        return (by_date,)
    if every_day:
        return (by_weekday,)
    if not both_must_match(text):
        return by_date, by_weekday
    raise ValueError(
        f"day-of-month {day_text!r} and day-of-week {weekday_text!r}: where one of them starts with '*', cron wants "
        "both to match, and EventBridge cannot; leave one as '*' and let the task look at the date"
    )


def _written(values: Collection[int], low: int, high: int, names: tuple[str, ...] = ()) -> str:
    """Return a field's values as EventBridge reads them: ``*``, ``0/15``, ``MON-FRI``, ``1-3,7``."""
    ordered = sorted(values)
    if len(ordered) == high - low + 1:
        return "*"
    if len(ordered) > 2 and not names:
        first, step = ordered[0], ordered[1] - ordered[0]
        if step > 1 and ordered == list(range(first, high + 1, step)):
            return f"{first}/{step}"
    runs: list[list[int]] = []
    for value in ordered:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    label = names or tuple(str(value) for value in range(high + 1))  # names start at 0
    return ",".join(
        f"{label[run[0]]}-{label[run[-1]]}" if len(run) > 2 else ",".join(label[value] for value in run) for run in runs
    )


def each(step: int, size: int) -> str:
    return "*" if step == 1 else "0" if step == size else f"*/{step}"


def five_fields(text: str) -> str:
    """Return the text in capitals with single spaces and without macros. Raises :class:`DeclarationError`."""
    if not isinstance(text, str):
        raise DeclarationError(f"schedule: {text!r} is not a cron expression such as '0 2 * * *'")
    fields = MACROS.get(text.strip().lower(), text).upper().split()
    if len(fields) == 5:
        return " ".join(fields)
    if text.strip().startswith("@"):
        advice = f"no such macro; there are {', '.join(MACROS)}, and every(minutes=15) for intervals"
    elif text.strip().startswith(("cron(", "rate(", "at(")):
        advice = "EventBridge's form is made from Unix cron: write five fields, or every(minutes=15) for a rate"
    else:
        advice = (
            f"{len(fields)} fields where Unix cron has five: minute hour day-of-month month day-of-week; "
            "there are no seconds and no year, and the time zone is timezone="
        )
    raise DeclarationError(f"schedule {text!r}: {advice}")
