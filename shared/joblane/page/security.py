"""Access to the page, for the local page only by a browser on this machine that opened the address with the token.

Another site in the same browser can send requests to 127.0.0.1, and can let its own name resolve to that address (DNS
rebinding). So the Host header must be the page's own. A cookie replaces the token, and is not sent from other sites. A
browser sends cookies to every port of a host, so all addresses begin with a random base, and the cookie is for the
base. An action needs a token from the page's own forms, and headers of the browser that name this page as the origin.
"""

from __future__ import annotations

import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from joblane.page.rendering import STATIC_PATH, base_of, problem

ADDRESS = "127.0.0.1"
MAX_FORM_BYTES = 4 * 1024 * 1024
"""Size of an action's form: a payload of SQS's 1 MiB can be three times as long when its characters are escaped."""
SAFE_METHODS = ("GET", "HEAD")
READING = ("/find",)
"""Paths of forms that change nothing, so that a read-only page accepts them."""
OTHER_BASE = re.compile(r"^/~[^/]*")
"""The base in a link of another process of the page."""

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
STATIC = {"cache-control": "public, max-age=31536000, immutable"}
"""Static files hold no data, and their addresses in a page have a hash of their content."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The secrets of one process. ``token``: in the first address; ``session``: in the cookie; ``form``: in each form;
    ``base``: the first part of all addresses, as in ``/~x``, or empty."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    form: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    base: str = field(default_factory=lambda: f"/~{secrets.token_urlsafe(16)}", repr=False)


def address_of(port: int, token: str) -> str:
    """The address that signs a browser in."""
    return f"http://{ADDRESS}:{port}/?token={token}"


class Guard(ABC):
    """Middleware in front of all routes. An accepted form is in the request's state as ``form``.

    ``origin``: of the page, as in ``https://jobs.example.com``. A subclass says who is signed in, who may act, and
    which token a form must have.
    """

    def __init__(self, app: ASGIApp, *, origin: str) -> None:
        self._app = app
        self._origin, self._host = origin, origin.partition("//")[2]

    @abstractmethod
    def refusal(self, request: Request) -> Response | None:
        """The response to a browser that is not signed in, or to a step of its sign-in. None: it is signed in."""

    @abstractmethod
    def action_refusal(self, request: Request) -> Response | None:
        """The refusal of every action; None if the browser may act."""

    @abstractmethod
    def form_token(self, request: Request) -> str:
        """The token in the forms of this browser."""

    def inner(self, scope: Scope) -> Scope:
        """The request as the routes see it."""
        return scope

    def finish(self, headers: MutableHeaders) -> None:  # noqa: B027 - most guards change nothing
        """Change the headers of a response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # there are no web sockets
            return

        scope = self.inner(scope)
        request = Request(scope, receive)
        kept = STATIC if request.url.path.startswith(STATIC_PATH) and "v" in request.query_params else {}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update({**HEADERS, **(kept if message["status"] in (200, 304) else {})})
                self.finish(headers)
            await send(message)

        answer = self._refusal(request) or await self._form_refusal(request)
        await (answer or self._app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        if request.headers.getlist("host") != [self._host]:
            text = f"This page answers only at {self._origin}/."
            return problem(request, 421, "Wrong address", text, stranger=True)
        return None if request.url.path.startswith(STATIC_PATH) else self.refusal(request)

    async def _form_refusal(self, request: Request) -> Response | None:
        """Read the form of an action, and refuse forms that are not the page's own."""
        if request.method in SAFE_METHODS:
            return None
        if request.url.path not in READING and (refused := self.action_refusal(request)):
            return refused
        if not self._same_origin(request.headers):
            text = "Nothing was done. Use the forms of this page."
            return problem(request, 403, "The request came from another site", text)
        form = await _form(request)
        if form is None:
            return problem(request, 413, "The form is too large", "Nothing was done. A payload can have 1 MiB.")
        if not equal(form.get("csrf", [""])[0], self.form_token(request)):
            return problem(
                request,
                403,
                "The form is out of date",
                "Nothing was done. You have signed in again since, or the page was restarted: go back, load the form "
                "again, and repeat.",
            )
        request.state.form = form
        return None

    def _same_origin(self, headers: Headers) -> bool:
        """True by headers that scripts cannot change. ``Origin`` is ``null`` under a policy without referrers."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin not in (None, "null", self._origin):
            return False
        return site == "same-origin" if site else origin == self._origin


class LocalGuard(Guard):
    """The guard of a page on this machine.

    A token is good for one browser. ``renewed``: called with the token for the next one.
    """

    def __init__(
        self, app: ASGIApp, *, port: int, keys: Keys, read_only: bool, renewed: Callable[[str], object]
    ) -> None:
        super().__init__(app, origin=f"http://{ADDRESS}:{port}")
        self._token = keys.token
        self._renewed = renewed
        self._cookie = f"joblane-{port}"
        self._keys = keys
        self._read_only = read_only

    def inner(self, scope: Scope) -> Scope:
        """The request as the routes see it. The state has the ``base`` only if the address began with it, so no other
        response contains the base."""
        base = self._keys.base
        if not f"{scope['path']}/".startswith(f"{base}/"):
            return scope
        path = scope["path"].removeprefix(base) or "/"
        return {**scope, "path": path, "state": {**scope.get("state", {}), "base": base}}

    def finish(self, headers: MutableHeaders) -> None:
        if "location" in headers:
            headers["location"] = self._keys.base + headers["location"].removeprefix(self._origin)

    def refusal(self, request: Request) -> Response | None:
        token = request.query_params.get("token")
        if token is not None and request.method == "GET" and equal(token, self._token):
            self._token = secrets.token_urlsafe(32)
            self._renewed(self._token)
            return self._sign_in(request)
        has_base = base_of(request) == self._keys.base
        if not has_base or not equal(request.cookies.get(self._cookie, ""), self._keys.session):
            return problem(
                request,
                401,
                "This browser is not signed in",
                "Open the last address that `joblane page` has printed: each is good for one browser. After that, or "
                "after a link from another site, load this page again.",
                back=(own_address(request), "Load it again") if request.method == "GET" else None,
                stranger=True,
            )
        return None

    def action_refusal(self, request: Request) -> Response | None:
        if not self._read_only:
            return None
        text = "Nothing was done. To act, start `joblane page` without --read-only."
        return problem(request, 403, "The page is read-only", text)

    def form_token(self, request: Request) -> str:
        return self._keys.form

    def _sign_in(self, request: Request) -> Response:
        """Set the cookie, and redirect to an address without the token, which keeps it out of the browser's history."""
        answer = RedirectResponse(own_address(request), status_code=303)
        path = self._keys.base or "/"
        answer.set_cookie(self._cookie, self._keys.session, httponly=True, samesite="strict", path=path)
        return answer


def own_address(request: Request) -> str:
    """The address of a request on this page, without its token and without the base of another process."""
    rest = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
    inner = OTHER_BASE.sub("", request.url.path)
    path = quote(f"/{inner.lstrip('/')}")  # an address with two slashes would name another host
    return f"{path}?{urlencode(rest)}" if rest else path


def equal(given: str, wanted: str) -> bool:
    """Compare secrets in constant time."""
    return secrets.compare_digest(given.encode(errors="surrogatepass"), wanted.encode())


async def _form(request: Request) -> dict[str, list[str]] | None:
    """The fields of the form; None if it is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return None
    return parse_qs(body.decode(errors="replace"), keep_blank_values=True)
