"""Resources: ``@resource`` opens a client once for each process, with the first use, and closes it at its end."""

from __future__ import annotations

import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from joblane import telemetry
from joblane.errors import DeclarationError, text_of
from joblane.forking import at_end, follow_forks

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
_ENDED: Any = object()


class Resource(Generic[T]):
    """A resource of the process. A call returns its value, and opens it if it is not open."""

    def __init__(self, function: Callable[[], Iterator[T]]) -> None:
        self._function, self.name = function, _name(function)
        self._opened: tuple[Iterator[T], T] | None = None
        self._lock = threading.RLock()
        follow_forks(self, Resource._after_fork)

    def __call__(self) -> T:
        """Return the value. Raises what the function raises before its yield; the next call opens it again."""
        opened = self._opened
        if opened is None:
            with self._lock:
                if (opened := self._opened) is None:
                    generator = self._function()
                    if (value := next(generator, _ENDED)) is _ENDED:
                        raise _no_yield(self.name)
                    opened = self._opened = generator, value
                    _note_open(self)
        return opened[1]

    def close(self) -> None:
        """Close it, if it is open. The next use opens it again."""
        with self._lock:
            opened, self._opened = self._opened, None
            if opened is not None:
                with _logged(self.name):
                    _check_ended(next(opened[0], _ENDED))

    def _after_fork(self) -> None:
        """Leave it to the parent, whose connections the child would use and close."""
        _OF_PARENT.append(self._opened)
        self._opened, self._lock = None, threading.RLock()


class AsyncResource(Generic[T]):
    """A resource of an event loop. An awaited call returns its value, and opens it if it is not open in this loop."""

    def __init__(self, function: Callable[[], AsyncIterator[T]]) -> None:
        self._function, self.name = function, _name(function)
        self._opened: dict[Any, tuple[AsyncIterator[T], T]] = {}
        self._locks: dict[Any, asyncio.Lock] = {}
        follow_forks(self, AsyncResource._after_fork)

    async def __call__(self) -> T:
        """Return the value. Raises what the function raises before its yield; the next call opens it again."""
        import asyncio  # a process with plain resources does not import it

        loop = asyncio.get_running_loop()
        if (opened := self._opened.get(loop)) is None:
            async with self._locks.setdefault(loop, asyncio.Lock()):
                if (opened := self._opened.get(loop)) is None:
                    generator = self._function()
                    if (value := await anext(generator, _ENDED)) is _ENDED:
                        raise _no_yield(self.name)
                    self._forget_closed()
                    opened = self._opened[loop] = generator, value
                    _note_open(self)
        return opened[1]

    def close(self) -> None:
        """Close it in each loop that does not run. The next use opens it again."""
        self._forget_closed()
        for loop in [loop for loop in self._opened if not loop.is_running()]:
            loop.run_until_complete(self._close(loop))

    async def aclose(self) -> None:
        """Close it in the running loop."""
        import asyncio

        await self._close(asyncio.get_running_loop())

    async def _close(self, loop: Any) -> None:
        opened = self._opened.pop(loop, None)
        if opened is not None:
            with _logged(self.name):
                _check_ended(await anext(opened[0], _ENDED))

    def _forget_closed(self) -> None:
        """Forget the loops that were closed, for example because a handler blocked one after its timeout."""
        for loop in [loop for loop in self._locks if loop.is_closed()]:
            self._locks.pop(loop)
            self._opened.pop(loop, None)

    def _after_fork(self) -> None:
        _OF_PARENT.append(self._opened)
        self._opened, self._locks = {}, {}


@overload
def resource(function: Callable[[], AsyncIterator[T]], /) -> AsyncResource[T]: ...
@overload
def resource(function: Callable[[], Iterator[T]], /) -> Resource[T]: ...
def resource(function: Any, /) -> Any:
    """Declare a client that its first use opens, once for each process, and that the end of the process closes.

    The function is a generator function without parameters that yields the client once. The decorated function returns
    the client: ``client()``. Threads share the client. An asynchronous generator function declares a client of the
    event loop: ``await pool()``. All ``async def`` handlers of a process share one loop.

    If the part before the yield raises an exception, the call raises it, and the next call tries again. To open a
    client before the handler, so that a failure spends no attempt, call it in a hook, see
    :func:`~joblane.tasks.hooks.around`.

    The part after the yield runs at the end of the process: when ``joblane dev`` or a program exits, when a FastAPI
    application with Joblane's lifespan ends, and after each test of the kit. On Lambda it runs only if the function has
    an extension, because Lambda sends no signal without one. A process that is killed closes nothing. The client that
    was opened last is closed first. Errors are logged.

    Raises:
        DeclarationError: the function is no generator function, or it has parameters.
    """
    is_async = inspect.isasyncgenfunction(function)
    if not is_async and not inspect.isgeneratorfunction(function):
        name = getattr(function, "__qualname__", repr(function))
        raise DeclarationError(f"resource: {name}: a generator function is required, which yields the value once")
    if inspect.signature(function).parameters:
        raise DeclarationError(f"resource: {function.__qualname__}: the function takes no parameters")
    return AsyncResource(function) if is_async else Resource(function)


_open: list[Resource[Any] | AsyncResource[Any]] = []
"""The open resources, in the order in which they were opened."""
_OF_PARENT: list[Any] = []
"""Generators that a fork has left to its parent: without this reference, Python would run their end."""


def close_resources() -> None:
    """Close the open resources of this process, the last opened first. A later use opens them again."""
    while _open:
        _open.pop().close()


async def aclose_resources() -> None:
    """Close the resources of the running loop."""
    for each in [each for each in reversed(_open) if isinstance(each, AsyncResource)]:
        await each.aclose()


def _note_open(item: Resource[Any] | AsyncResource[Any]) -> None:
    if item not in _open:
        _open.append(item)
    at_end(close_resources, aclose_resources)


@contextmanager
def _logged(name: str) -> Iterator[None]:
    """Log an error of a close: the other resources are closed too."""
    try:
        yield
    except Exception as error:
        fields = {"resource": name, "error": text_of(error)}
        telemetry.logger().warning("a resource could not be closed", extra=fields)


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _check_ended(found: object) -> None:
    if found is not _ENDED:
        raise DeclarationError("it has yielded twice; a resource yields its value once")


def _no_yield(name: str) -> DeclarationError:
    return DeclarationError(f"resource {name}: it has returned without a yield; a resource yields its value once")
