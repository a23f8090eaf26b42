"""Remembered steps of a run: ``ctx.step`` and ``ctx.astep``."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID, uuid5

from pydantic_core import to_jsonable_python

from joblane.errors import MessageError, StepError
from joblane.handler.loops import Loops, refuse_stopped
from joblane.json_values import MAX_DEPTH, check_text
from joblane.record.task import checkpoints
from joblane.record.task.waits import History, read_history
from joblane.tasks.event_kinds import OBSERVERS

StepFunction = Callable[[str], Any]
MAX_NAME = 100
MAX_VALUE_BYTES = 64 * 1024
MAX_STEPS = 1_000
"""The maximum number of steps and waits of a task. A later run reads all of them at once."""
MAX_ALL_BYTES = 1024 * 1024
"""The maximum size of the values of all steps of a task."""
NAMESPACE = UUID("0d4a6b1e-6a56-4d0e-9a63-2f5a8a3f7c11")
"""It makes the keys. A release that changed it would repeat calls of tasks that are under way."""


def key_of(task_id: str, name: str) -> str:
    """Return the idempotency key of a step: a UUID, because services accept keys of 36 characters.

    It depends on nothing else, so that each attempt has the same key, also after a redrive.
    """
    return str(uuid5(NAMESPACE, f"{task_id} {name}"))


@dataclass
class Steps:
    """The steps of one run. :class:`~joblane.handler.context.TaskContext` documents them.

    ``is_first_run``: no run before this one can have stored a value.
    """

    loops: Loops
    is_first_run: bool
    _history: History | None = None
    _bytes: int = -1
    """The size of all values. -1: not known yet."""
    _used: set[str] = field(default_factory=set)

    @property
    def is_read(self) -> bool:
        """True if :attr:`history` was read before."""
        return self._history is not None

    @property
    def history(self) -> History:
        """The steps, waits and signals that are stored. They are read once."""
        if self._history is None:
            self._history = History() if self.is_first_run else self.loops.read(read_history)
        return self._history

    @property
    def unused(self) -> list[str]:
        """The names of stored steps and waits that this run has not used, for example because they were renamed."""
        stored = self._history
        return [] if stored is None else sorted((stored.steps.keys() | stored.waits.keys()) - self._used)

    def step(self, name: str, function: StepFunction) -> Any:
        with self._opened(name, is_plain=True):
            if inspect.iscoroutinefunction(function):
                raise StepError(name, "ctx.step cannot await its function; use await ctx.astep(…)")
            stored = self._begin(name, function)
            if stored is not None:
                return json.loads(stored)
            with _observed(name):
                return self.keep(name, function(self._key(name)))

    async def astep(self, name: str, function: StepFunction) -> Any:
        awaited = self.loops.work.awaited
        with self._opened(name, is_plain=False):
            stored = await awaited(self._begin, name, function)
            if stored is not None:
                return json.loads(stored)
            with _observed(name):
                value = function(self._key(name))
                return await awaited(self.keep, name, await value if inspect.isawaitable(value) else value)

    def _key(self, name: str) -> str:
        return key_of(self.loops.task_id, name)

    @contextmanager
    def _opened(self, name: str, *, is_plain: bool) -> Iterator[None]:
        """Refuse a wrong name, and a step whose commit would keep half of a step or of an item."""
        self.check_name(name, "ctx.step" if is_plain else "ctx.astep")
        with self.opened(is_plain=is_plain):
            yield

    @contextmanager
    def opened(self, *, is_plain: bool) -> Iterator[None]:
        """Refuse steps, waits and loops in the function of a step."""
        loops = self.loops
        loops.open, loops.is_plain = "step", is_plain
        try:
            yield
        finally:
            loops.open, loops.is_plain = "", False

    def check_name(self, name: str, call: str) -> None:
        """Refuse the name or the place of a step or of a wait, whose commit would keep half of other work."""
        refuse_stopped(self.loops.work, call)
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            given = "" if isinstance(name, str) else f", not {type(name).__name__}"
            raise StepError(
                "", f"the name of a step or a wait is a string of 1 to {MAX_NAME} printable characters{given}"
            )
        loops = self.loops
        if loops.open:
            where = "another step, or run with it" if loops.open == "step" else f"a loop over ctx.{loops.open}(…)"
            raise StepError(name, f"it cannot be inside {where}, because its commit would keep half of that work")
        if name in self._used:
            raise StepError(name, "this run has used the name already; each step and each wait needs a name of its own")
        self._used.add(name)

    def _begin(self, name: str, function: StepFunction) -> str | None:
        """Return the stored value, or None if the function has to be called."""
        history = self.history
        if name in history.waits:
            raise StepError(name, "an earlier run has stopped at a wait of this name; give the step another name")
        stored = history.steps.get(name)
        if stored is None:
            _check_function(name, function)
            self.check_number(name)
            self.loops.work.check_keeps()
            self.loops.check()
        return stored

    def check_number(self, name: str) -> None:
        """Refuse a step or a wait that is not stored yet, and of which the task has too many."""
        if len(self.history.steps) + len(self.history.waits) >= MAX_STEPS:
            raise StepError(
                name,
                f"a task has at most {MAX_STEPS:,} steps and waits; loop over ctx.each(…) for more items, ctx.poll "
                "for a loop that only looks, or enqueue another task that continues",
            )

    def keep(self, name: str, value: Any) -> Any:
        """Commit the value with the session's work, and return it as a retry will."""
        text, steps = encoded(name, value), self.history.steps
        if self._bytes < 0:
            self._bytes = sum(len(stored.encode()) for stored in steps.values())
        if (size := self._bytes + len(text.encode())) > MAX_ALL_BYTES:
            raise StepError(
                name,
                f"with its value the steps of the task have {size:,} bytes as JSON, and at most {MAX_ALL_BYTES:,} are "
                "stored; return less, or enqueue another task that continues",
            )
        self.loops.work.keep(partial(checkpoints.mark_step, name=name, value=text))
        steps[name], self._bytes = text, size
        return json.loads(text)


