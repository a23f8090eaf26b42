"""The page that a team shares: sign-in at an issuer, roles, and attacks on both. Requests are events of API Gateway."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast
from urllib.parse import urlencode

import jwt
import pytest

from joblane.inspector.filter import BulkAction, Filter, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.permission import Permission, permission_of
from joblane.inspector.person import Person
from joblane.inspector.shared_page import Configuration
from joblane.inspector.views import AuditEntry, Wait
from joblane.page.app import ACTIONS, PAGES, SEARCHES
from joblane.page.hosted.entry import build
from joblane.page.hosted.event import MAX_ANSWER_BYTES, respond
from joblane.page.hosted.guard import SESSION, SIGN_IN, Signer
from joblane.page.rendering import static
from joblane.page.views.find import COOKIE
from joblane.record.flow.limit_status import LimitKind
from joblane.record.row.states import State
from tests.builders import views
from tests.inspector import FakeInspector
from tests.oidc import CLIENT, Answer, LocalIssuer, SigningKey, Visitor, serving, shared_configuration

HOST = "page.example.org"
VIEW, OPERATE, EDIT = Permission
KEY = b"k" * 32


class Remote:
    """The inspector of a stage, without the stage. ``people``: those it acted for."""

    def __init__(self) -> None:
        self.stub = FakeInspector()
        self.people: list[Person] = []

    def on_behalf_of(self, person: Person) -> Any:
        self.people.append(person)
        stub = self.stub

        class Acting:
            def __getattr__(self, operation: str) -> Callable[..., Any]:
                permission = permission_of(Inspector, operation)
                assert permission is not None
                person.check(operation, permission)  # as RemoteInspector does, and the control API again
                found: Callable[..., Any] = getattr(stub, operation)
                return found

        return Acting()


@pytest.fixture(scope="session")
def rsa_key() -> SigningKey:
    return SigningKey.rsa("one")


@pytest.fixture(scope="module")
def served(rsa_key: SigningKey) -> Iterator[LocalIssuer]:
    with serving(LocalIssuer(rsa_key)) as issuer:
        yield issuer


@pytest.fixture
def issuer(served: LocalIssuer) -> LocalIssuer:
    served.reset()
    return served


@pytest.fixture
def remote() -> Remote:
    return Remote()


@pytest.fixture
def configuration(issuer: LocalIssuer) -> Configuration:
    return shared_configuration(issuer, f"https://{HOST}")


Open = Callable[..., Visitor]


@pytest.fixture
def opened(configuration: Configuration, issuer: LocalIssuer, remote: Remote) -> Open:
    """A new browser at a new process of the function."""

    def open_it(key: bytes = KEY, secret: Callable[[], str] | None = None, **changes: Any) -> Visitor:
        page = build(replace(configuration, **changes), key=key, secret=secret, remote=cast(Any, remote))
        return Visitor(partial(respond, page), issuer, HOST)

    return open_it


@pytest.fixture
def visitor(opened: Open) -> Visitor:
    return opened()


def signed_in(visitor: Visitor, *groups: str) -> Visitor:
    visitor.issuer.person["groups"] = list(groups)
    assert visitor.sign_in().status == 303
    return visitor


def title(answer: Answer) -> str:
    return answer.text.partition("<h1>")[2].partition("</h1>")[0]


# --- Signing in ----------------------------------------------------------------------------------------------------


def test_a_deep_link_leads_through_the_sign_in_to_the_task(visitor: Visitor, remote: Remote) -> None:
    # given a browser that is not signed in
    wanted = "/task?id=one&from=a+mail"
    # when
    first = visitor.get(wanted)
    answer = visitor.get(visitor.at_issuer(first))
    # then
    assert (answer.status, answer.location) == (303, wanted)
    task = visitor.get(answer.location)
    assert (task.status, "one" in title(task) or ">one</h1>" in task.text) == (200, True)
    assert {person.name for person in remote.people} == {"ann@example.com (u-1)"}
    assert "ann@example.com" in task.text


def test_cookies_are_for_this_host_only_and_no_script_reads_them(visitor: Visitor) -> None:
    begun = visitor.get("/")
    ended = visitor.get(visitor.at_issuer(begun))
    for cookie in [*begun.cookies, *ended.cookies]:
        name, _, rest = cookie.partition("=")
        attributes = {part.strip().lower() for part in rest.split(";")[1:]}
        assert name.startswith("__Host-")
        assert {"path=/", "secure", "httponly", "samesite=lax"} <= attributes
        assert not {part for part in attributes if part.startswith("domain")}
    assert f"Max-Age={8 * 3600}" in next(cookie for cookie in ended.cookies if cookie.startswith(f"{SESSION}="))
    assert list(visitor.jar) == [SESSION]  # the cookie of the sign-in is removed


def test_the_sign_in_has_a_challenge_and_names_nothing_of_the_page(visitor: Visitor) -> None:
    address = visitor.get("/task?id=confidential").location
    assert "confidential" not in address
    for parameter in ("state=", "nonce=", "code_challenge=", "code_challenge_method=S256", "scope=openid+email"):
        assert parameter in address


def test_many_tabs_sign_in_at_once_and_each_ends_at_its_page(visitor: Visitor) -> None:
    wanted = [f"/task?id=019318f2-7f3a-7cc4-9d3e-1f6b2a4c5d{number:02}" for number in range(12)]
    begun = [visitor.get(path) for path in wanted]
    assert [visitor.get(visitor.at_issuer(answer)).location for answer in begun] == wanted
    assert list(visitor.jar) == [SESSION]


def test_the_forms_of_the_first_tab_are_good_after_the_sign_in_of_another(visitor: Visitor, remote: Remote) -> None:
    # given tabs that have begun to sign in, and a form of the first
    begun = [visitor.get(path) for path in ("/task?id=one", "/dead", "/audit")]
    visitor.get(visitor.at_issuer(begun[0]))
    token = visitor.form_token()
    # when
    visitor.get(visitor.at_issuer(begun[1]))
    # then
    assert visitor.post("/task/act", id="one", action="retry", csrf=token).status == 303
    # and not after that of another person in the same browser
    visitor.issuer.person["sub"] = "u-2"
    visitor.get(visitor.at_issuer(begun[2]))
    assert visitor.post("/task/act", id="one", action="retry", csrf=token).status == 403


def test_sign_ins_that_are_not_finished_do_not_fill_the_headers(visitor: Visitor) -> None:
    begun = [visitor.get(f"/task?id={number}{'x' * 900}") for number in range(20)]
    assert sum(len(name) + len(value) for name, value in visitor.jar.items()) < 5_000
    for answer in begun[-3:]:  # the oldest gave way
        assert visitor.get(visitor.at_issuer(answer)).status == 303
    visitor.jar.clear()
    assert visitor.sign_in(f"/task?id={'x' * 2_000}").location == "/"  # too long to be kept


def test_a_session_is_good_in_every_process_and_ends_after_its_time(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = signed_in(opened(), "ops")
    other = opened()
    other.jar = visitor.jar
    assert other.get("/tasks").status == 200
    # when the time is over, or the key is another one
    assert opened(key=b"x" * 32).get("/tasks").status == 303
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 8 * 3600 + 1)
    assert other.get("/tasks").status == 303


def test_the_client_authenticates_with_its_secret(opened: Open, issuer: LocalIssuer) -> None:
    issuer.secret = "s3cret"
    assert opened(secret=lambda: "s3cret").sign_in().status == 303
    refused = opened(secret=lambda: "wr0ng").sign_in()
    assert (refused.status, title(refused)) == (403, "The sign-in was refused")
    assert "(invalid_grant)" in refused.text
    assert "wr0ng" not in refused.text


def test_signing_out_ends_the_session_of_the_browser(visitor: Visitor) -> None:
    signed_in(visitor, "readers")
    searched = visitor.post("/find", text="ann@example.com")
    # when
    answer = visitor.post("/sign-out")
    # then
    assert (answer.status, answer.location) == (303, "/signed-out")
    assert SESSION not in visitor.jar
    # and the search is forgotten, which may be personal data
    kept, forgotten = (
        next(each for each in of.cookies if each.startswith(f"{COOKIE}=")).split("; ") for of in (searched, answer)
    )
    assert (forgotten[0], "Max-Age=0" in forgotten) == (f'{COOKIE}=""', True)
    assert [part for part in kept if part.startswith("Path=")] == [part for part in forgotten if part[:5] == "Path="]
    page = visitor.get(answer.location)
    assert (page.status, title(page)) == (200, "You are signed out")
    assert visitor.get("/tasks").status == 303


# --- Roles ---------------------------------------------------------------------------------------------------------

FORMS: dict[str, tuple[Permission, dict[str, str]]] = {
    "/pause": (OPERATE, {"scope": "queue", "name": "low"}),
    "/resume": (OPERATE, {"scope": "queue", "name": "low"}),
    "/undo": (OPERATE, {"number": "7"}),
    "/task/act": (OPERATE, {"id": "one", "action": "retry"}),
    "/task/edit": (EDIT, {"id": "one", "action": "edit", "payload": "{}"}),
    "/task/signal": (EDIT, {"id": "one", "signal": "approval", "value": "1"}),
    "/bulk/start": (OPERATE, {"action": "cancel", "state": "retry", "older": "1h", "rate": "20"}),
    "/bulk/abort": (OPERATE, {"id": "b"}),
    "/dead/redrive/start": (OPERATE, {"rate": "10"}),
    "/errors/mark": (OPERATE, {"fingerprint": "f1", "state": "known", "reason": "known"}),
    "/schedules/act": (OPERATE, {"name": "acme-nightly", "action": "run"}),
    "/limits/set": (OPERATE, {"name": "account:sync", "max_per_key": "3", "reason": "r"}),
    "/limits/reset": (OPERATE, {"name": "account:sync", "reason": "r"}),
    "/limits/pass": (OPERATE, {"name": "account:sync", "key": "a", "first": "one", "reason": "r"}),
    "/batches/retry": (OPERATE, {"id": "import-7", "canary": "1", "rate": "20"}),
    "/batches/seal": (OPERATE, {"id": "import-7"}),
    "/enqueue/start": (EDIT, {"type": "data:export", "form": "019318f2-7f3a-7cc4-9d3e-1f6b2a4c5d6e"}),
}
"""Every action → the role that it needs, and a form."""
FORM = re.compile(r'<form method="post" action="([^"]*)"')
GROUPS = {VIEW: "readers", OPERATE: "ops", EDIT: "leads"}


def test_every_action_is_in_the_table() -> None:
    assert FORMS.keys() == ACTIONS.keys()


@pytest.mark.parametrize("role", Permission)
def test_a_role_does_what_it_includes_and_nothing_else(visitor: Visitor, remote: Remote, role: Permission) -> None:
    # given
    signed_in(visitor, GROUPS[role])
    token = visitor.form_token()
    for path, (needed, form) in FORMS.items():
        remote.stub.calls.clear()
        remote.people.clear()
        # when
        answer = visitor.post(path, csrf=token, **form)
        # then
        allowed = list(Permission).index(needed) <= list(Permission).index(role)
        assert (path, answer.status == 403, len(remote.stub.performed)) == (path, not allowed, int(allowed))
        if not allowed:
            assert title(answer) == "Your role does not allow this"
            assert "Nothing was done" in answer.text
            assert role is not VIEW or remote.people == []  # a viewer's form reaches no inspector
    for path in SEARCHES:
        assert visitor.post(path, csrf=token, text="x").status == 303


@pytest.mark.parametrize("role", Permission)
def test_every_role_sees_every_page_and_just_the_forms_that_it_may_send(
    visitor: Visitor, remote: Remote, role: Permission
) -> None:
    # given a stage in which each action is possible
    stub = remote.stub
    stub.rows = [views.task_row(id="one"), views.task_row(id="two")]
    waits = (Wait("approval", "approval", views.before(days=1), views.NOW, "open"),)
    stub.changes["one"] = {"actions": (*views.ACTIONS, "signal"), "waits": waits}
    stub.groups = list(views.dead().groups)
    stub.batched = [views.batch(row=views.batch_row(id="import-7", sealed_at=None))]
    stub.answers["types"] = (views.type_view(ordered=True),)
    stub.limited = [views.limit("data:export", "a", LimitKind.KEY)]
    stub.scheduled = [views.schedule_row(name="data:export")]
    stub.bulk(BulkAction.CANCEL, Filter(), rate=1)
    stub.pause(PauseScope.QUEUE, "low")
    signed_in(visitor, GROUPS[role])
    seen = set[str]()
    for path in PAGES:
        id_ = {"/bulk/show": "b", "/batches/show": "import-7"}.get(path, "one")
        # when
        chosen = {"/bulk/new": {"action": "retry"}, "/schedules": {}}.get(path, {"type": "data:export"})
        more = {"name": "data:export", "key": "a", "fingerprint": views.FINGERPRINT}
        answer = visitor.get(f"{path}?{urlencode({'id': id_, **chosen, **more})}")
        assert answer.status == 200, path
        seen |= set(FORM.findall(answer.text))
    if role is not VIEW:  # the notice of a pause has its undo
        stub.entries = [AuditEntry(7, views.NOW, "op", "pause", "queue:low", None)]
        seen |= set(FORM.findall(visitor.get(visitor.post("/pause", **FORMS["/pause"][1]).location).text))
    # then
    may = list(Permission)[: list(Permission).index(role) + 1]
    assert seen == {"/sign-out", *(path for path, (needed, _) in FORMS.items() if needed in may)}


def test_nobody_sees_or_does_anything_without_a_session(visitor: Visitor, remote: Remote) -> None:
    for path in [*PAGES, *SEARCHES, *FORMS, "/sign-out", "/nothing"]:
        assert visitor.get(path).status == 303, path
        assert visitor.send("GET", path, {"hx-request": "true", "sec-fetch-mode": "cors"}).status == 401, path
        posted = visitor.post(path, csrf="x", id="one", action="retry")
        assert (posted.status, title(posted)) == (401, "You are not signed in"), path
    assert remote.people == []


@pytest.mark.parametrize("groups", [[], ["others"], "others", None, 7, [["ops"]], {"ops": True}])
def test_a_person_without_a_group_is_not_signed_in(visitor: Visitor, remote: Remote, groups: Any) -> None:
    visitor.issuer.person["groups"] = groups
    answer = visitor.sign_in("/task?id=one")
    assert (answer.status, title(answer)) == (403, "You have no role here")
    assert SESSION not in visitor.jar
    assert visitor.get("/").status == 303
    assert remote.people == []


def test_the_highest_role_of_several_groups_holds(visitor: Visitor, remote: Remote) -> None:
    signed_in(visitor, "readers", "others", "admins").get("/")
    assert remote.people[-1].role is EDIT


@pytest.mark.parametrize(
    ("person", "name"),
    [
        ({"email": "ann@example.com"}, "ann@example.com (u-1)"),
        ({"email": "ann@example.com", "email_verified": False}, "u-1"),  # anybody could have typed it
        ({"email": "a\nb"}, "u-1"),
        ({"email": "x" * 201}, "u-1"),
        ({"email": 7}, "u-1"),
        ({"email": "u-1"}, "u-1"),
    ],
)
def test_the_name_of_a_person_ends_with_the_subject(visitor: Visitor, remote: Remote, person: Any, name: str) -> None:
    visitor.issuer.person = {"sub": "u-1", "groups": ["ops"], **person}
    visitor.sign_in()
    visitor.get("/")
    assert remote.people[-1] == Person(name, OPERATE)


def test_the_longest_name_fits_into_a_cookie_and_a_header(visitor: Visitor, remote: Remote) -> None:
    visitor.issuer.person = {"sub": "\U0001f600" * 255, "email": "\U0001f600" * 200, "groups": ["ops"]}
    visitor.sign_in()
    assert len(visitor.jar[SESSION]) < 4096 - 100  # with its name and attributes
    assert visitor.get("/").status == 200
    assert len(remote.people[-1].header()) < 4096
    assert Person.of_header(remote.people[-1].header()) == remote.people[-1]


# --- Attacks: tokens -----------------------------------------------------------------------------------------------


def unsigned(claims: dict[str, Any]) -> str:
    return jwt.encode(claims, None, algorithm="none")  # type: ignore[arg-type]


def with_the_public_key(issuer: LocalIssuer, claims: dict[str, Any]) -> str:
    """A token whose signature has the issuer's public key as its secret."""
    head, body = ({"alg": "HS256", "kid": issuer.key.id, "typ": "JWT"}, claims)
    text = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (head, body))
    secret = json.dumps(issuer.key.public).encode()
    made = hmac.digest(secret, text.encode(), hashlib.sha256)
    return f"{text}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"


