"""Access to the shared page: a person that the issuer has verified and whose groups give a role.

The session is a signed cookie. Nothing is kept in the function, so any of its processes can answer. A browser that is
not signed in is sent to the issuer and comes back to the page that it wanted.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp

from joblane.inspector.permission import Permission
from joblane.inspector.person import Person
from joblane.page.desk import Desk
from joblane.page.hosted.configuration import Configuration
from joblane.page.hosted.issuer import Issuer, IssuerUnavailableError, SignInError
from joblane.page.hosted.signing import Signer
from joblane.page.rendering import problem
from joblane.page.security import Guard, cookies_of, equal, own_address

SIGNED_IN, SIGN_OUT, SIGNED_OUT = "/signed-in", "/sign-out", "/signed-out"
SESSION = "__Host-joblane"
SIGN_IN = "__Host-joblane-sign-in-"
"""Beginning of the cookie of a sign-in that has begun. Each has its own, so that several tabs can sign in."""
SIGN_IN_SECONDS = 600
MAX_SIGN_INS = 3
"""Sign-ins of a browser at a time: API Gateway accepts headers of 10 KB in all."""
MAX_PATH = 1000
"""Length of an address that a sign-in leads back to."""
PATH = re.compile(r"/(?![/\\])[^\x00-\x20\x7f\\]*", re.ASCII)
LEVELS: Mapping[Permission, str] = {
    Permission.VIEW: "see the page",
    Permission.OPERATE: "see the page, and decide if and when tasks run",
    Permission.EDIT: "see the page, decide if and when tasks run, and change payloads",
}


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
        session = self._signer.read("session", cookies_of(request.headers).get(SESSION, ""))
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
            "person": session["shown"],
        }
        return None

    def action_refusal(self, request: Request) -> Response | None:
        if request.state.role is not Permission.VIEW or request.url.path == SIGN_OUT:
            return None
        text = f"Nothing was done. You may {LEVELS[Permission.VIEW]}; ask for a group with the role to operate."
        return problem(request, 403, "Your role does not allow this", text)

    def form_token(self, request: Request) -> str:
        return str(request.state.form_token)

    # --- Sign-in ---------------------------------------------------------------------------------------------------

    def _start_sign_in(self, request: Request) -> Response:
        """Send the browser to the issuer. A signed cookie keeps where it wanted to go."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        wanted = own_address(request)
        kept = {
            "state": state,
            "nonce": nonce,
            "verifier": verifier,
            "path": wanted if len(wanted) <= MAX_PATH else "/",
        }
        try:
            address = self._issuer.authorize_address(state=state, nonce=nonce, verifier=verifier)
        except IssuerUnavailableError as error:
            return self._unavailable(request, error)
        answer = RedirectResponse(address, status_code=303)
        begun = [name for name in cookies_of(request.headers) if name.startswith(SIGN_IN)]
        if len(begun) >= MAX_SIGN_INS:
            for name in begun:
                _forget(answer, name)
        _set(answer, _cookie_of(state), self._signer.sign("sign-in", kept, SIGN_IN_SECONDS), SIGN_IN_SECONDS)
        return answer

    def _finish_sign_in(self, request: Request) -> Response:
        """Verify what the issuer answered, make a session, and lead the browser to the page that it wanted."""
        state = request.query_params.get("state", "")
        cookie = _cookie_of(state)
        kept = self._signer.read("sign-in", cookies_of(request.headers).get(cookie, ""))
        if kept is None or not equal(state, kept["state"]):
            return self._refused(
                request,
                400,
                "This sign-in is unknown or too old",
                "It may have been finished before. Nothing was done.",
            )
        path = str(kept["path"]) if PATH.fullmatch(kept["path"]) else "/"
        try:
            claims = self._verified(request, kept)
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
        name = self._configuration.name_of(claims)
        session = {
            "id": secrets.token_urlsafe(16),
            "name": name,
            "shown": name.partition(" (")[0],
            "role": role,
        }
        seconds = self._configuration.session_hours * 3600
        answer = RedirectResponse(path, status_code=303)
        _forget(answer, cookie)
        _set(answer, SESSION, self._signer.sign("session", session, seconds), seconds)
        return answer

    def _verified(self, request: Request, kept: Mapping[str, Any]) -> Mapping[str, Any]:
        given = request.query_params
        if given.get("iss", self._configuration.issuer) != self._configuration.issuer:
            raise SignInError("the answer is of another issuer")
        code = given.get("code")
        if not code:
            raise SignInError(f"{self._issuer.host} did not sign you in")
        return self._issuer.verify(self._issuer.redeem(code, kept["verifier"]), kept["nonce"])

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
        _forget(answer, _cookie_of(request.query_params.get("state", "")))
        return answer


def sign_out(request: Request) -> Response:
    """End the session of this browser."""
    answer = RedirectResponse(SIGNED_OUT, status_code=303)
    _forget(answer, SESSION)
    return answer


def _is_navigation(request: Request) -> bool:
    """True for a page that a person opens; false for a part that refreshes itself, and for an action."""
    mode = request.headers.get("sec-fetch-mode", "navigate")
    return request.method == "GET" and mode == "navigate" and "hx-request" not in request.headers


def _cookie_of(state: str) -> str:
    return SIGN_IN + re.sub(r"[^A-Za-z0-9_-]", "", state)[:8]


def _set(answer: Response, name: str, value: str, seconds: int) -> None:
    answer.set_cookie(name, value, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax")


def _forget(answer: Response, name: str) -> None:
    answer.set_cookie(name, "", max_age=0, path="/", secure=True, httponly=True, samesite="lax")
