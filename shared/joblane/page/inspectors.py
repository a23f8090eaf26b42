"""The inspectors behind the page: each has one connection, so only one request at a time uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import LifoQueue

from starlette.requests import Request

from joblane.inspector.inspector import Inspector
from joblane.inspector.views import TypeView

INSPECTORS = 3
"""The largest number of connections; a browser rarely sends more requests at once."""


class Desk:
    """A pool of inspectors. ``connect`` makes an inspector; it is called when no existing inspector is free."""

    def __init__(self, connect: Callable[[], Inspector], size: int = INSPECTORS) -> None:
        self._connect = connect
        self._free: LifoQueue[Inspector | None] = LifoQueue()
        for _ in range(size):
            self._free.put(None)
        self._types: tuple[TypeView, ...] | None = None

    @contextmanager
    def inspector(self) -> Iterator[Inspector]:
        """Lend an inspector; wait while all are in use."""
        inspector = self._free.get()
        try:
            if inspector is None:
                inspector = self._connect()
            yield inspector
        finally:
            self._free.put(inspector)

    def types(self, inspector: Inspector) -> tuple[TypeView, ...]:
        """The declared types, queried only once."""
        if self._types is None:
            self._types = inspector.types()
        return self._types


def desk(request: Request) -> Desk:
    """The inspectors for the request: of the person who is signed in, or of the page."""
    found: Desk = getattr(request.state, "desk", None) or request.app.state.desk
    return found
