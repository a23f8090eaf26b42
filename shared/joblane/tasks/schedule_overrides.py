"""Times of a stage that replace the declared ones: ``{"mail:digest": "@hourly", "report:generate:weekly": "off"}``.

A key is a type, or ``type:name`` for one of its schedules. A value is Unix cron text, a macro such as ``"@hourly"``, or
``"off"``. Name, time zone and payload stay as declared. The stage hands them to its functions in ``JOBLANE_SCHEDULES``,
and discovery applies them; so EventBridge, the local ticker and the search for missed ticks have the same times.

The sweep is not among them: the setting ``sweep`` of the stage has its interval, and ``JOBLANE_SWEEP_MINUTES``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from joblane import settings
from joblane.errors import DeclarationError
from joblane.names import SWEEP
from joblane.tasks.schedule import every

if TYPE_CHECKING:
    from joblane.tasks.task import Task

OFF = "off"
INTERVAL = re.compile(r"(\d{1,4}) (minute|hour)s?", re.ASCII)

Times = Mapping[str, str]


def of_environment() -> Times:
    """Return the times in ``JOBLANE_SCHEDULES``, with the time of the sweep. Raises :class:`DeclarationError`."""
    text = settings.schedules()
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise DeclarationError(
            f'{settings.SCHEDULES}: a JSON object of strings is required, for example {{"report:generate": "@hourly"}}'
        )
    if SWEEP in found:
        raise DeclarationError(f"{settings.SCHEDULES}: {SWEEP}: set its interval by {settings.SWEEP_MINUTES} instead")
    try:
        return with_sweep(found, settings.sweep_minutes())
    except DeclarationError as error:
        raise DeclarationError(f"{settings.SWEEP_MINUTES}: {error}") from None


def minutes_of(interval: str) -> int:
    """Return the minutes of ``"6 hours"`` or ``"5 minutes"``, the setting ``sweep`` of a stage.

    Raises :class:`DeclarationError` if no schedule can have this interval.
    """
    found = INTERVAL.fullmatch(interval)
    minutes = 0 if found is None else int(found[1]) * (60 if found[2] == "hour" else 1)
    try:
        every(minutes=minutes)
    except DeclarationError:
        raise DeclarationError(
            'a string such as "6 hours" or "5 minutes" is required: 1, 2, 3, 4, 5, 6, 10, 12, 15, 20 or 30 minutes, or '
            "1, 2, 3, 4, 6, 8, 12 or 24 hours"
        ) from None
    return minutes


def with_sweep(times: Times, minutes: int) -> Times:
    """Return ``times`` with a sweep every ``minutes``. Raises :class:`DeclarationError`, see :func:`every`."""
    return {**times, SWEEP: every(minutes=minutes).text}


def apply(task: Task[Any, Any], times: Times) -> Task[Any, Any]:
    """Return ``task`` with the schedules that it has in this stage. Entries of ``times`` for other tasks are ignored.

    The synth refuses an unknown name. Here it can come from the next version, whose settings a function can have a
    moment before its code. Raises :class:`DeclarationError` for text that is not cron.
    """
    schedules = []
    for schedule in task.schedules:
        key = next((key for key in (f"{task.type}:{schedule.name}", task.type) if key in times), None)
        if key is None:
            schedules.append(schedule)
        elif times[key] != OFF:
            try:
                schedules.append(replace(schedule, text=times[key]))
            except DeclarationError as error:
                raise DeclarationError(f"{key}: {error}; or {OFF!r}") from None
    changed = tuple(schedules)
    return task if changed == task.schedules else replace(task, schedules=changed)


def apply_all(tasks: Mapping[str, Task[Any, Any]], times: Times) -> dict[str, Task[Any, Any]]:
    """Return all tasks of a stage, as :func:`apply`. A key without a schedule raises :class:`DeclarationError`."""
    for key, text in times.items():
        type_ = ":".join(key.split(":")[:2])
        names = [str(schedule.name) for schedule in tasks[type_].schedules] if type_ in tasks else []
        if not names:
            periodic = [task.type for task in tasks.values() if task.schedules]
            raise DeclarationError(f"{key}: no task with a schedule; there are {', '.join(periodic) or 'none'}")
        keys = [f"{type_}:{name}" for name in names]
        if key != type_ and key not in keys:
            raise DeclarationError(f"{key}: {type_} has no such schedule; there are {', '.join(keys)}")
        if key == type_ and len(names) > 1 and text != OFF:
            raise DeclarationError(f"{key}: has several schedules; give each its times, by {', '.join(keys)}")
    return {type_: apply(task, times) for type_, task in tasks.items()}
