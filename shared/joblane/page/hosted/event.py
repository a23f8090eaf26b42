"""An event of an API Gateway HTTP API as a request to an ASGI application.

Source: API Gateway, *Lambda integrations for HTTP APIs*, payload format version 2.0.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import Message, Scope

MAX_ANSWER_BYTES = 5_500_000
"""Lambda's limit is 6 MB, and JSON escapes in the text need additional bytes. Source: Lambda quotas."""
TEXTS = ("text/", "image/svg", "application/json")


def respond(app: Starlette, event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response of ``app`` to an event."""
    body, sent = _body(event), list[Message]()

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope_of(event), receive, send))
    return _answer(sent)


def scope_of(event: Mapping[str, Any]) -> Scope:
    """The request of an event. The gateway has one value for each header, and a list of cookies."""
    http = event["requestContext"]["http"]
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in event.get("headers", {}).items()
        if name.lower() != "cookie"
    ]
    if cookies := event.get("cookies"):
        headers.append((b"cookie", "; ".join(cookies).encode("latin-1", "replace")))
    path = event["rawPath"]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": http["method"],
        "scheme": "https",
        "path": unquote(path),
        "raw_path": path.encode("latin-1", "replace"),
        "query_string": event.get("rawQueryString", "").encode("latin-1", "replace"),
        "root_path": "",
        "headers": headers,
        "client": (http["sourceIp"], 0),
        "server": (event["requestContext"]["domainName"], 443),
        "state": {},
    }


def _body(event: Mapping[str, Any]) -> bytes:
    body = event.get("body") or ""
    return base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()


def _answer(sent: list[Message]) -> dict[str, Any]:
    start, *parts = sent
    content, raw = b"".join(part.get("body", b"") for part in parts), Headers(raw=start["headers"])
    headers = {name: value for name, value in raw.items() if name not in ("set-cookie", "content-length")}
    answer = {"statusCode": start["status"], "headers": headers, "cookies": raw.getlist("set-cookie")}
    if len(content) > MAX_ANSWER_BYTES:
        text = "This page has more than the 6 MB that AWS Lambda can send. Select less, or use the command line."
        plain = {**headers, "content-type": "text/plain; charset=utf-8"}
        return {**answer, "statusCode": 507, "headers": plain, "body": text, "isBase64Encoded": False}
    is_text = headers.get("content-type", "").startswith(TEXTS) or "javascript" in headers.get("content-type", "")
    answer["body"] = content.decode() if is_text else base64.b64encode(content).decode()
    answer["isBase64Encoded"] = not is_text
    return answer
