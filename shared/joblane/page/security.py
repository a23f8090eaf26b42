"""Who may talk to the page: this machine's browser that opened the address with the token, and nobody through it.

Another site that the browser shows can send requests to 127.0.0.1, and can give its own name that address (DNS
rebinding). So the Host header has to be the page's own, a cookie stands for the token and is not sent from other sites,
and an action needs a token out of the page's own forms, beside what the browser says of where it comes from.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from joblane.page.rendering import problem

ADDRESS = "127.0.0.1"
MAX_FORM_BYTES = 4 * 1024 * 1024
"""Of an action's form: a payload of SQS's 1 MiB may be three times as long when its characters are escaped."""
CHANGES_NOTHING = ("GET", "HEAD")

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
STATIC_PATH = "/static/"
STATIC = {"cache-control": "private, max-age=600"}
"""Looks alone, and no data; else each part that refreshes itself would fetch them again."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Of one process. ``token``: in the address; ``session``: in the cookie; ``form``: in each form."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    form: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)


class Guard:
    """Stands before all routes. A form that it lets through is in the request's state as ``form``."""

    def __init__(self, app: ASGIApp, *, port: int, keys: Keys, read_only: bool) -> None:
        self._app = app
        self._host = f"{ADDRESS}:{port}"
        self._cookie = f"joblane-{port}"
        self._keys = keys
        self._read_only = read_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # there are no web sockets
            return

        kept = STATIC if scope["path"].startswith(STATIC_PATH) else {}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update({**HEADERS, **kept})
            await send(message)

        request = Request(scope, receive)
        answer = self._refusal(request) or await self._form_refusal(request)
        await (answer or self._app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """None for what may go on."""
        if request.headers.getlist("host") != [self._host]:
            text = f"This page answers to http://{self._host}/ alone."
            return problem(request, 421, "Not this address", text, stranger=True)
        if request.url.path.startswith(STATIC_PATH):
            return None
        token = request.query_params.get("token")
        if token is not None and request.method == "GET" and same(token, self._keys.token):
            return self._welcome(request)
        if not same(_cookies(request.headers).get(self._cookie, ""), self._keys.session):
            return problem(
                request,
                401,
                "The page does not know this browser",
                "Open the whole address that `joblane page` printed when it started; it carries a token, which changes "
                "with each start. After a link from another site, load the page again.",
                stranger=True,
            )
        return None

    def _welcome(self, request: Request) -> Response:
        """The token leaves the address, and so the browser's history; the cookie stays."""
        rest = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
        answer = RedirectResponse(f"/?{urlencode(rest)}" if rest else "/", status_code=303)
        answer.set_cookie(self._cookie, self._keys.session, httponly=True, samesite="strict", path="/")
        return answer

    async def _form_refusal(self, request: Request) -> Response | None:
        """Read what is to be done, and refuse what did not come from one of the page's own forms."""
        if request.method in CHANGES_NOTHING:
            return None
        if self._read_only:
            return problem(
                request,
                403,
                "The page is read-only",
                "Start `joblane page` without --read-only to act. Nothing was done.",
            )
        if not self._same_origin(request.headers):
            return problem(request, 403, "This came from another site", "Use the forms of this page. Nothing was done.")
        form = await _form(request)
        if form is None:
            return problem(request, 413, "The form is too large", "A payload may have 1 MiB. Nothing was done.")
        if not same(form.get("csrf", [""])[0], self._keys.form):
            return problem(
                request,
                403,
                "The form is out of date",
                "It was made before the page was started last: go back, load it again, and repeat. Nothing was done.",
            )
        request.state.form = form
        return None

    def _same_origin(self, headers: Headers) -> bool:
        """By what the browser says and no script can change. ``Origin`` is ``null`` where no referrer is to be told."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin not in (None, "null", f"http://{self._host}"):
            return False
        return site == "same-origin" if site else origin == f"http://{self._host}"


def same(given: str, wanted: str) -> bool:
    """Compared in a time that tells nothing."""
    return secrets.compare_digest(given.encode(), wanted.encode())


def _cookies(headers: Headers) -> Mapping[str, str]:
    try:
        return {name: one.value for name, one in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:  # of another program on this machine: cookies know no ports
        return {}


async def _form(request: Request) -> dict[str, list[str]] | None:
    """None for one too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return None
    return parse_qs(body.decode(errors="replace"), keep_blank_values=True)
