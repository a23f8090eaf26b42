"""Access to pages and actions, and the security headers."""

from __future__ import annotations

import logging
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import pytest
from starlette.testclient import TestClient

from joblane.page.app import ACTIONS, PAGES, build
from joblane.page.inspectors import Desk
from joblane.page.rendering import FOLDER, static
from joblane.page.security import MAX_FORM_BYTES, Keys
from joblane.page.server import listen, serve, server
from tests.builders import views
from tests.inspector import FakeInspector
from tests.unit.page.conftest import ADDRESS, COOKIE, KEYS, PORT, SAME, Post, client_of

BASE = "/~a-base"
FORM = {"csrf": KEYS.form, "id": "one", "action": "retry"}

# --- Pages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PAGES, "/nothing"])
def test_nothing_is_shown_to_a_browser_without_the_cookie(stranger: TestClient, path: str) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 401
    assert "joblane page" in answer.text
    assert KEYS.form not in answer.text


@pytest.mark.parametrize("path", ACTIONS)
def test_nothing_is_done_for_a_browser_without_the_cookie(stranger: TestClient, stub: FakeInspector, path: str) -> None:
    assert stranger.post(path, data=FORM, headers=SAME).status_code == 401
    assert stub.performed == []


def test_the_token_becomes_a_cookie_and_is_removed_from_the_address(stranger: TestClient) -> None:
    answer = stranger.get("/", params={"token": KEYS.token})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert KEYS.token not in cookie
    assert {part.strip().lower() for part in cookie.split(";")[1:]} == {"httponly", "path=/", "samesite=strict"}
    assert stranger.get("/").status_code == 200


def test_the_token_never_redirects_to_another_site(stranger: TestClient) -> None:
    answer = stranger.get("//evil.example/", params={"token": KEYS.token})
    assert answer.headers["location"] in ("/", "/evil.example/")


def test_a_link_to_a_task_survives_the_sign_in(stranger: TestClient) -> None:
    # given a link from elsewhere, which a browser opens without its cookie
    refused = stranger.get("/task", params={"id": "a b&c"})
    assert refused.status_code == 401
    assert 'href="/task?id=a+b%26c"' in refused.text  # the same page again, from this page
    # when it is opened with the token
    answer = stranger.get("/task", params={"id": "a b&c", "token": KEYS.token})
    # then
    assert (answer.status_code, answer.headers["location"]) == (303, "/task?id=a+b%26c")


def based(stub: FakeInspector) -> TestClient:
    """A page whose addresses have a base, as `joblane page` serves it."""
    page = build(Desk(lambda: cast(Any, stub)), port=PORT, keys=replace(KEYS, base=BASE))
    return TestClient(page, base_url=ADDRESS, follow_redirects=False)


def test_the_cookie_is_for_the_base_and_no_other_program_gets_it(stub: FakeInspector) -> None:
    """A browser sends cookies to every port of 127.0.0.1."""
    browser = based(stub)
    # when
    answer = browser.get("/task", params={"id": "one", "token": KEYS.token})
    # then
    assert answer.headers["location"] == f"{BASE}/task?id=one"
    assert f"path={BASE};" in answer.headers["set-cookie"].lower()
    assert browser.get(answer.headers["location"]).status_code == 200
    # and nothing without the base is shown, even with the cookie
    for path in ("/", "/tasks", f"{BASE}x/tasks", "/~other/tasks", "/nothing"):
        refused = browser.get(path, headers={"cookie": f"joblane-{PORT}={KEYS.session}"})
        assert (refused.status_code, BASE in refused.text) == (401, False)
    assert len(Keys().base) > 20
    assert Keys().base != Keys().base


@pytest.mark.parametrize("path", ["/task?id=a+b%26c", "/~other-1_x/task?id=a+b%26c"])
def test_a_link_of_another_process_leads_to_the_same_page(stub: FakeInspector, path: str) -> None:
    refused = based(stub).get(path)
    assert 'href="/task?id=a+b%26c"' in refused.text
    assert f'src="{static("link.js")}"' in refused.text  # adds the base, in a browser that is signed in
    assert based(stub).get(f"{path}&token={KEYS.token}").headers["location"] == f"{BASE}/task?id=a+b%26c"


@pytest.mark.parametrize("path", [*PAGES, "/nothing", "/task?id=unknown"])
def test_all_addresses_of_a_page_have_the_base(stub: FakeInspector, path: str) -> None:
    # given
    browser = based(stub)
    browser.cookies.update(COOKIE)
    # when
    text = browser.get(
        BASE + path, params={"action": "cancel", "id": "one", "type": "a:b", "name": "/x", "key": "/y"}
    ).text
    # then
    found = re.findall(r'[\w-]+="(/[^"]*)', text)
    assert len(found) > 5
    assert [address for address in found if not address.startswith(f"{BASE}/") and address not in ("/x", "/y")] == []


