"""The emulator of ``joblane.local`` with a counter of SQS requests: ``GET /_bench/requests`` returns them as JSON.

The emulator's interpreter runs it without any package of this project. Requests of an event source mapping, which AWS
makes and bills, happen inside the emulator: a receive that returns messages and a delete are one request each. An empty
receive of a mapping is not counted, because the emulator polls in another rhythm than AWS.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

LIBRARY = Path(__file__).parents[3] / "shared" / "joblane" / "local" / "emulator.py"
PATH = "/_bench/requests"
CURL = (b"user-agent", b"Mozilla/5.0 (compatible; pycurl)")
"""The header of Celery's requests. The guard would take them for those of a browser."""
SQS = b"AmazonSQS."
requests: Counter[str] = Counter()


def counting(app: Any) -> Any:
    """Return the ASGI application with the counter around it."""

    async def call(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        if scope["path"] == PATH:
            body = json.dumps(requests).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        scope["headers"] = [header for header in scope["headers"] if header != CURL]
        given = dict(scope["headers"])
        target, kind = given.get(b"x-amz-target", b""), given.get(b"content-type", b"")
        if not target.startswith(SQS) and not kind.startswith(b"application/x-www-form-urlencoded"):
            await app(scope, receive, send)
            return
        body = await _body(receive)
        action = target.removeprefix(SQS) if target else parse_qs(body).get(b"Action", [b""])[0]
        requests[action.decode()] += 1

        async def read() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        poll = asyncio.ensure_future(app(scope, read, send))
        if action == b"ReceiveMessage":
            await _until_closed(poll, receive)
        await poll

    return call


async def _until_closed(poll: asyncio.Future[Any], receive: Any) -> None:
    """Wait for a long poll, and end it when its connection is closed: a killed worker must receive no message."""
    closed = asyncio.ensure_future(receive())
    await asyncio.wait([poll, closed], return_when=asyncio.FIRST_COMPLETED)
    closed.cancel()
    poll.cancel()  # has no effect if it has ended


async def _body(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _count_mappings() -> None:
    sqs = importlib.import_module("ministack.services.sqs")
    receive, delete = sqs._receive_messages_for_esm, sqs._delete_messages_for_esm

    def counted_receive(*arguments: Any) -> Any:
        if batch := receive(*arguments):
            requests["ReceiveMessage"] += 1
        return batch

    def counted_delete(*arguments: Any) -> Any:
        requests["DeleteMessageBatch"] += 1
        return delete(*arguments)

    sqs._receive_messages_for_esm = counted_receive  # type: ignore[attr-defined]
    sqs._delete_messages_for_esm = counted_delete  # type: ignore[attr-defined]


def main() -> None:
    """Run the emulator until the process is stopped."""
    spec = importlib.util.spec_from_file_location("emulator", LIBRARY)
    assert spec is not None
    assert spec.loader is not None
    emulator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(emulator)
    guarded = emulator.guarded
    emulator.guarded = lambda app, port: counting(guarded(app, port))  # type: ignore[attr-defined]
    _count_mappings()
    emulator.main()


if __name__ == "__main__":
    main()
