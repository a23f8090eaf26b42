"""The operator's page: a process that the first request of a browser starts, and that a save ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from joblane.local.dev.processes import Process

PAUSE_SECONDS = 1.0
"""After a page that could not start."""


@dataclass(frozen=True)
class DevPage:
    """``target``: the ``module:function`` of its process, which gets ``arguments`` and the listening socket.
    ``address``: with its token."""

    target: str
    arguments: Mapping[str, Any]
    listening: socket.socket
    address: str


class PageProcess:
    """``start``: starts the process of the page. It accepts the connection that is waiting."""

    def __init__(self, page: DevPage, start: Callable[[DevPage], Awaitable[Process]]) -> None:
        self._page = page
        self._start = start
        self._process: Process | None = None
        self._run: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Start the process when a browser connects."""
        asyncio.get_running_loop().add_reader(self._page.listening, self._begin)

    def restart(self) -> None:
        """End the process; the next request of a browser starts it again."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End the process for good."""
        asyncio.get_running_loop().remove_reader(self._page.listening)
        if self._run is not None:
            self._run.cancel()
        self.restart()

    def _begin(self) -> None:
        asyncio.get_running_loop().remove_reader(self._page.listening)
        self._run = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        self._process = await self._start(self._page)
        await self._process.close()
        if self._process.code.result() > 0:
            await asyncio.sleep(PAUSE_SECONDS)
        self.listen()