def changed(issuer: LocalIssuer, claims: dict[str, Any]) -> str:
    head, _, signature = issuer.key.sign(claims).split(".")
    body = base64.urlsafe_b64encode(json.dumps({**claims, "groups": ["leads"]}).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{signature}"


def without(name: str, claims: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in claims.items() if key != name}


NOW = 1_000_000_000
Forge = Callable[[LocalIssuer, dict[str, Any]], str]
FORGED: dict[str, Forge] = {
    "of another key": lambda issuer, claims: SigningKey.ec("one").sign(claims),
    "of an unknown key": lambda issuer, claims: SigningKey.ec("two").sign(claims),
    "not signed": lambda issuer, claims: unsigned(claims),
    "signed with the public key": with_the_public_key,
    "changed": changed,
    "no token": lambda issuer, claims: "abc",
    "expired": lambda issuer, claims: issuer.key.sign({**claims, "exp": int(time.time()) - 120}),
    "of the future": lambda issuer, claims: issuer.key.sign({**claims, "iat": int(time.time()) + 600}),
    "for another client": lambda issuer, claims: issuer.key.sign({**claims, "aud": "another-client"}),
    "for several clients": lambda issuer, claims: issuer.key.sign({**claims, "aud": [CLIENT, "another"]}),
    "for another party": lambda issuer, claims: issuer.key.sign({**claims, "azp": "another-client"}),
    "of another issuer": lambda issuer, claims: issuer.key.sign({**claims, "iss": "https://evil.example"}),
    "of a sign-in that is no text": lambda issuer, claims: issuer.key.sign({**claims, "nonce": "\ud800"}),
    "of another sign-in": lambda issuer, claims: issuer.key.sign({**claims, "nonce": "another"}),
    "with a wrong subject": lambda issuer, claims: issuer.key.sign({**claims, "sub": "a\nb"}),
    **{
        f"without {name}": lambda issuer, claims, name=name: issuer.key.sign(without(name, claims))  # type: ignore[misc]
        for name in ("iss", "aud", "exp", "iat", "sub", "nonce")
    },
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_token_that_is_not_good_gets_nothing(visitor: Visitor, remote: Remote, kind: str) -> None:
    issuer = visitor.issuer
    issuer.token = partial(FORGED[kind], issuer)
    answer = visitor.sign_in("/task?id=one")
    assert (answer.status, title(answer)) == (403, "The sign-in was refused")
    assert visitor.jar == {}
    assert visitor.get("/tasks").status == 303
    assert remote.people == []


def test_a_weak_or_symmetric_key_of_the_issuer_is_not_used(
    opened: Open, issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = base64.urlsafe_b64encode(b"s" * 32).decode()
    weak = SigningKey.rsa("one", 1024)
    monkeypatch.setattr("warnings.warn", lambda *_, **__: None)  # of the issuer, on its key
    for keys, token in (
        ([weak.public], weak.sign),
        (
            [{"kty": "oct", "k": secret, "kid": "one", "alg": "HS256"}],
            lambda claims: jwt.encode(claims, b"s" * 32, algorithm="HS256", headers={"kid": "one"}),
        ),
        ([{**issuer.key.public, "use": "enc"}], issuer.key.sign),
    ):
        issuer.keys, issuer.token = keys, token
        assert opened().sign_in().status == 403


def test_a_key_of_an_elliptic_curve_is_accepted(opened: Open, issuer: LocalIssuer) -> None:
    key = SigningKey.ec("curve")
    issuer.keys, issuer.token = [issuer.key.public, key.public], key.sign
    assert opened().sign_in().status == 303


def test_new_keys_are_read_once_and_not_for_every_unknown_key(
    visitor: Visitor, issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given keys that were read, and then a new key
    assert visitor.sign_in().status == 303
    key = SigningKey.ec("new")
    issuer.keys, issuer.token = [key.public], key.sign
    visitor.jar.clear()
    # when it is too early for a second read, and later
    assert visitor.sign_in().status == 403
    assert issuer.requests.count("/keys") == 1
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 61)
    issuer.token = lambda claims: key.sign({**claims, "iat": int(now)})
    # then
    assert visitor.sign_in().status == 303
    issuer.token = SigningKey.ec("forged").sign
    for _ in range(3):
        visitor.jar.clear()
        assert visitor.sign_in().status == 403
    assert issuer.requests.count("/keys") == 2


# --- Attacks: requests ---------------------------------------------------------------------------------------------


def test_a_code_is_good_once_and_only_in_the_browser_that_began(opened: Open, visitor: Visitor) -> None:
    begun = visitor.get("/dead")
    callback = visitor.at_issuer(begun)
    # when another browser uses it
    stolen = opened().get(callback)
    assert (stolen.status, title(stolen)) == (400, "This sign-in is unknown or too old")
    # then the first one can, and only once
    kept = dict(visitor.jar)
    assert visitor.get(callback).location == "/dead"
    assert visitor.get(callback).status == 400
    visitor.jar = kept  # a browser that keeps the cookie
    again = visitor.get(callback)
    assert (again.status, title(again)) == (403, "The sign-in was refused")
    assert SESSION not in visitor.jar


@pytest.mark.parametrize(
    "query",
    ["", "?code=x", "?state=x", "?code=x&state=x", "?error=access_denied", "?code=a&state=%00%ff", "?state=" + "x" * 9],
)
def test_an_unknown_state_gets_a_page_that_says_so(visitor: Visitor, query: str) -> None:
    answer = visitor.get(f"/signed-in{query}")
    assert (answer.status, title(answer)) == (400, "This sign-in is unknown or too old")
    assert visitor.issuer.requests == []


def test_a_state_that_only_begins_like_the_right_one_is_unknown(visitor: Visitor) -> None:
    callback = visitor.at_issuer(visitor.get("/dead"))
    state = callback.partition("state=")[2]
    assert visitor.get(callback.replace(state, f"{state[:-1]}{'a' if state[-1] != 'a' else 'b'}")).status == 400
    assert SESSION not in visitor.jar


def test_a_sign_in_that_the_issuer_refused_says_so(visitor: Visitor) -> None:
    callback = visitor.at_issuer(visitor.get("/dead"))
    state = callback.partition("state=")[2]
    answer = visitor.get(f"/signed-in?error=access_denied&state={state}")
    assert (answer.status, title(answer)) == (403, "The sign-in was refused")
    assert "did not sign you in (access_denied)." in answer.text
    state = visitor.at_issuer(visitor.get("/dead")).partition("state=")[2]
    assert "did not sign you in." in visitor.get(f"/signed-in?error=Call+0800&state={state}").text
    other = visitor.get("/dead")
    state = visitor.at_issuer(other).partition("state=")[2]
    assert "another issuer" in visitor.get(f"/signed-in?code=x&state={state}&iss=https://evil.example").text


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example/",
        "//evil.example//x",
        "/\\evil.example",
        "/%5cevil.example",
        "/%2f/evil.example",
        "/~x//evil.example",
        "/https://evil.example",
        "///evil.example?a=//b",
    ],
)
def test_no_address_leads_to_another_site_after_the_sign_in(visitor: Visitor, path: str) -> None:
    answer = visitor.get(visitor.at_issuer(visitor.send("GET", path, {})))
    assert answer.status == 303
    assert re.match(r"/(?![/\\])", answer.location), answer.location


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "https://evil.example", "/a\nb", "evil", ""])
def test_a_kept_address_that_is_not_of_this_page_is_not_used(visitor: Visitor, path: str) -> None:
    callback = visitor.at_issuer(visitor.get("/dead"))
    [(name, value)] = visitor.jar.items()
    signer, purpose = Signer(KEY), f"sign-in {name.removeprefix(SIGN_IN)}"
    assert (signer.read(purpose, value) or {})["path"] == "/dead"
    visitor.jar[name] = signer.sign(purpose, {"path": path}, 600)
    assert visitor.get(callback).location == "/"


