"""Schedules: cron text in a time zone, with the payload of its ticks, and the times at which it fires."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from joblane.errors import DeclarationError
from joblane.json_values import canonical
from joblane.tasks.arguments import EVERY, advised
from joblane.tasks.cron_text import both_must_match, each, five_fields, translate, values_of

DAYS_COUNTED = 364
"""The days over which the ticks of a schedule are counted: whole weeks, all months."""
NAME_PATTERN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
MAX_NAME = 20
"""A schedule's full name on AWS, prefix and type included, has 64 characters. Source: CreateSchedule, Scheduler API."""


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
        text = five_fields(self.text)
        try:
            expressions = translate(text)
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
    either = len(days) < 31 and len(weekdays) < 7 and not both_must_match(text)
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


@advised(EVERY)
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
        text = f"{each(total, 60)} * * * *"
    elif total and total % 60 == 0 and 24 % (total // 60) == 0:
        text = f"0 {each(total // 60, 24)} * * *"
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
    raise DeclarationError(
        f"schedule: {value!r} is neither a cron expression such as '0 2 * * *', nor cron(…), nor every(…)"
    )


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
            f"timezone {name!r} is not in the IANA database: write 'UTC' or a name such as 'Europe/Berlin', with "
            "its capitals; if no name is found, install the package tzdata"
        ) from None


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"moment: {moment!r} has no time zone")
    return moment.astimezone(UTC)
