"""A browser that reads a stream of progress straight from an ASGI application, without a server."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any, Self


class Reader:
    """A request for a stream. ``is_slow``: the reader takes nothing more until it is False again."""

    def __init__(self, app: Any, path: str, last_id: str | None = None) -> None:
        self.status, self.headers = 0, dict[str, str]()
        self.chunks: list[bytes] = []
        self.taken = asyncio.Event()
        self.taken.set()
        self._left = asyncio.Event()
        self._messages = [{"type": "http.request", "body": b"", "more_body": False}]
        headers = [(b"host", b"testserver")] + ([(b"last-event-id", last_id.encode())] if last_id is not None else [])
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await self.taken.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        elif message.get("body"):
            self.chunks.append(message["body"])

    async def leave(self) -> Self:
        """Disconnect, and wait until the application has noticed."""
        self._left.set()
        return await self.end()

    async def end(self) -> Self:
        with suppress(asyncio.CancelledError):
            await self.task
        return self

    @property
    def text(self) -> str:
        return b"".join(self.chunks).decode()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line[len("data: ") :]) for line in self.text.splitlines() if line.startswith("data: ")]

    @property
    def last_id(self) -> str:
        return [line[len("id: ") :] for line in self.text.splitlines() if line.startswith("id: ")][-1]
