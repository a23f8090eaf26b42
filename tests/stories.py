"""Stories: tests as rows of a table. A story is a list of steps: calls in a world, each with what it must return."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import pytest

from joblane.record.row.states import State
from joblane.tasks.task import Task
from tests.world import World

W = TypeVar("W")
R = TypeVar("R")
P = ParamSpec("P")
Story = Sequence[Callable[[Any], object]]


class Some:
    """Equals everything but None."""

    def __eq__(self, other: object) -> bool:
        return other is not None

    def __hash__(self) -> int:
        return 0


SOME: Any = Some()


@dataclass(frozen=True, eq=False)
class Between:
    """Equals every number from ``low`` to ``high``."""

    low: float
    high: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int | float) and self.low <= other <= self.high

    def __hash__(self) -> int:
        return 0


@dataclass(frozen=True, eq=False)
class Containing:
    """Equals every string with ``part``, and without ``but_not``."""

    part: str
    but_not: str = "\0"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.part in other and self.but_not not in other

    def __hash__(self) -> int:
        return 0


class Step(Generic[W, R]):
    """A call in a world, and a check of what it returns or raises."""

    def __init__(self, text: str, call: Callable[[W], R]) -> None:
        self._text, self._call = text, call

    def __call__(self, world: W) -> R:
        return self._call(world)

    def __repr__(self) -> str:
        return self._text

    def gives(self, expected: object) -> Step[W, R]:
        """Return the step that must return this."""

        def checked(world: W) -> R:
            found = self._call(world)
            assert found == expected, f"{found!r} instead of {expected!r}"
            return found

        return Step(self._text, checked)

    def gives_some(self, number: int) -> Step[W, R]:
        """Return the step that must return this number of values."""

        def checked(world: W) -> R:
            found: Any = self._call(world)
            assert len(found) == number, f"{len(found)} instead of {number}: {found!r}"
            return found  # type: ignore[no-any-return]

        return Step(self._text, checked)

    def fails(self, error: type[BaseException], match: str) -> Step[W, None]:
        """Return the step that must raise this error. ``match``: a regular expression."""

        def failing(world: W) -> None:
            with pytest.raises(error, match=match):
                self._call(world)

        return Step(self._text, failing)


def step(function: Callable[Concatenate[W, P], R]) -> Callable[P, Step[W, R]]:
    """Return a function that makes steps: it gets all arguments of ``function`` but the world."""

    def made(*args: P.args, **named: P.kwargs) -> Step[W, R]:
        given = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in named.items())])
        return Step(f"{function.__name__}({given})", lambda world: function(world, *args, **named))

    return made


def stories(table: Mapping[str, Story]) -> pytest.MarkDecorator:
    """Run the test once for each story."""
    return pytest.mark.parametrize("story", table.values(), ids=table)


def play(world: object, story: Story) -> None:
    """Do the steps. A failure names its step."""
    for number, one in enumerate(story, 1):
        try:
            one(world)
        except BaseException as error:
            error.add_note(f"in step {number} of the story: {one!r}")
            raise


def by_name(table: Mapping[str, Story]) -> dict[str, Callable[[Any], None]]:
    """Return a function for each story, by its name with underscores."""
    return {name.replace(" ", "_"): partial(play, story=story) for name, story in table.items()}


@step
def row(world: World, /, id_: str, **columns: Any) -> None:
    """Compare columns of a task."""
    found = world.row(id_)
    assert {name: found[name] for name in columns} == columns


@step
def sweep(world: World, /, **counts: object) -> None:
    """Run a sweep, and compare what it has counted."""
    swept = world.sweep()
    assert {name: getattr(swept, name) for name in counts} == counts


sql = step(World.run)
later = step(World.later)
expire_leases = step(World.expire_leases)
outcomes = step(World.outcomes)
lane = step(World.lane)


@step
def enqueue(world: World, /, task: Task[Any, Any], payload: Any, **options: Any) -> str:
    """Enqueue a task with the world's client, and return its id."""
    return world.client.enqueue(task, payload, **options).id


@step
def deliver(world: World, /, task: Task[Any, Any], *bodies: str | Mapping[str, Any], **how: Any) -> list[str]:
    """Deliver messages to the task's function, and return the ids of the messages that stay in the queue."""
    return world.deliver(task, *bodies, **how)


@step
def cancel(world: World, id_: str) -> State | None:
    """Cancel a task, as a client does."""
    return world.client.cancel(id_)


@step
def set_limit(world: World, /, name: str, **values: Any) -> None:
    """Change a limit, as a client does."""
    world.client.limits.set(name, **values)


@step
def reset_limit(world: World, /, name: str, **values: Any) -> None:
    world.client.limits.reset(name, **values)


@step
def sent(world: World, task: Task[Any, Any]) -> list[str]:
    """Take the messages in the home lane, and return the ids of their tasks."""
    return [json.loads(message["Body"])["id"] for message in world.take(task)]


@step
def while_locked(world: World, id_: str, *story: Callable[[World], object]) -> None:
    """Do steps while another transaction has locked a task."""
    with world.locked(id_):
        play(world, story)
