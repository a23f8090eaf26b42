"""Schedules: Unix cron text, its form for EventBridge Scheduler, and the times at which it fires.

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

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from joblane.errors import DeclarationError
from joblane.json_values import canonical

MACROS: Mapping[str, str] = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
DAYS_COUNTED = 364
"""The days over which the ticks of a schedule are counted: whole weeks, all months."""
NAME_PATTERN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
MAX_NAME = 20
"""A schedule's full name on AWS, prefix and type included, has 64 characters. Source: CreateSchedule, Scheduler API."""

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
        """Return the values of a text: ``"1-5/2,8"`` → ``{1, 3, 5, 8}``. Raises ValueError."""
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
    if not _both_must_match(text) and (len(days) == 31 or len(weekdays) == 7):  # "1-31 * MON" is every day
        days, weekdays = _DAY.values("*"), frozenset(range(7))
    return (*others, days, months, weekdays)


def _both_must_match(text: str) -> bool:
    """True if a day field starts with ``*``: a day has to match both day fields."""
    _, _, days, _, weekdays = text.split()
    return days.startswith("*") or weekdays.startswith("*")


def _translate(text: str) -> tuple[str, ...]:
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
    if not _both_must_match(text):
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


class Missed(StrEnum):
    """The policy for ticks that were missed, for example because nothing ran for hours."""

    LATEST = "latest"
    """The newest of them runs, late. The others do not run."""
    SKIP = "skip"
    """None of them runs."""


