"""The answers of the route ``/signals/TOKEN``, for each web framework.

Scanners of mail and previews open addresses by GET and HEAD. These change nothing, and read no database.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from http import HTTPStatus
from typing import Any, NoReturn

from joblane import settings, telemetry
from joblane.client.client import JobClient, counting_signal
from joblane.enqueue.signal_urls import Address, read_token
from joblane.enqueue.signals import MAX_SIGNAL_BYTES
from joblane.errors import DatabaseUnavailableError, SignalError, text_of
from joblane.json_values import MAX_DEPTH, canonical

HIDDEN_PATH = "/signals/-"
"""The path of a request without its token, for the logs of frameworks."""
METHODS = ("GET", "HEAD", "POST")
STYLE = (
    "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}"
    "button{font:inherit;padding:.5rem 1.5rem}"
)
STYLE_HASH = b64encode(sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}
SENTENCES = {
    HTTPStatus.OK: "The answer was received.",
    HTTPStatus.BAD_REQUEST: "The body must be one JSON value in UTF-8. Nothing was sent.",
    HTTPStatus.NOT_FOUND: "This address is not valid.",
    HTTPStatus.METHOD_NOT_ALLOWED: "Use GET or POST.",
    HTTPStatus.CONFLICT: "Another answer came first, and counts.",
    HTTPStatus.GONE: "This has ended, and needs no answer.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"The body can have at most {MAX_SIGNAL_BYTES:,} bytes. Nothing was sent.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "This value cannot be stored: it has a NUL character, half of a surrogate pair, "
    f"an infinite number, more than {MAX_DEPTH} levels, or more than {MAX_SIGNAL_BYTES:,} bytes. Nothing was sent.",
    HTTPStatus.SERVICE_UNAVAILABLE: "Try again in a moment.",
}
"""Status → sentence. A token that is forged, cut, of another stage or of a former key is not found, like any string."""
MORE = {
    HTTPStatus.METHOD_NOT_ALLOWED: {"Allow": ", ".join(METHODS)},
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": "5"},
}
"""Status → further headers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer over HTTP."""

    status: int
    body: str
    headers: Mapping[str, str]


def answer(jobs: JobClient, method: str, token: str, body: bytes, accept: str | None) -> Answer:
    """Return the answer to a request. It blocks.

    ``body``: its first 65,537 bytes, or more. ``accept``: the header. Raises :class:`SignalError`,
    and :class:`MissingSettingError`, for the setting with the keys.
    """
    status, page = HTTPStatus.METHOD_NOT_ALLOWED, ""
    if method in METHODS:
        address = read_token(settings.prefix(), token)
        if address is None:
            status = HTTPStatus.NOT_FOUND
        elif method == "POST":
            status = _signalled(jobs, address, body)
        else:
            status, page = HTTPStatus.OK, _form(address)
    is_page = method in ("GET", "HEAD") or "text/html" in (accept or "")
    text = (page or _page(SENTENCES[status])) if is_page else f"{SENTENCES[status]}\n"
    kind = {"Content-Type": f"text/{'html' if is_page else 'plain'}; charset=utf-8"}
    return Answer(status, "" if method == "HEAD" else text, {**HEADERS, **kind, **MORE.get(status, {})})


def _signalled(jobs: JobClient, address: Address, body: bytes) -> HTTPStatus:
    """Send the signal of an address."""
    value = address.value
    if value is ...:
        if len(body) > MAX_SIGNAL_BYTES:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        try:
            value = json.loads(body.decode(), parse_constant=_refuse)
        except (ValueError, RecursionError):
            return HTTPStatus.BAD_REQUEST
    try:
        counts = counting_signal(jobs, address.task_id, address.signal, value)
    except SignalError:
        return HTTPStatus.UNPROCESSABLE_ENTITY
    except DatabaseUnavailableError as error:
        telemetry.logger().warning("the database is unavailable for a signal", extra={"error": text_of(error)})
        return HTTPStatus.SERVICE_UNAVAILABLE
    if counts is None:
        return HTTPStatus.GONE
    return HTTPStatus.OK if _is_same(counts, value) else HTTPStatus.CONFLICT


def _is_same(stored: str, value: Any) -> bool:
    try:
        return canonical(json.loads(stored)) == canonical(value)
    except (ValueError, RecursionError):  # a value that was written with SQL
        return False


def _form(address: Address) -> str:
    """Return the page of an address. It has a button only if the address says the value."""
    signal = escape(address.signal)
    if address.value is ...:
        return _page(signal, "<p>Programs send an answer to this address by POST, as JSON. This page sends none.</p>")
    return _page(
        signal,
        f"<p>The button sends this answer:</p><p><code>{escape(canonical(address.value))}</code></p>"
        '<form method="post"><button>Send the answer</button></form>',
    )


def _page(title: str, content: str = "") -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>{content}</main></body></html>"
    )


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