def _observed(name: str) -> ExitStack:
    """Return the spans of a step. Most processes have none."""
    stack = ExitStack()
    for observer in OBSERVERS:
        stack.enter_context(observer.step(name))
    return stack


def _check_function(name: str, function: StepFunction) -> None:
    with suppress(ValueError):  # a function of an extension module may have no signature
        try:
            inspect.signature(function).bind("")
        except TypeError:
            raise StepError(name, "its function gets the step's key as its only argument: lambda key: …") from None


def encoded(name: str, value: Any) -> str:
    """Return the value as JSON text. Raises :class:`StepError`."""
    try:
        text = json.dumps(_plain(value, "its value", 1), ensure_ascii=False, separators=(",", ":"))
        if (size := len(text.encode())) > MAX_VALUE_BYTES:
            raise MessageError(f"its value has {size:,} bytes as JSON, and at most {MAX_VALUE_BYTES:,} are stored")
    except ValueError as error:  # a number of thousands of digits is one too
        problem = str(error) if isinstance(error, MessageError) else "its value has a number that is too long for JSON"
        raise StepError(
            name,
            f"{problem}; return only what the task needs later, as JSON. The function was called, and nothing is"
            " stored: if the task is retried, it is called again with the same key",
        ) from None
    return text


def _plain(value: Any, where: str, depth: int) -> Any:
    """Return ``value`` as JSON values. Raises :class:`MessageError`, whose text names places and types, no values."""
    if depth > MAX_DEPTH:
        raise MessageError(f"its value is nested deeper than {MAX_DEPTH} levels")
    match value:
        case None | bool() | int():
            return value
        case float():
            if not math.isfinite(value):
                raise MessageError(f"{where} is NaN or infinite, which JSON cannot hold")
            return value
        case str():
            check_text(value, where)
            return value
        case Mapping():
            return dict(_member(item, where, depth) for item in value.items())
        case list() | tuple():
            return [_plain(item, f"{where}[{number}]", depth + 1) for number, item in enumerate(value)]
    try:
        return _plain(to_jsonable_python(value), where, depth + 1)
    except MessageError:
        raise
    except Exception:  # a serializer of the value's own class can raise anything, with values in it
        raise MessageError(f"{where} is of type {type(value).__name__}, which cannot be written as JSON") from None


def _member(item: tuple[Any, Any], where: str, depth: int) -> tuple[str, Any]:
    key, value = item
    if not isinstance(key, str):
        raise MessageError(f"{where} has a key of type {type(key).__name__}, and JSON has only strings as keys")
    check_text(key, f"a key of {where}")
    return key, _plain(value, f"{where}.{key}" if key.isidentifier() and len(key) <= MAX_NAME else where, depth + 1)
