"""The command's side of the two processes that a save replaces: the control process, and the operator's page."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from joblane.local.dev.log import RED, Log
from joblane.local.dev.processes import Process
from joblane.sqs.client import Entry


class Control:
    """Starts a control process for each save, and does as it says.

    ``spawn``: starts the process, with the time until which ticks were sent.

    ``on_declared``: called with the declarations; returns the address of the database, once it answers. ``on_ready``:
    called with the declarations and the number of tasks whose lost messages are sent again, when the database is up to
    date. ``on_entry``: called with a message to send.
    """

    def __init__(
        self,
        log: Log,
        spawn: Callable[[str | None], Awaitable[Process]],
        *,
        on_declared: Callable[[Mapping[str, Any]], Awaitable[str]],
        on_ready: Callable[[Mapping[str, Any], int], None],
        on_entry: Callable[[Entry], object],
    ) -> None:
        self._log, self._spawn = log, spawn
        self._on_declared, self._on_ready, self._on_entry = on_declared, on_ready, on_entry
        self._process: Process | None = None
        self._ticked_until: str | None = None
        self._runs = 0

    async def run(self) -> None:
        """Start a process in place of the last one, and follow it until its end or the next :meth:`run`."""
        self._runs += 1
        run = self._runs
        if self._process is not None:
            self._process.kill()
        process = self._process = await self._spawn(self._ticked_until)
        declared: Mapping[str, Any] = {}
        while (message := await process.receive()) is not None and run == self._runs:
            match message["kind"]:
                case "declared":
                    declared = message
                    process.send({"database": await self._on_declared(declared)})
                case "ready":
                    self._ticked_until = self._ticked_until or datetime.now(UTC).isoformat()
                    self._on_ready(declared, message["tasks"])
                case "send":
                    self._on_entry(Entry(*message["entry"]))
                case "ticked":
                    self._ticked_until = message["until"]
                case "failed":
                    self._log.say(f"{message['text']}\nFix it and save.", RED)
        process.kill()
        await process.close()
        if run == self._runs and process.code:
            self._log.say(f"The process that reads the declarations {process.end}. Save a file to start it.", RED)


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

    async def run(self) -> None:
        """Start the process when a browser connects, each time that none runs."""
        loop, connected = asyncio.get_running_loop(), asyncio.Event()
        while True:
            loop.add_reader(self._page.listening, connected.set)
            await connected.wait()
            loop.remove_reader(self._page.listening)
            self._process = await self._start(self._page)
            await self._process.close()
            if (self._process.code or 0) > 0:
                await asyncio.sleep(PAUSE_SECONDS)
            connected.clear()

    def restart(self) -> None:
        """End the process; the next request of a browser starts it again."""
        if self._process is not None:
            self._process.kill()
