"""Access to the shared page: a person that the issuer has verified and whose groups give a role.

The session is a signed cookie. Nothing is kept in the function, so any of its processes can answer. A browser that is
not signed in is sent to the issuer and comes back to the page that it wanted.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp

from joblane.inspector.permission import Permission
from joblane.inspector.person import Person
from joblane.inspector.shared_page import Configuration
from joblane.page.hosted.issuer import Issuer, IssuerUnavailableError, SignInError, error_code
from joblane.page.inspectors import Desk
from joblane.page.rendering import problem
from joblane.page.security import Guard, equal, own_address
from joblane.page.views import find

SIGNED_IN, SIGN_OUT, SIGNED_OUT = "/signed-in", "/sign-out", "/signed-out"
SESSION = "__Host-joblane"
SIGN_IN = "__Host-joblane-sign-in-"
"""Beginning of the cookie of a sign-in that has begun; its state follows. So several tabs can sign in at once."""
SIGN_IN_SECONDS = 3600
"""Time for the issuer's pages, which may ask for a second factor, or wait for a person in a tab."""
MAX_SIGN_IN_BYTES = 4600
"""Size of a browser's cookies of sign-ins: API Gateway accepts headers of 10 KB in all."""
STATE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
MAX_PATH = 1000
"""Length of an address that a sign-in leads back to."""
PATH = re.compile(r"/(?![/\\])[^\x00-\x20\x7f\\]*", re.ASCII)
LEVELS: Mapping[Permission, str] = {
    Permission.VIEW: "see the page",
    Permission.OPERATE: "see the page, and decide if and when tasks run",
    Permission.EDIT: "see the page, decide if and when tasks run, and change payloads",
}


