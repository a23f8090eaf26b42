"""The loops of ``async def`` handlers: ``ctx.aeach``, ``ctx.aisolated`` and ``ctx.aresume``.

They are the steps of :mod:`joblane.handler.loops`, awaited. A step uses the run's session, which may be asynchronous.
The loops are no asynchronous generators: the event loop would close such a generator some time after a ``break``.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Generic, Self, TypeVar
from weakref import finalize

from joblane.errors import CursorError
from joblane.handler.loops import Chunks, Items, Loops

T = TypeVar("T")


class AsyncLoop(ABC, Generic[T]):
    """A loop. It is open until it has ended, or ``async for`` has dropped it."""

    name: str

    def __init__(self, loops: Loops) -> None:
        self._loops = loops
        self._awaited = loops.work.awaited
        self._closed: finalize[Any, Any] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._closed is None:
            self._loops.enter(self.name)
            self._closed = finalize(self, _close, self._loops)
        try:
            return await self._next()
        except BaseException:
            self._closed()
            raise

    @abstractmethod
    async def _next(self) -> T: ...


def _close(loops: Loops) -> None:
    loops.open = ""


class AsyncEach(AsyncLoop[T]):
    name = "each"

    def __init__(self, loops: Loops, items: Iterable[T] | AsyncIterable[T], key: Callable[[T], str]) -> None:
        super().__init__(loops)
        self._source = items
        self._key = key
        self._steps: Items[T] | None = None

    async def _next(self) -> T:
        if self._steps is None:
            self._steps = await self._awaited(Items[T], self._loops, self._key)
            self._items: Taker[T] = Taker(self._source)
        else:
            await self._awaited(self._steps.keep)
        while True:
            try:
                item = await self._items.take()
            except StopAsyncIteration:
                self._steps.end()
                raise
            if self._steps.begin(item):
                return item


@asynccontextmanager
async def isolated(loops: Loops) -> AsyncIterator[None]:
    loops.check_isolated()
    work = loops.work
    try:
        yield
        await work.awaited(work.flush)
    except Exception as error:
        if not loops.is_of_item(error) or not (work.is_async or work.database.usable):
            raise
        await work.awaited(loops.fail_item, error)
        if work.is_async:
            await work.awaited(work.connection)  # raises if the database is unavailable for the other items too


class AsyncResume(AsyncLoop[Any]):
    name = "resume"

    def __init__(self, loops: Loops, source: Any, cursor: Any, chunk: int) -> None:
        super().__init__(loops)
        self._is_async = inspect.iscoroutinefunction(source) or inspect.isasyncgenfunction(source)
        self._source = source
        self._cursor = cursor
        self._chunk = chunk
        self._read: list[Any] = []
        """The items that an asynchronous source has returned last."""
        self._page: list[Any] = []
        """The rest of the chunk, the last item first."""
        self._steps: Chunks[Any] | None = None

    async def _next(self) -> Any:
        if not self._page:
            self._page = (await self._next_page())[::-1]
        if not self._page:
            raise StopAsyncIteration
        return self._page.pop()

    async def _next_page(self) -> list[Any]:
        if self._steps is None:
            source = (lambda _: self._read) if self._is_async else self._source
            self._steps = await self._awaited(Chunks[Any], self._loops, source, self._cursor, self._chunk)
        else:
            await self._awaited(self._steps.keep)
        if self._is_async:
            self._read = await _taken(self._source(self._steps.after), self._chunk)
        return await self._awaited(self._steps.begin)


async def _taken(items: Any, size: int) -> list[Any]:
    """Return the first items that an asynchronous source has returned."""
    if inspect.isawaitable(items):
        items = await items
    if not isinstance(items, (Iterable, AsyncIterable)):
        raise CursorError(f"source: it must return items, not {type(items).__name__}")
    taker: Taker[Any] = Taker(items)
    taken: list[Any] = []
    try:
        while len(taken) < size:
            taken.append(await taker.take())
    except StopAsyncIteration:
        pass
    if inspect.isasyncgen(items):
        await items.aclose()
    return taken


class Taker(Generic[T]):
    """Takes items from an iterable of either kind. Raises StopAsyncIteration at the end."""

    def __init__(self, items: Iterable[T] | AsyncIterable[T]) -> None:
        self._is_async = isinstance(items, AsyncIterable)
        self._items: Any = aiter(items) if isinstance(items, AsyncIterable) else iter(items)

    async def take(self) -> T:
        if self._is_async:
            item: T = await anext(self._items)
            return item
        for item in self._items:
            return item
        raise StopAsyncIteration