def test_the_cookie_of_a_sign_in_is_good_for_no_other_one(visitor: Visitor) -> None:
    first, second = (visitor.at_issuer(visitor.get(path)) for path in ("/dead", "/audit"))
    visitor.jar = dict(zip(visitor.jar, reversed(visitor.jar.values()), strict=True))
    assert [visitor.get(callback).status for callback in (first, second)] == [400, 400]


@pytest.mark.parametrize("cookie", ["x", "x.y", ".", "e30.", f"{'a' * 3000}.b", "é.é", "{}"])
def test_a_forged_session_is_none(visitor: Visitor, remote: Remote, cookie: str) -> None:
    visitor.jar[SESSION] = cookie
    assert visitor.get("/tasks").status == 303
    assert remote.people == []


def test_a_text_that_was_signed_for_another_purpose_is_no_session(visitor: Visitor, remote: Remote) -> None:
    visitor.get("/")
    [(name, value)] = visitor.jar.items()
    assert name.startswith(SIGN_IN)
    visitor.jar[SESSION] = value
    assert visitor.get("/tasks").status == 303
    signed_in(visitor, "ops")
    session = visitor.jar[SESSION]
    body, _, token = session.partition(".")
    raised = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))) | {"role": "edit"}
    visitor.jar[SESSION] = f"{base64.urlsafe_b64encode(json.dumps(raised).encode()).decode().rstrip('=')}.{token}"
    assert visitor.get("/tasks").status == 303


