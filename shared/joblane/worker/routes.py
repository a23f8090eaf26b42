"""The router's table of routes as the text of an environment variable."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from zlib import compress, decompress

if TYPE_CHECKING:
    from joblane.tasks.task import Task

Routes = Mapping[str, Sequence[str]]
"""Each type that accepts external messages → its queues, home queue first."""


def routes_of(tasks: Mapping[str, Task[Any, Any]]) -> dict[str, list[str]]:
    """Return the queues in which each type has a lane, its own queue first: ``{"data:export": ["default"]}``.

    Types with ``front_door=False`` are not in it.
    """
    return {
        type_: [str(queue) for queue in task.lanes]
        for task in tasks.values()
        if task.front_door
        for type_ in task.types
    }


def encode(routes: Routes) -> str:
    """Return ``routes``, with a line for each choice of queues, compressed and in base 64.

    A line is ``default,low data:export report:generate``. All variables of a function have 4,096 bytes, and a hundred
    types in plain JSON fill them.
    """
    types: dict[str, list[str]] = defaultdict(list)
    for type_, queues in sorted(routes.items()):
        types[",".join(queues)].append(type_)
    lines = "\n".join(" ".join([queues, *found]) for queues, found in sorted(types.items()))
    return b64encode(compress(lines.encode(), 9)).decode()


def decode(text: str) -> Routes:
    """Return the routes in ``text``, from :func:`encode`."""
    lines = [line.split(" ") for line in decompress(b64decode(text)).decode().splitlines()]
    return {type_: queues.split(",") for queues, *types in lines for type_ in types}
