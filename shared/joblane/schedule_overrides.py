"""Times of a stage that replace the declared ones: ``{"jobs:sweep": "@hourly", "report:generate:weekly": "off"}``.

A key is a type, or ``type:name`` for one of its schedules. A value is Unix cron text, a macro such as ``"@hourly"``, or
``"off"``. Name, time zone and payload stay as declared. The stage hands them to its functions in ``JOBLANE_SCHEDULES``,
and discovery applies them; so EventBridge, the local ticker and the search for missed ticks have the same times.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from joblane import settings
from joblane.errors import DeclarationError

if TYPE_CHECKING:
    from joblane.declaration import Task

VARIABLE = "JOBLANE_SCHEDULES"
OFF = "off"

Times = Mapping[str, str]


def of_environment() -> Times:
    """Return the times in ``JOBLANE_SCHEDULES``, empty if it is not set. Raises :class:`DeclarationError`."""
    text = settings.schedules()
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise DeclarationError(
            f'{VARIABLE}: a JSON object of texts is required, for example {{"jobs:sweep": "@hourly"}}'
        )
    return found


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