@pytest.mark.parametrize(
    ("headers", "form", "wanted"),
    [
        ({}, {"csrf": ""}, "out of date"),
        ({}, {"csrf": "wrong"}, "out of date"),
        ({"origin": "https://evil.example"}, {}, "another site"),
        ({"sec-fetch-site": "cross-site"}, {}, "another site"),
        ({"sec-fetch-site": "same-site"}, {}, "another site"),
    ],
)
def test_a_form_of_another_site_does_nothing(
    visitor: Visitor, remote: Remote, headers: dict[str, str], form: dict[str, str], wanted: str
) -> None:
    token = signed_in(visitor, "leads").form_token()
    for path in [*FORMS, *SEARCHES, "/sign-out"]:
        fields = {"csrf": token, **FORMS.get(path, (EDIT, {}))[1], **form}
        answer = visitor.post(path, headers, **fields)
        assert (path, answer.status, wanted in answer.text) == (path, 403, True)
    assert remote.stub.performed == []
    assert visitor.get("/tasks").status == 200


def test_the_token_of_a_form_is_of_one_session(opened: Open, remote: Remote) -> None:
    mine, yours = signed_in(opened(), "leads"), signed_in(opened(), "readers")
    assert mine.form_token() != yours.form_token()
    assert mine.post("/task/act", id="one", action="retry", csrf=yours.form_token()).status == 403
    assert remote.stub.performed == []


