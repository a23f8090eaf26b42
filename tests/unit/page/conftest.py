"""The page over an inspector without a database, and a client for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, tzinfo
from typing import Any, cast

import pytest
from starlette.testclient import TestClient

from joblane.inspector.inspector import Inspector
from joblane.page import rendering
from joblane.page.app import build
from joblane.page.inspectors import Desk
from joblane.page.security import Keys
from tests.builders import views
from tests.fixed_time import Golden, at_fixed_time
from tests.inspector import FakeInspector

PORT = 8700
ADDRESS = f"http://127.0.0.1:{PORT}"
KEYS = Keys(token="the-token", session="the-session", form="the-form-token", base="")
COOKIE = {f"joblane-{PORT}": KEYS.session}
SAME = {"origin": ADDRESS, "sec-fetch-site": "same-origin"}
Post = Callable[..., Any]


class Clock(datetime):
    """The time at which the examples of :mod:`tests.builders.views` were made, however long the tests run."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Clock:
        return cls.fromtimestamp(views.NOW.timestamp(), tz)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "datetime", Clock)


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> Golden:
    """Compare a string with a golden file."""
    return at_fixed_time(monkeypatch)


@pytest.fixture
def stub() -> FakeInspector:
    return FakeInspector()


def client_of(stub: FakeInspector, **how: Any) -> TestClient:
    app = build(Desk(lambda: cast(Inspector, stub)), port=PORT, keys=KEYS, **how)
    return TestClient(app, base_url=ADDRESS, follow_redirects=False)


@pytest.fixture
def stranger(stub: FakeInspector) -> TestClient:
    """A browser that has not opened the address with the token."""
    return client_of(stub)


@pytest.fixture
def browser(stranger: TestClient) -> TestClient:
    stranger.cookies.update(COOKIE)
    return stranger


@pytest.fixture
def post(browser: TestClient) -> Post:
    """Send one of the page's forms."""

    def send(path: str, **fields: Any) -> Any:
        return browser.post(path, data={"csrf": KEYS.form, **fields}, headers=SAME)

    return send
