"""An option of an enqueue: its values in Python, as JSON and in words, and its bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal


def _same(value: Any) -> Any:
    return value


@dataclass(eq=False, repr=False)
class Values:
    """The values of an option: in Python, as JSON, and in words."""

    words: str = ""
    """The values in JSON, with places for the bounds of the option. Empty: no message has such an option."""
    metavar: str = ""
    """Stands for a value in the help of the command line. Empty: the last word of the flag does."""
    unit: str = ""
    """The unit of bounds that are numbers."""
    to_json: Callable[[Any], Any] = _same
    """For a valid value."""
    from_json: Callable[[Any], Any] = _same
    """Raises ValueError for JSON of another form. The check of an enqueue refuses other wrong values."""
    choices: type[StrEnum] | None = None
    """All values, the usual one first. None: any value within the bounds."""


def _seconds(value: Any) -> timedelta:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < MAX_SECONDS:
        raise ValueError("a number of seconds is required")
    return timedelta(seconds=value)


def _moment(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("a time with its zone is required, for example '2030-01-31T12:00:00Z'")
    return moment


MAX_SECONDS = timedelta.max.total_seconds()
TEXT = Values()
NUMBER = Values("a whole number, {low} or more", "N")
DURATION = Values(
    "a number of seconds from {low} to {high}", "DURATION", to_json=timedelta.total_seconds, from_json=_seconds
)
DURATIONS = Values(
    "seconds, one number or a list of 1 to {most}",
    "DURATION",
    to_json=lambda value: [each.total_seconds() for each in ([value] if isinstance(value, timedelta) else value)],
    from_json=lambda value: [_seconds(each) for each in value] if isinstance(value, list) else _seconds(value),
)
MOMENT = Values(
    "a time with its zone, for example '2030-01-31T12:00:00Z'",
    "TIME",
    to_json=datetime.isoformat,
    from_json=_moment,
)
TEXTS = Values(
    "a list of at most {most} strings of {low} to {high} characters",
    unit=" characters",
    to_json=lambda value: list(dict.fromkeys(value)),
)
HEADERS = Values(to_json=dict)
IDS = Values()


def choice(choices: type[StrEnum], metavar: str = "") -> Values:
    return Values(metavar=metavar, to_json=str, choices=choices)


@dataclass(eq=False, repr=False)
class Option:
    """An option of an enqueue: its facts in addition to name, type, default and text of the field of :class:`Job`."""

    values: Values
    flags: tuple[str, ...] = ()
    """The option of `joblane enqueue`. Empty: neither the command line nor the page has it."""
    help: str = ""
    """A sentence without its full stop, for the command line and the page."""
    example: str = ""
    label: str = ""
    """The label on the page. Empty: the name."""
    low: Any = None
    """The smallest value, or the smallest entry of a list: for strings their characters, for a time None."""
    high: Any = None
    """The largest one. For a time: how far ahead."""
    most: int | None = None
    """Maximum number of entries of a list."""
    declared: Literal["always", "without a row"] | None = None
    """The task's attribute of this name is the maximum: of every task, or of a task without a row."""
    needs_row: bool = False
    """A ``MessageClient`` refuses it."""
    not_of_ticks: str = ""
    """The reason why a schedule refuses it. Empty: a schedule takes it."""

    @property
    def bounds(self) -> tuple[int | None, int | None]:
        """``low`` and ``high`` in JSON."""
        low, high = (each.total_seconds() if isinstance(each, timedelta) else each for each in (self.low, self.high))
        return None if low is None else int(low), None if high is None else int(high)

    @property
    def must(self) -> str:
        """Its JSON values, for refusals and for the JSON Schema."""
        low, high = self.bounds
        return f"must be {self.values.words.format(low=low, high=high, most=self.most)}"

    def range(self, maximum: str | None = None) -> str:
        """Its bounds in words, such as ``1 second to 3650 days``. Empty: it has none. ``maximum``: as declared."""
        if self.low is None:
            return f"at most {in_words(self.high)} ahead" if self.high else ""
        return f"{in_words(self.low)} to {maximum or in_words(self.high)}{self.values.unit}"


UNITS = {unit: timedelta(**{f"{unit}s": 1}) for unit in ("day", "hour", "minute", "second")}


def in_words(bound: timedelta | float) -> str:
    """Return a bound as text, a timedelta in the largest unit without a rest."""
    if not isinstance(bound, timedelta):
        return f"{bound:,}"
    unit = next((unit for unit in ("day", "hour", "minute") if bound and not bound % UNITS[unit]), "second")
    number = bound / UNITS[unit]
    return f"{number:.10g} {unit}{'' if number == 1 else 's'}"


def facts(values: Values, *flags: str, **more: Any) -> Mapping[str, Option]:
    """Return the metadata of a field of :class:`~joblane.tasks.job.Job`."""
    return {"option": Option(values, flags, **more)}