@pytest.mark.parametrize("host", ["evil.example", f"{HOST}.evil.example", "", f"{HOST}:444"])
def test_another_host_is_refused(visitor: Visitor, host: str) -> None:
    signed_in(visitor, "ops")
    for path in ("/", "/signed-in", "/static/page.css"):
        answer = visitor.send("GET", path, {"host": host})
        assert answer.status == 421


@pytest.mark.parametrize("path", ["/", "/tasks", "/nothing", "/signed-out", "/signed-in", "/task?id=unknown"])
def test_every_response_has_the_headers_of_the_local_page(visitor: Visitor, path: str) -> None:
    headers = signed_in(visitor, "ops").get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert (headers["x-frame-options"], headers["cache-control"]) == ("DENY", "no-store")
    assert headers["strict-transport-security"] == "max-age=31536000"


# --- Trouble -------------------------------------------------------------------------------------------------------


def test_an_issuer_that_does_not_answer_gets_a_sentence_and_sessions_continue(
    opened: Open, issuer: LocalIssuer
) -> None:
    # given a person who is signed in, and an issuer that fails
    visitor = signed_in(opened(), "ops")
    begun = opened()
    first = begun.get("/dead")
    issuer.fails = 503
    # when
    for answer in (opened().get("/tasks"), begun.get(begun.at_issuer(first))):
        # then
        host = issuer.url.removeprefix("http://")
        assert (answer.status, title(answer)) == (503, f"The sign-in service at {host} does not answer")
    assert SESSION not in begun.jar
    assert visitor.get("/tasks").status == 200
    assert visitor.post("/task/act", id="one", action="retry").status == 303


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://evil.example/token"},
        {"jwks_uri": None},
        {"authorization_endpoint": "javascript:alert(1)"},
    ],
)
def test_a_configuration_of_the_issuer_that_is_not_safe_is_not_used(
    visitor: Visitor, issuer: LocalIssuer, metadata: dict[str, Any]
) -> None:
    issuer.metadata = metadata
    answer = visitor.get("/")
    assert (answer.status, visitor.jar) == (503, {})