class Signer:
    """Signs and reads strings. ``key``: the secret key of the stage, 32 random bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def token(self, purpose: str, text: str) -> str:
        """A text that only a holder of the key can make. Two purposes never have the same one."""
        key = hmac.digest(self._key, purpose.encode(), hashlib.sha256)
        return _encoded(hmac.digest(key, text.encode(), hashlib.sha256))

    def sign(self, purpose: str, value: dict[str, Any], seconds: float) -> str:
        """A text with ``value``, which can be read for ``seconds``."""
        kept = {**value, "until": int(time.time() + seconds)}
        text = json.dumps(kept, separators=(",", ":"), ensure_ascii=False)
        body = _encoded(text.encode(errors="surrogatepass"))
        return f"{body}.{self.token(purpose, body)}"

    def read(self, purpose: str, text: str) -> dict[str, Any] | None:
        """The value in a string; None if it was not signed for this purpose, or is too old."""
        body, _, token = text.partition(".")
        if not equal(token, self.token(purpose, body)):
            return None
        value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return value if value.pop("until") > time.time() else None


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class HostedGuard(Guard):
    """``desk_of``: returns the inspectors that act for a person."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        configuration: Configuration,
        issuer: Issuer,
        signer: Signer,
        desk_of: Callable[[Person], Desk],
    ) -> None:
        super().__init__(app, origin=configuration.url)
        self._configuration, self._issuer, self._signer, self._desk_of = configuration, issuer, signer, desk_of

    def refusal(self, request: Request) -> Response | None:
        path = request.url.path
        if request.method == "GET" and path == SIGNED_IN:
            return self._finish_sign_in(request)
        if request.method == "GET" and path == SIGNED_OUT:
            return self._signed_out(request)
        session = self._session(request)
        if session is None:
            return self._start_sign_in(request) if _is_navigation(request) else self._not_signed_in(request)
        person = Person(session["name"], Permission(session["role"]))
        request.state.desk = self._desk_of(person)
        request.state.form_token = self._signer.token("form", session["id"])
        request.state.role = person.role
        request.state.common = {
            "csrf": request.state.form_token,
            "read_only": not person.may(Permission.OPERATE),
            "can_edit": person.may(Permission.EDIT),
            "person": person.name.partition(" (")[0],
        }
        return None

    def _session(self, request: Request) -> dict[str, Any] | None:
        return self._signer.read("session", request.cookies.get(SESSION, ""))

    def action_refusal(self, request: Request) -> Response | None:
        if request.state.role is not Permission.VIEW or request.url.path == SIGN_OUT:
            return None
        text = f"Nothing was done. You may {LEVELS[Permission.VIEW]}; ask for a group with the role to operate."
        return problem(request, 403, "Your role does not allow this", text)

    def form_token(self, request: Request) -> str:
        return str(request.state.form_token)

    def finish(self, headers: MutableHeaders) -> None:
        headers["strict-transport-security"] = "max-age=31536000"

    # --- Sign-in ---------------------------------------------------------------------------------------------------

    def _start_sign_in(self, request: Request) -> Response:
        """Send the browser to the issuer. A signed cookie keeps where it wanted to go."""
        state, wanted = secrets.token_urlsafe(32), own_address(request)
        try:
            address = self._issuer.authorize_address(
                state=state, nonce=self._signer.token("nonce", state), verifier=self._signer.token("verifier", state)
            )
        except IssuerUnavailableError as error:
            return self._unavailable(request, error)
        answer = RedirectResponse(address, status_code=303)
        path = wanted if len(wanted) <= MAX_PATH else "/"
        kept = self._signer.sign(_purpose(state), {"path": path}, SIGN_IN_SECONDS)
        for name in _without_room(request.cookies, len(SIGN_IN + state + kept)):
            _forget(answer, name)
        _set(answer, SIGN_IN + state, kept, SIGN_IN_SECONDS)
        return answer

    def _finish_sign_in(self, request: Request) -> Response:
        """Verify what the issuer answered, make a session, and lead the browser to the page that it wanted."""
        state = request.query_params.get("state", "")
        kept = self._signer.read(_purpose(state), request.cookies.get(SIGN_IN + state, ""))
        if kept is None:
            return self._refused(
                request,
                400,
                "This sign-in is unknown or too old",
                "It may have been finished before. Nothing was done.",
            )
        path = str(kept["path"]) if PATH.fullmatch(kept["path"]) else "/"
        try:
            claims = self._verified(request, state)
        except IssuerUnavailableError as error:
            return self._unavailable(request, error)
        except SignInError as error:
            return self._refused(request, 403, "The sign-in was refused", f"The reason: {error}.", path=path)
        role = self._configuration.role_of(claims)
        if role is None:
            text = (
                f"You are signed in at {self._issuer.host}, but no group of yours has a role on this page. Ask for one."
            )
            return self._refused(request, 403, "You have no role here", text, path=path)
        name, before = self._configuration.name_of(claims), self._session(request) or {}
        is_same = before.get("name") == name  # the forms in the person's other tabs stay good
        id_ = before["id"] if is_same else secrets.token_urlsafe(16)
        session = {"id": id_, "name": name, "role": role}
        seconds = self._configuration.session_hours * 3600
        answer = RedirectResponse(path, status_code=303)
        _forget(answer, SIGN_IN + state)
        _set(answer, SESSION, self._signer.sign("session", session, seconds), seconds)
        return answer

    def _verified(self, request: Request, state: str) -> Mapping[str, Any]:
        given = request.query_params
        if given.get("iss", self._configuration.issuer) != self._configuration.issuer:
            raise SignInError("the answer is of another issuer")
        code = given.get("code")
        if not code:
            raise SignInError(f"{self._issuer.host} did not sign you in{error_code(given)}")
        token = self._issuer.redeem(code, self._signer.token("verifier", state))
        return self._issuer.verify(token, self._signer.token("nonce", state))

    # --- Pages -----------------------------------------------------------------------------------------------------

    def _not_signed_in(self, request: Request) -> Response:
        text = "Nothing was done. Your session is over, or you have signed out."
        back = (own_address(request) if request.method == "GET" else "/", "Sign in")
        return problem(request, 401, "You are not signed in", text, back=back, stranger=True)

    def _signed_out(self, request: Request) -> Response:
        text = f"On this page. You may still be signed in at {self._issuer.host}, which then asks for no password."
        return problem(request, 200, "You are signed out", text, back=("/", "Sign in again"), stranger=True)

    def _unavailable(self, request: Request, error: IssuerUnavailableError) -> Response:
        title = f"The sign-in service at {self._issuer.host} does not answer"
        text = f"{error}. Load this page again in a minute. Who is signed in already is not affected."
        return problem(request, 503, title, text, stranger=True)

    def _refused(self, request: Request, status: int, title: str, text: str, *, path: str = "/") -> Response:
        answer = problem(request, status, title, text, back=(path, "Sign in again"), stranger=True)
        if STATE.fullmatch(state := request.query_params.get("state", "")):
            _forget(answer, SIGN_IN + state)
        return answer


def sign_out(request: Request) -> Response:
    """End the session of this browser, and forget its search."""
    answer = RedirectResponse(SIGNED_OUT, status_code=303)
    _forget(answer, SESSION)
    _forget(answer, find.COOKIE, find.PATH)
    return answer


def _is_navigation(request: Request) -> bool:
    """True for a page that a person opens; false for a part that refreshes itself, and for an action."""
    mode = request.headers.get("sec-fetch-mode", "navigate")
    return request.method == "GET" and mode == "navigate" and "hx-request" not in request.headers


def _purpose(state: str) -> str:
    return f"sign-in {state}"


def _without_room(cookies: Mapping[str, str], size: int) -> Iterator[str]:
    """The sign-ins that give way to one with ``size``: the oldest, which browsers send first (RFC 6265, 5.4)."""
    sizes = {name: len(name + value) for name, value in cookies.items() if name.startswith(SIGN_IN)}
    left = size + sum(sizes.values())
    for name, bytes_ in sizes.items():
        if left <= MAX_SIGN_IN_BYTES:
            return
        left -= bytes_
        yield name


def _set(answer: Response, name: str, value: str, seconds: int) -> None:
    answer.set_cookie(name, value, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax")


def _forget(answer: Response, name: str, path: str = "/") -> None:
    answer.set_cookie(name, "", max_age=0, path=path, secure=True, httponly=True, samesite="lax")
