"""The command's side of the control process: it starts one for each save, and does as it says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from joblane.local.dev.log import RED, Log
from joblane.local.dev.processes import Process, ended

TRIES, PAUSE_SECONDS = 50, 0.1
"""A save replaces the process; then a request waits for the next one."""


class Control:
    """``spawn``: starts the process, with the time until which ticks were sent.

    ``on_declared``: called with the declarations; returns the address of the database, once it answers. ``on_ready``:
    called with the declarations and the number of tasks whose lost messages are sent again, when the database is up to
    date. ``on_entries``: called with messages to send.
    """

    def __init__(
        self,
        log: Log,
        spawn: Callable[[str | None], Awaitable[Process]],
        *,
        on_declared: Callable[[Mapping[str, Any]], Awaitable[str]],
        on_ready: Callable[[Mapping[str, Any], int], None],
        on_entries: Callable[[Sequence[Sequence[Any]]], None],
    ) -> None:
        self._log, self._spawn = log, spawn
        self._on_declared, self._on_ready, self._on_entries = on_declared, on_ready, on_entries
        self._process: Process | None = None
        self._ready = False
        self._ticked_until: str | None = None
        self._runs = 0
        self._requests: dict[str, asyncio.Future[Sequence[str]]] = {}

    async def run(self) -> None:
        """Start a process in place of the last one, and follow it until the next :meth:`run` or :meth:`stop`."""
        self.stop()
        run = self._runs
        process = await self._spawn(self._ticked_until)
        if run != self._runs:
            process.kill()
            return
        self._process = process
        declared: Mapping[str, Any] = {}
        while (message := await process.receive()) is not None and run == self._runs:
            match message["kind"]:
                case "declared":
                    declared = message
                    process.send({"database": await self._on_declared(declared)})
                case "ready":
                    self._ready = True
                    self._ticked_until = self._ticked_until or datetime.now(UTC).isoformat()
                    self._on_ready(declared, message["tasks"])
                case "send":
                    self._on_entries(message["entries"])
                case "ticked":
                    self._ticked_until = message["until"]
                case "lost":
                    self._answer(message["request_id"], message["task_ids"])
                case "failed":
                    self._log.say(f"{message['text']}\nFix it and save.", RED)
        if run == self._runs:
            self._forget()
            await process.close()
            if code := process.code.result():
                self._log.say(f"The process that reads the declarations {ended(code)}. Save a file to start it.", RED)

    def stop(self) -> None:
        """End the process."""
        self._runs += 1
        if self._process is not None:
            self._process.kill()
        self._forget()

    def _forget(self) -> None:
        self._process, self._ready = None, False
        for future in self._requests.values():
            if not future.done():
                future.cancel()
        self._requests.clear()

    def _answer(self, request_id: str, task_ids: Sequence[str]) -> None:
        future = self._requests.pop(request_id, None)
        if future is not None and not future.done():
            future.set_result(task_ids)

    async def end_leases(self, request_id: str) -> Sequence[str]:
        """End the leases of an invocation whose process has ended. Return the ids of its tasks that had not ended."""
        for _ in range(TRIES):
            if self._process is not None and self._ready:
                future: asyncio.Future[Sequence[str]] = asyncio.get_running_loop().create_future()
                self._requests[request_id] = future
                self._process.send({"request_id": request_id})
                await asyncio.wait([future])
                if not future.cancelled():
                    return future.result()
            await asyncio.sleep(PAUSE_SECONDS)
        return ()
