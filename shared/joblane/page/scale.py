"""Axes of charts: the ticks of values and of times, and the places of values between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import count

from joblane.inspector.durations import ONE_DAY, ONE_HOUR, ONE_MINUTE, UNITS
from joblane.page.cells import span, usd

MOST_STEPS = 5
"""Steps of an axis of values."""
NEAREST = 0.14
"""The smallest distance of two ticks on a logarithmic axis, as a share of its length."""
SHOWN = 0.99
"""The share of the columns that a clipped chart shows in full; at least the highest column is cut."""
SECONDS = (1, 2, 5, 15, 30, 60, 120, 300, 900, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400)
"""Steps of a duration, in seconds. Shorter and longer ones are 1, 2 or 5 times a power of ten, longer ones of days."""
POWERS = (0.001, 0.01, 0.1, 1, 10, 60, 600, 3_600, 21_600, 86_400, 864_000, 8_640_000)
"""Ticks of a duration on a logarithmic axis."""
TIMES = (
    *(number * ONE_MINUTE for number in (1, 5, 10, 15, 30)),
    *(number * ONE_HOUR for number in (1, 2, 3, 6, 12)),
    *(number * ONE_DAY for number in (1, 2, 7, 14, 28)),
)
"""Steps of an axis of time. Each counts from a midnight in UTC, and days from a Monday."""
MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
FINE, COARSE = 16, 6
"""Labels of an axis of time that is as wide as a desk's screen, and as a phone's."""


class Scale(StrEnum):
    """The way in which an axis shows large values."""

    LINEAR = "linear"
    CLIP = "clip"
    LOG = "log"


# --- Values -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unit:
    """The values of an axis. ``text``: of a tick. ``words``: of any value. ``steps``: the possible distances of ticks,
    smallest first.

    ``powers``: the possible ticks of a logarithmic axis. ``least``: the end of the axis without a value. ``one``: the
    value from which the logarithm counts; smaller ones are at the bottom.
    """

    text: Callable[[float], str]
    words: Callable[[float], str]
    steps: Callable[[], Iterator[float]]
    powers: Callable[[], Iterator[float]]
    least: float
    one: float


def _decimal(first: float) -> Callable[[], Iterator[float]]:
    """Return the numbers 1, 2 and 5 times each power of ten, from ``first`` on."""
    return lambda: (float(f"{step * first * 10.0**power:.6g}") for power in count() for step in (1, 2, 5))


def _powers(first: float) -> Callable[[], Iterator[float]]:
    return lambda: (float(f"{first * 10.0**power:.6g}") for power in count())


def _seconds() -> Iterator[float]:
    yield from (0.001 * step * 10**power for power in range(3) for step in (1, 2, 5))
    yield from SECONDS
    yield from (86_400 * step for step in _decimal(1)() if step > 1)


def _number(value: float) -> str:
    return f"{value:,.10g}"


def _duration(value: float) -> str:
    """A duration in the largest unit in which it is a whole number."""
    if value < 1:
        return span(value) if value else "0"
    return next(f"{value / size:,.10g} {unit}" for unit, size in (*UNITS, ("s", 1)) if size == 1 or value % size == 0)


NUMBER = Unit(_number, lambda value: f"{value:,.0f}", _decimal(1), _powers(1), 1, 1)
TIME = Unit(_duration, span, _seconds, lambda: iter(POWERS), 1, 0.001)
PERCENT = Unit(lambda value: f"{value:.4g} %", lambda value: f"{value:.1f} %", _decimal(0.01), _powers(0.1), 1, 0.1)
DOLLARS = Unit(usd, usd, _decimal(1e-6), _powers(1e-6), 0.01, 1e-6)


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from 0 to its last tick. ``one``: None for a linear axis."""

    ticks: tuple[float, ...]
    one: float | None = None

    @property
    def top(self) -> float:
        """The end of the axis."""
        return self.ticks[-1]

    def share(self, value: float) -> float:
        """Return the place of a value, from 0 at the bottom to 1; a larger value is at the end."""
        value = min(max(value, 0.0), self.top)
        if self.one is None:
            return value / self.top
        return math.log1p(value / self.one) / math.log1p(self.top / self.one)


def axis(tops: Sequence[float], unit: Unit, scale: Scale = Scale.LINEAR) -> Axis:
    """Return the axis for columns whose largest values are ``tops``. Values that are not finite are left out."""
    finite = sorted(value for value in tops if math.isfinite(value) and value > 0)
    largest = finite[-1] if finite else unit.least
    if scale is Scale.LOG:
        return _logarithmic(largest, unit)
    if scale is Scale.CLIP and finite:
        largest = finite[max(0, int(len(finite) * SHOWN) - 1)]
    step = next(step for step in unit.steps() if step * MOST_STEPS >= largest * (1 - 1e-9))
    number = max(1, math.ceil(largest / step - 1e-9))
    return Axis(tuple(float(f"{step * n:.9g}") for n in range(number + 1)))


def _logarithmic(largest: float, unit: Unit) -> Axis:
    top = next(step for step in unit.steps() if step >= largest * (1 - 1e-9))
    whole, ticks = Axis((0.0, top), unit.one), [top]
    below = []
    for power in unit.powers():
        if power >= top:
            break
        below.append(power)
    for power in reversed(below):
        if whole.share(ticks[0]) - whole.share(power) >= NEAREST and whole.share(power) >= NEAREST / 2:
            ticks.insert(0, power)
    return Axis((0.0, *ticks), unit.one)


# --- Times ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """A label of an axis of time. ``share``: its place, from 0 to 1. ``is_fine``: a phone has no room for it."""

    share: float
    text: str
    is_fine: bool


def times(start: datetime, end: datetime) -> list[Tick]:
    """Return the ticks from ``start`` to ``end``, at round times in UTC; a midnight has its date."""
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    length = end - start
    if length <= timedelta():
        return []
    fine = _step(length, FINE)
    multiples = (fine * number for number in count(1))
    coarse = next(
        step for step in multiples if length / step <= COARSE and (step in TIMES or step % ONE_DAY == timedelta())
    )
    first = MONDAY + -((MONDAY - start) // fine) * fine
    ticks = [first + n * fine for n in range(int((end - first) / fine) + 1)]
    return [
        Tick((at - start) / length, _label(at), is_fine=(at - MONDAY) % coarse != timedelta())
        for at in ticks
        if start <= at < end
    ]


def _step(length: timedelta, most: int) -> timedelta:
    longest = TIMES[-1]
    return next((step for step in TIMES if length / step <= most), longest * math.ceil(length / longest / most))


def _label(at: datetime) -> str:
    return f"{at.day} {at:%b}" if at.hour == at.minute == 0 else f"{at:%H:%M}"
