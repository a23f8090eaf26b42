"""The options that a caller gives for one task, checked against their table and the task's declaration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from joblane.errors import DeclarationError, EnqueueError, MessageError, shown
from joblane.json_values import check_text
from joblane.tasks.job import NEED_A_ROW, OPTIONS
from joblane.tasks.option_facts import DURATION, DURATIONS, MAX_SECONDS, MOMENT, NUMBER, TEXTS, Values, in_words
from joblane.tasks.options import EARLIEST, NONE, Options, is_storable
from joblane.tasks.retry import check_retry_delay

if TYPE_CHECKING:
    from joblane.tasks.job import Job
    from joblane.tasks.task import Task

E = TypeVar("E", bound=StrEnum)
OWN = tuple(each.name for each in fields(Options))
_own = attrgetter(*OWN)
NOT_GIVEN = _own(NONE)
_that_need_a_row = attrgetter(*NEED_A_ROW)
WITHOUT_ROW = tuple(NEED_A_ROW.values())
NO_ROW = "needs a row, and a MessageClient writes none"


def check_options(job: Job, *, record: bool) -> Options:
    """Return the options of a job. Raises :class:`EnqueueError` with the argument's name.

    ``max_retry`` and ``timeout`` must be within the declaration, because the lane's queue and function depend on it.
    """
    given = _own(job)
    if given == NOT_GIVEN:  # most jobs
        return NONE
    checked = {
        name: check(name, value, job.task if is_declared else None)
        for (name, check, is_declared), value in zip(CHECKED[record], given, strict=True)
        if value is not None and value != ()
    }
    return Options(**checked)


def check_needs_no_row(job: Job) -> None:
    """Refuse options that need a row, by the name of the first that the caller gives."""
    given = _that_need_a_row(job)
    if given != WITHOUT_ROW:
        for (name, default), value in zip(NEED_A_ROW.items(), given, strict=True):
            if value not in (default, []):
                raise EnqueueError(name, f"it {NO_ROW}")
    if job.task.unique_for is not None:
        raise EnqueueError("task", f"{job.task.type!r}: unique_for, which the task declares, {NO_ROW}")


def member(enum: type[E], name: str, value: Any) -> E:
    """Return the member of an option's choices that a caller gives, also by its value."""
    if type(value) is enum:
        return value
    try:
        return enum(value)
    except ValueError:
        raise EnqueueError(name, f"{shown(value)} is not one of {', '.join(enum)}") from None


def check_duration(name: str, value: object, task: Task[Any, Any] | None = None) -> timedelta:
    """Return a duration within the bounds of its option. ``task``: it declares the maximum."""
    option = OPTIONS[name]
    maximum = option.high if task is None else getattr(task, name)
    if not isinstance(value, timedelta) or not option.low <= value <= maximum:
        raise _out_of_bounds(name, value, maximum, task)
    return value


def check_moment(name: str, value: object, _: object = None) -> datetime:
    """Return a time in UTC. PostgreSQL only reads offsets below 16 hours, and Python has longer ones."""
    if not isinstance(value, datetime):
        raise EnqueueError(name, f"an aware datetime is required, not {type(value).__name__}")
    if value.tzinfo is None:
        raise EnqueueError(name, "an aware datetime is required, for example datetime.now(UTC) + …")
    ahead = OPTIONS[name].high
    if ahead is not None and value - datetime.now(UTC) > ahead:
        raise EnqueueError(name, OPTIONS[name].range())
    with suppress(OverflowError):  # outside of the calendar in UTC
        moment = max(value.astimezone(UTC), EARLIEST)
        if is_storable(moment):
            return moment
    raise EnqueueError(name, "a time that the calendar has is required")


def _out_of_bounds(name: str, value: Any, maximum: Any, task: Task[Any, Any] | None) -> EnqueueError:
    why = f", which {task.type!r} declares," if task else ""
    required = f"{OPTIONS[name].range(in_words(maximum))}{why} is required, not "
    if isinstance(value, timedelta):
        return EnqueueError(name, required + in_words(value))
    given, hint = shown(value), ""
    if OPTIONS[name].values is DURATION:
        required = f"a timedelta from {required}"
        if type(value) in (int, float) and abs(value) < MAX_SECONDS:
            hint = f"; write timedelta(seconds={given})"
    return EnqueueError(name, f"{required}{given}{hint}")


def _number(name: str, value: object, task: Task[Any, Any] | None) -> int:
    option = OPTIONS[name]
    maximum = option.high if task is None else getattr(task, name)
    if type(value) is not int or not option.low <= value <= maximum:
        raise _out_of_bounds(name, value, maximum, task)
    return value


def _duration(name: str, value: object, task: Task[Any, Any] | None) -> float:
    return check_duration(name, value, task).total_seconds()


def _durations(name: str, value: Any, _: object) -> Sequence[float]:
    if callable(value):
        raise EnqueueError(name, "a timedelta or a list of them is required; a function cannot be stored in the row")
    try:
        check_retry_delay(value)
    except DeclarationError as error:
        raise EnqueueError(name, str(error).removeprefix("retry_delay: ")) from None
    delays: list[float] = OPTIONS[name].values.to_json(value)
    if len(delays) > (OPTIONS[name].most or 0):
        raise EnqueueError(name, f"at most {OPTIONS[name].most} delays, of which the last repeats; not {len(delays)}")
    return delays


def _words(name: str, words: Any, _: object) -> Sequence[str]:
    option = OPTIONS[name]
    if isinstance(words, str) or not isinstance(words, Sequence) or len(words) > (option.most or 0):
        raise EnqueueError(name, f"a list of at most {option.most} strings is required")
    for text in words:
        if not isinstance(text, str) or not option.low <= len(text) <= option.high:
            raise EnqueueError(name, f"strings of {option.range()} are required")
        try:
            check_text(text, name)
        except MessageError as error:
            raise EnqueueError(name, str(error).removeprefix(f"{name}: ")) from None
    return list(dict.fromkeys(words))


CHECKS: Mapping[Values, Callable[[str, Any, Task[Any, Any] | None], Any]] = {
    NUMBER: _number,
    DURATION: _duration,
    DURATIONS: _durations,
    MOMENT: check_moment,
    TEXTS: _words,
}
"""Values → the check of an option that has them. It gets the task if that declares the maximum, and returns what the
message has."""
CHECKED = {
    record: tuple(
        (
            name,
            CHECKS[OPTIONS[name].values],
            OPTIONS[name].declared in (("always",) if record else ("always", "without a row")),
        )
        for name in OWN
    )
    for record in (True, False)
}
"""With a row or without → name, check, and whether the task declares the maximum, in the order of :data:`OWN`."""