def test_actions_redirect_below_the_base(stub: FakeInspector) -> None:
    browser = based(stub)
    browser.cookies.update(COOKIE)
    answer = browser.post(f"{BASE}/task/act", data=FORM, headers=SAME)
    assert answer.headers["location"].startswith(f"{BASE}/task?")
    assert browser.get(f"{BASE}/tasks/").headers["location"] == f"{BASE}/tasks"


def test_a_token_is_good_for_one_browser(stub: FakeInspector) -> None:
    # given
    said: list[str] = []
    first, second = (client_of(stub, say=said.append) for _ in range(2))
    assert first.get("/", params={"token": KEYS.token}).status_code == 303
    first.cookies.clear()
    # when it is used again
    assert first.get("/", params={"token": KEYS.token}).status_code == 401
    # then the operator has the address for the next browser, and only that one is good
    [line] = said
    token = line.partition("token=")[2]
    assert second.get("/", params={"token": token}).status_code == 401  # another process
    assert first.get("/", params={"token": token}).status_code == 303


def test_the_address_is_in_a_file_for_this_user_and_in_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    opened: list[str] = []
    content: list[tuple[int, str]] = []

    def open_browser(address: str) -> bool:
        file = Path(unquote(address.removeprefix("file://")))
        opened.append(address)
        content.append((stat.S_IMODE(file.stat().st_mode), file.read_text()))
        return True

    monkeypatch.setattr("webbrowser.open", open_browser)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    # when
    with listen(0) as listening:
        serve(cast(Any, None), listening, opened=f"{ADDRESS}/?token=secret", say=print)
    # then
    [(mode, text)] = content
    assert (mode, "secret" in opened[0]) == (0o600, False)
    assert f"url={ADDRESS}/?token=secret" in text
    assert not Path(unquote(opened[0].removeprefix("file://"))).exists()


@pytest.mark.parametrize("token", ["", "wrong", "the-token ", "ümlaut"])
def test_a_wrong_token_is_refused(stranger: TestClient, token: str) -> None:
    answer = stranger.get("/", params={"token": token})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "cookie", ["joblane-8700=wrong", "joblane-8701=the-session", "joblane-8700=", "a[b]=c; joblane-8700", "\x7f=;;"]
)
def test_a_wrong_cookie_is_refused(stranger: TestClient, cookie: str) -> None:
    assert stranger.get("/", headers={"cookie": cookie}).status_code == 401


def test_a_cookie_of_another_program_signs_no_one_out(stranger: TestClient) -> None:
    # cookies ignore ports
    assert stranger.get("/", headers={"cookie": "a[b]=c; \x7f=1; joblane-8700=the-session"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8700", "127.0.0.1", "127.0.0.1:80", "localhost:8700", "[::1]:8700", ""]
)
@pytest.mark.parametrize("path", ["/", "/static/page.css", f"/?token={KEYS.token}"])
def test_another_host_name_is_refused(browser: TestClient, host: str, path: str) -> None:
    answer = browser.get(path, headers={"host": host})
    assert answer.status_code == 421
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/tasks", "/nothing", "/static/page.css", "/task?id=unknown"])
def test_every_response_has_the_security_headers(browser: TestClient, path: str) -> None:
    headers = browser.get(path).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in headers


def test_a_static_file_is_kept_until_its_content_changes(browser: TestClient) -> None:
    for name in (path.name for path in (FOLDER / "static").iterdir()):
        answer = browser.get(static(name))
        assert (answer.status_code, "immutable" in answer.headers["cache-control"]) == (200, True)
    assert browser.get("/static/nothing.css?v=1").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/security.py"])
def test_only_static_files_are_served(browser: TestClient, path: str) -> None:
    assert browser.get(path).status_code == 404


def test_it_listens_only_on_the_loopback_address() -> None:
    with listen(0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


def test_addresses_are_not_logged(browser: TestClient) -> None:
    assert not server(browser.app).config.access_log


# --- Actions --------------------------------------------------------------------------------------------------


def test_a_form_of_the_page_acts(post: Post, stub: FakeInspector) -> None:
    assert post("/task/act", id="one", action="retry").status_code == 303
    assert stub.performed == [("retry", "one", None)]


@pytest.mark.parametrize("path", ACTIONS)
@pytest.mark.parametrize("token", [None, "", "wrong", KEYS.token, KEYS.session])
def test_a_form_without_the_token_of_the_page_does_nothing(
    browser: TestClient, stub: FakeInspector, path: str, token: str | None
) -> None:
    fields = {name: value for name, value in {**FORM, "csrf": token}.items() if value is not None}
    answer = browser.post(path, data=fields, headers=SAME)
    assert answer.status_code == 403
    assert "Nothing was done" in answer.text
    assert stub.performed == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "null"},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://localhost:8700"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": ADDRESS, "sec-fetch-site": "cross-site"},
        {"origin": "https://evil.example", "sec-fetch-site": "same-origin"},
    ],
)
def test_a_form_from_another_site_does_nothing_even_with_the_token(
    browser: TestClient, stub: FakeInspector, headers: dict[str, str]
) -> None:
    assert browser.post("/task/act", data=FORM, headers=headers).status_code == 403
    assert stub.performed == []


