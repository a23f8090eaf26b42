"""The check of a schedule at run time, argument by argument, before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from joblane.enqueue.ticks import MAX_NAME, NAME_PATTERN, Stored
from joblane.errors import DeclarationError, PayloadError, ScheduleError, UnreadablePayloadError, shown
from joblane.record.schedules import Origin
from joblane.tasks.job import NOT_OF_TICKS, OPTIONS, Job, check_names
from joblane.tasks.schedule import Missed, Schedule, parse

if TYPE_CHECKING:
    from joblane.record.task.insert import NewTask


def checked_row(
    name: str,
    job: Job,
    schedule: Schedule | str,
    missed: Missed | str,
    options: Mapping[str, Any],
    *,
    check: Callable[[Job], NewTask],
) -> tuple[dict[str, Any], Schedule]:
    """Return the given columns of a schedule's row, and its times.

    ``job``: the task, its payload and its tenant. ``check``: the check of an enqueue. Raises :class:`EnqueueError`.
    """
    name, times, policy = checked_name(name), _checked_times(schedule), _checked_policy(missed)
    check_names(options, others=NOT_OF_TICKS, more=("missed",))
    for option in sorted(options.keys() & NOT_OF_TICKS.keys()):
        raise ScheduleError(option, NOT_OF_TICKS[option])
    given = {option: value for option, value in options.items() if value is not None}
    new = check(replace(job, **given))
    row = {
        "name": name,
        "origin": Origin.RUN_TIME,
        "type": new.task.type,
        "payload": new.payload,
        "schema": new.task.schema_digest,
        "tenant": job.tenant,
        "options": {option: OPTIONS[option].values.to_json(value) for option, value in given.items()},
        "expression": times.text,
        "timezone": times.timezone,
        "missed": policy,
        "ticks_a_day": times.ticks_a_day,
    }
    try:
        Stored.of(row | {"revision": 0}).job(new.task)
    except UnreadablePayloadError as error:
        raise PayloadError("payload", f"its JSON is not a payload of the class, as a tick needs it: {error}") from None
    return row, times


def checked_name(name: object) -> str:
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise ScheduleError("name", f"1 to {MAX_NAME} printable ASCII characters without spaces are required")
    return name


def _checked_times(given: Schedule | str) -> Schedule:
    try:
        times = parse(given)
    except DeclarationError as error:
        raise ScheduleError("schedule", str(error).removeprefix("schedule: ").removeprefix("schedule ")) from None
    for field in ("payload", "name"):
        if getattr(times, field):
            raise ScheduleError("schedule", f"give the {field} to put, not to cron(…) or every(…)")
    if times.missed is not Missed.LATEST:
        raise ScheduleError("schedule", "give the policy for missed ticks to put, not to cron(…) or every(…)")
    return times


def _checked_policy(given: Missed | str) -> Missed:
    try:
        return Missed(given)
    except ValueError:
        raise ScheduleError("missed", f"{shown(given)} is not one of {', '.join(Missed)}") from None
