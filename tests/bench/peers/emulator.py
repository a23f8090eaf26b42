"""The emulator of ``joblane.local`` with a counter of SQS requests: ``GET /_bench/requests`` returns them as JSON.

The emulator's interpreter runs it without any package of this project. Requests of an event source mapping, which AWS
makes and bills, happen inside the emulator: a receive that returns messages and a delete are one request each. An empty
receive of a mapping is not counted, because the emulator polls in another rhythm than AWS.
"""

from __future__ import annotations

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
        if (target := given.get(b"x-amz-target", b"")).startswith(b"AmazonSQS."):
            requests[target.decode().partition(".")[2]] += 1
        elif given.get(b"content-type", b"").startswith(b"application/x-www-form-urlencoded"):
            receive = _reading(receive)
        await app(scope, receive, send)

    return call


def _reading(receive: Any) -> Any:
    """Return ``receive`` that counts the action of a request in the query protocol."""
    counted = False

    async def read() -> Any:
        nonlocal counted
        message = await receive()
        if not counted and (action := parse_qs(message.get("body", b"")).get(b"Action")):
            counted = True
            requests[action[0].decode()] += 1
        return message

    return read


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