@pytest.mark.parametrize("headers", [{"origin": "null", "sec-fetch-site": "same-origin"}, {"origin": ADDRESS}])
def test_a_browser_may_act_with_one_of_the_two_origin_headers(
    browser: TestClient, stub: FakeInspector, headers: dict[str, str]
) -> None:
    assert browser.post("/task/act", data=FORM, headers=headers).status_code == 303
    assert len(stub.performed) == 1


@pytest.mark.parametrize("path", ACTIONS)
def test_a_get_request_never_acts(browser: TestClient, stub: FakeInspector, path: str) -> None:
    assert browser.get(path, params=FORM).status_code == 405
    assert stub.performed == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_no_other_method_acts(browser: TestClient, stub: FakeInspector, method: str) -> None:
    assert browser.request(method, "/task/act", params=FORM, headers=SAME).status_code in (403, 405)
    assert stub.performed == []


def test_an_oversized_form_is_refused(browser: TestClient, stub: FakeInspector) -> None:
    answer = browser.post("/task/act", data={**FORM, "reason": "x" * MAX_FORM_BYTES}, headers=SAME)
    assert answer.status_code == 413
    assert stub.performed == []


@pytest.mark.parametrize("path", ACTIONS)
def test_read_only_refuses_every_action(stub: FakeInspector, path: str) -> None:
    reader = client_of(stub, read_only=True)
    reader.cookies.update(COOKIE)
    answer = reader.post(path, data=FORM, headers=SAME)
    assert answer.status_code == 403
    assert "read-only" in answer.text
    assert stub.performed == []


@pytest.mark.parametrize("path", [*(path for path in PAGES if path != "/bulk/show"), "/task?id=one"])
def test_read_only_shows_no_form_that_acts(stub: FakeInspector, path: str) -> None:
    stub.batched = [views.batch(row=views.batch_row(id="one", sealed_at=None))]
    reader = client_of(stub, read_only=True)
    reader.cookies.update(COOKIE)
    given = {"action": "cancel", "id": "one", "type": views.TYPE, "name": "acme-nightly"}
    answer = reader.get(path, params=given)
    assert answer.status_code == 200
    assert set(re.findall(r'method="post" action="([^"]*)"', answer.text)) == {"/find"}
    assert set(re.findall(r"<form[^>]*post[^>]*", answer.text)) == set(re.findall(r"<form[^>]*/find[^>]*", answer.text))


def test_read_only_accepts_a_search_with_the_token_of_its_form(stub: FakeInspector) -> None:
    reader = client_of(stub, read_only=True)
    reader.cookies.update(COOKIE)
    assert reader.post("/find", data={"csrf": KEYS.form, "text": "x"}, headers=SAME).status_code == 303
    assert reader.post("/find", data={"csrf": "other", "text": "x"}, headers=SAME).status_code == 403
    assert (
        reader.post(
            "/find", data={"csrf": KEYS.form, "text": "x"}, headers={"sec-fetch-site": "cross-site"}
        ).status_code
        == 403
    )


# --- Secrets --------------------------------------------------------------------------------------------------


def test_a_bug_is_shown_without_its_text(
    browser: TestClient, stub: FakeInspector, caplog: pytest.LogCaptureFixture
) -> None:
    stub.fails = ValueError("the payload's secret")
    with caplog.at_level(logging.DEBUG):
        answer = browser.get("/tasks")
    assert answer.status_code == 500
    assert "ValueError" in answer.text
    assert "Traceback" not in answer.text
    assert "secret" not in answer.text + caplog.text
    assert "ValueError in " in caplog.text


def test_keys_are_new_at_each_start_and_hidden_in_repr() -> None:
    one, other = type(KEYS)(), type(KEYS)()
    values: set[Any] = {getattr(keys, name) for keys in (one, other) for name in ("token", "session", "form")}
    assert len(values) == 6
    assert not any(value in repr(one) for value in values)
