"""The places of a project: their types, their lanes, and the settings that follow from all of their types."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from joblane.errors import DeclarationError
from joblane.names import encode_places, lane_name, own_lane_name
from joblane.quotas import Numbers
from joblane.tasks.place import Lambda
from joblane.tasks.task import Task


def places_of(tasks: Iterable[Task[Any, Any]]) -> dict[Lambda, list[Task[Any, Any]]]:
    """Return the places of ``tasks``, each with its tasks."""
    places: dict[Lambda, list[Task[Any, Any]]] = {}
    for task in tasks:
        if task.place is not None:
            places.setdefault(task.place, []).append(task)
    return places


def drained_lanes(prefix: str, task: Task[Any, Any], type_: str) -> list[str]:
    """Return the former lanes of ``type_``, the task's type or an alias, that its place drains."""
    drains = task.place is not None and type_ in task.place.drains
    return [own_lane_name(prefix, queue, type_) for queue in task.lanes] if drains else []


def lanes_of(prefix: str, task: Task[Any, Any], types: Iterable[str] = ()) -> list[str]:
    """Return the lanes from which the function of ``task`` receives its messages. Drained lanes are the last.

    ``types``: only the lanes of these, of its type and aliases. Empty: all.
    """
    types = list(types) or task.types
    lanes = [lane_name(prefix, queue, type_) for type_ in types for queue in task.lanes]
    drained = [lane for type_ in types for lane in drained_lanes(prefix, task, type_)]
    return list(dict.fromkeys([*lanes, *drained]))


def places_text(tasks: Iterable[Task[Any, Any]]) -> str | None:
    """Return the value of :data:`~joblane.names.PLACES`. None: no task runs on a place.

    It has the aliases of all types: a place may still get messages of a type that has moved, under its former name.
    """
    tasks = list(tasks)
    places = {place.name: [task.types for task in members] for place, members in places_of(tasks).items()}
    renamed = [task.types for task in tasks if task.place is None and task.aliases]
    return encode_places(places | ({"": renamed} if renamed else {})) if places else None


def numbers_of(place: Lambda, tasks: Iterable[Task[Any, Any]]) -> Numbers:
    """Return the settings of the function and the lanes of ``place``, which runs ``tasks``."""
    return Numbers.of_place({task.type: task.numbers for task in tasks}, place.what)


def check_places(tasks: Iterable[Task[Any, Any]], *, complete: bool = True) -> None:
    """Check what the declaration of one task cannot see. ``complete``: no task is left out.

    Raises :class:`DeclarationError`.
    """
    names: dict[str, tuple[Lambda, str]] = {}
    for place, members in places_of(tasks).items():
        other, type_ = names.setdefault(place.name, (place, members[0].type))
        if other != place:
            raise DeclarationError(
                f"{place.what}: name: tasks {type_!r} and {members[0].type!r} run on two places of this name with "
                "different options; declare the place once and import it in both handlers"
            )
        numbers_of(place, members)
        by_front_door = {task.front_door: task.type for task in members}
        if len(by_front_door) > 1:
            raise DeclarationError(
                f"{place.what}: front_door: {by_front_door[True]!r} takes external messages and "
                f"{by_front_door[False]!r} does not, and their lane is one: who may send to it may start both; give "
                "them two places, or the same front_door"
            )
        here = {type_ for task in members for type_ in task.types}
        for type_ in place.drains:
            if complete and type_ not in here:
                raise DeclarationError(
                    f"{place.what}: drains: {type_!r} does not run here; it runs {', '.join(sorted(here))}"
                )