@dataclass(frozen=True)
class Schedule:
    """A schedule of a task, checked when it is made. Raises :class:`DeclarationError`."""

    text: str
    """Five fields of Unix cron, in capitals. A macro is replaced by its fields."""
    timezone: str = "UTC"
    """IANA name. A local time that a clock change skips does not fire; one that it repeats fires once."""
    payload: Mapping[str, object] = field(default_factory=dict, hash=False)
    """Payload of each tick. None: ``{}``."""
    name: str | None = None
    """Part of each tick's id and of the schedule's name on AWS. None: its position in the task's list."""
    missed: Missed | str = Missed.LATEST
    """Policy for ticks that did not come."""
    expressions: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """The form for EventBridge: one expression, or two that share the schedule's name in the ids of their ticks."""

    @property
    def json_payload(self) -> dict[str, Any]:
        """The payload as JSON values. Raises TypeError and ValueError for others."""
        return json.loads(canonical(self.payload))  # type: ignore[no-any-return]

    def __post_init__(self) -> None:
        text = _five_fields(self.text)
        try:
            expressions = _translate(text)
        except ValueError as error:
            raise DeclarationError(f"schedule {self.text!r}: {error}") from None
        _zone(self.timezone)
        payload = self.payload if self.payload is not None else {}
        if not isinstance(payload, Mapping):
            raise DeclarationError(
                f"schedule {self.text!r}: payload is a mapping or None, not {type(payload).__name__}"
            )
        if self.name is not None and not (NAME_PATTERN.fullmatch(self.name) and len(self.name) <= MAX_NAME):
            raise DeclarationError(
                f"schedule {self.text!r}: name {self.name!r} is not lower-case letters, digits and single hyphens, "
                f"{MAX_NAME} characters at most, for example 'nightly'"
            )
        try:
            missed = Missed(self.missed)
        except ValueError:
            one_of = ", ".join(Missed)
            raise DeclarationError(f"schedule {self.text!r}: missed: {self.missed!r} is not one of {one_of}") from None
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "missed", missed)
        object.__setattr__(self, "payload", dict(payload))
        object.__setattr__(self, "expressions", expressions)

    @property
    def ticks_a_day(self) -> float:
        """The average number of ticks of a day."""
        return _ticks_a_day(self.text)

    def next_after(self, moment: datetime) -> datetime:
        """Return the first time after ``moment`` at which the schedule fires, in UTC."""
        return next(self.after(moment))

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the times after ``moment`` at which the schedule fires, in UTC. They have no end."""
        moment = _in_utc(moment)
        wall = moment.astimezone(_zone(self.timezone)).replace(tzinfo=None)
        return (fire for fire in self._fires(wall) if fire > moment)

    def previous(self, moment: datetime) -> datetime:
        """Return the last time up to and including ``moment`` at which the schedule fires, in UTC."""
        moment = _in_utc(moment)
        local = moment.astimezone(_zone(self.timezone))
        wall = local.replace(second=0, microsecond=0, tzinfo=None) + timedelta(minutes=1)
        if local.fold:  # the clock went back: later local times have already passed
            wall += timedelta(days=1)
        return next(fire for fire in self._fires(wall, backwards=True) if fire <= moment)

    def _fires(self, wall: datetime, *, backwards: bool = False) -> Iterator[datetime]:
        """Yield the times in UTC at which the schedule fires after (or before) a local time.

        ``cronsim`` gets local times without a zone: with a zone, it moves skipped times to after the gap, as Debian
        cron does and EventBridge does not.
        """
        from cronsim import CronSim  # 20 ms that a declaration need not take

        zone = _zone(self.timezone)
        for local in CronSim(self.text, wall, reverse=backwards):
            fire = local.replace(tzinfo=zone).astimezone(UTC)  # fold=0: the first of a repeated time
            if fire.astimezone(zone).replace(tzinfo=None) == local:  # else the clock skips it
                yield fire


@lru_cache(maxsize=1_000)
def _ticks_a_day(text: str) -> float:
    """Return the ticks of an average day. The days are counted one by one, since three fields decide on them."""
    minutes, hours, days, months, weekdays = values_of(text)
    either = len(days) < 31 and len(weekdays) < 7 and not _both_must_match(text)
    first, number = date(2026, 1, 1), 0
    for day in (first + timedelta(days=offset) for offset in range(DAYS_COUNTED)):
        fits = (day.day in days, day.isoweekday() % 7 in weekdays)
        number += day.month in months and (any(fits) if either else all(fits))
    return len(minutes) * len(hours) * number / DAYS_COUNTED


def cron(
    text: str,
    *,
    timezone: str = "UTC",
    payload: Mapping[str, object] | None = None,
    name: str | None = None,
    missed: Missed | str = Missed.LATEST,
) -> Schedule:
    """Return a schedule with options of its own, for ``schedule`` of a task.

    Example: ``cron("0 8 * * 0", timezone="Europe/Berlin", payload={"scope": "week"}, name="weekly")``.

    Args:
        text: Five fields of Unix cron, ``minute hour day-of-month month day-of-week``, or a macro.
        timezone: IANA name, for example ``"Europe/Berlin"``.
        payload: Payload of each tick; it has to fit the task's payload class. None: ``{}``.
        name: Name of the schedule, unique within the task: lower-case letters, digits and single hyphens, 20 characters
            at most. It is part of each tick's id. None: the position in the task's list, from ``0``.
        missed: What happens to ticks that have no task 30 minutes after their time, for example because EventBridge
            Scheduler could not send them. ``"latest"``: the newest of them runs. ``"skip"``: none runs.

    Raises:
        DeclarationError: an argument is wrong.
    """
    return Schedule(text, timezone, payload or {}, name, missed)


def every(
    *,
    minutes: int = 0,
    hours: int = 0,
    timezone: str = "UTC",
    payload: Mapping[str, object] | None = None,
    name: str | None = None,
    missed: Missed | str = Missed.LATEST,
) -> Schedule:
    """Return a schedule with a fixed interval, counted from the full hour or from midnight.

    The schedule is a cron expression, because a ``rate()`` of EventBridge would start anew with each deploy. So the
    interval has to divide an hour or a day evenly.

    Example: ``every(minutes=15)``.

    Args:
        minutes: 1, 2, 3, 4, 5, 6, 10, 12, 15, 20 or 30.
        hours: 1, 2, 3, 4, 6, 8, 12 or 24.
        timezone: IANA name, for example ``"Europe/Berlin"``.
        payload: Payload of each tick; it has to fit the task's payload class. None: ``{}``.
        name: Name of the schedule, as for :func:`cron`.
        missed: As for :func:`cron`.

    Raises:
        DeclarationError: an argument is wrong.
    """
    whole = all(isinstance(part, int) and part >= 0 for part in (minutes, hours))
    total = minutes + 60 * hours if whole else 0
    if total and 60 % total == 0:
        text = f"{_each(total, 60)} * * * *"
    elif total and total % 60 == 0 and 24 % (total // 60) == 0:
        text = f"0 {_each(total // 60, 24)} * * *"
    else:
        raise DeclarationError(
            f"every(minutes={minutes!r}, hours={hours!r}): an interval must divide the hour (1, 2, 3, 4, 5, 6, 10, 12, "
            "15, 20 or 30 minutes) or be hours that divide the day (1, 2, 3, 4, 6, 8, 12 or 24)"
        )
    return Schedule(text, timezone, payload or {}, name, missed)


def parse(value: str | Schedule) -> Schedule:
    """Return the schedule of a task's ``schedule``: cron text, or the result of :func:`cron` or :func:`every`."""
    if isinstance(value, Schedule):
        return value
    if isinstance(value, str):
        return Schedule(value)
    raise DeclarationError(f"schedule: {value!r} is neither cron text, as '0 2 * * *', nor cron(…) nor every(…)")


def _each(step: int, size: int) -> str:
    return "*" if step == 1 else "0" if step == size else f"*/{step}"


def _five_fields(text: str) -> str:
    """Return the text in capitals with single spaces and without macros. Raises :class:`DeclarationError`."""
    if not isinstance(text, str):
        raise DeclarationError(f"schedule: {text!r} is not cron text, as '0 2 * * *'")
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


def _zone(name: str) -> tzinfo:
    """Return the time zone of that name. Raises :class:`DeclarationError`. UTC needs no time zone database."""
    if name == "UTC":
        return UTC
    try:
        # They exist, and differ from machine to machine, or exist on some machines only.
        if name in ("localtime", "posixrules", "Factory") or str(name).startswith(("right/", "posix/")):
            raise ValueError(name)
        return ZoneInfo(name)
    except (LookupError, OSError, TypeError, ValueError):
        raise DeclarationError(
            f"timezone {name!r} is not in the IANA database: write 'UTC' or a name such as 'Europe/Berlin', capitals "
            "and all; where no name is found, install the package tzdata"
        ) from None


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"moment: {moment!r} has no time zone")
    return moment.astimezone(UTC)
