"""The inspectors behind the page: each has one connection, so each is lent to one request at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import LifoQueue

from joblane.inspector.inspector import Inspector
from joblane.inspector.views import TypeView

INSPECTORS = 3
"""As many connections at most; a browser rarely asks for more at once."""


class Desk:
    """``connect`` makes an inspector; it is called when one more is needed than is free."""

    def __init__(self, connect: Callable[[], Inspector], size: int = INSPECTORS) -> None:
        self._connect = connect
        self._free: LifoQueue[Inspector | None] = LifoQueue()
        for _ in range(size):
            self._free.put(None)
        self._types: tuple[TypeView, ...] | None = None

    @contextmanager
    def inspector(self) -> Iterator[Inspector]:
        """Waits while all are lent."""
        inspector = self._free.get()
        try:
            if inspector is None:
                inspector = self._connect()
            yield inspector
        finally:
            self._free.put(inspector)

    def types(self, inspector: Inspector) -> tuple[TypeView, ...]:
        """The declared types, asked for once."""
        if self._types is None:
            self._types = inspector.types()
        return self._types