@pytest.mark.parametrize("keys", [None, "x", [], [7, {}, {"kty": "RSA"}, {"kty": "EC", "crv": "P-521"}]])
def test_a_key_set_that_is_not_valid_signs_nobody_in(visitor: Visitor, issuer: LocalIssuer, keys: Any) -> None:
    issuer.keys = keys
    assert visitor.sign_in().status in (403, 503)
    assert SESSION not in visitor.jar


def test_a_page_that_is_too_large_for_lambda_gets_a_sentence(visitor: Visitor, remote: Remote) -> None:
    remote.stub.changes["one"] = {"payload": {"text": "x" * MAX_ANSWER_BYTES}}
    answer = signed_in(visitor, "ops").get("/task?id=one")
    assert answer.status == 507
    assert "the command line" in answer.text


# --- The page itself -----------------------------------------------------------------------------------------------


def test_a_notice_is_shown_by_another_process_and_only_if_it_was_signed(opened: Open) -> None:
    visitor, other = signed_in(opened(), "ops"), opened()
    answer = visitor.post("/task/act", id="one", action="retry")
    other.jar = visitor.jar
    assert "Retry: done." in other.get(answer.location).text
    assert "Evil" not in other.get("/task?id=one&note=Evil").text


def test_static_files_are_kept_and_need_no_session(visitor: Visitor) -> None:
    for name, kind in (("page.css", "text/css"), ("page.js", "javascript"), ("icon.svg", "image/svg+xml")):
        answer = visitor.send("GET", static(name), {})
        assert answer.status == 200
        assert kind in answer.headers["content-type"]
        assert "immutable" in answer.headers["cache-control"]
    assert "joblane" in visitor.send("GET", static("page.js"), {}).text


def test_a_live_part_is_answered_without_a_redirect(visitor: Visitor) -> None:
    signed_in(visitor, "ops")
    assert visitor.send("GET", "/", {"hx-request": "true", "sec-fetch-mode": "cors"}).status == 200
    assert State.ARCHIVED in visitor.get("/tasks").text
