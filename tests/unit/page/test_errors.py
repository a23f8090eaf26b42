"""The page of errors: its filter, its former address, and the marks of operators."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from joblane.inspector.views import CauseState
from tests.builders import views
from tests.inspector import FakeInspector
from tests.unit.page.conftest import Post


def test_the_fields_of_the_filter_choose_the_errors(browser: TestClient, stub: FakeInspector) -> None:
    text = browser.get("/errors?type=a:b&tenant=acme&version=v18&within=7d&state=known&sort=last").text
    [(_, _, asked)] = [call for call in stub.calls if call[0] == "errors"]
    assert (asked["types"], asked["tenant"], asked["version"], asked["within"].days) == (("a:b",), "acme", "v18", 7)
    assert (asked["state"], asked["sort"]) == (CauseState.KNOWN, "last")
    # and a version of a list leads to its errors, and the marks lead back to them
    assert "<option selected>v18</option><option>v17</option>" in text
    stub.groups = [views.cause(first_version="v17", last_version="v18")]
    assert 'name="to_version" value="v18"' in browser.get("/errors?version=v18").text
    text = browser.get("/errors?sort=last").text
    assert 'in <a href="/errors?sort=last&amp;version=v17">v17</a>' in text
    assert 'in <a href="/errors?sort=last&amp;version=v18">v18</a>' in text


@pytest.mark.parametrize("query", ["state=gone", "sort=age", "within=soon"])
def test_a_wrong_field_is_refused(browser: TestClient, query: str) -> None:
    assert browser.get(f"/errors?{query}").status_code == 400


def test_the_former_address_leads_to_the_errors(browser: TestClient) -> None:
    moved = browser.get("/dead?type=a:b&sort=last&note=x")
    assert (moved.status_code, moved.headers["location"]) == (308, "/errors?type=a%3Ab")


def test_several_errors_are_marked_and_the_list_stays_chosen(post: Post, stub: FakeInspector) -> None:
    done = post("/errors/mark", fingerprint=["f1", "f2"], state="resolved", reason="v7", to_type="a:b", to_within="7d")
    assert stub.performed == [("mark_errors", ("f1", "f2"), CauseState.RESOLVED, "v7")]
    assert done.status_code == 303
    assert done.headers["location"].startswith("/errors?within=7d&type=a%3Ab&note=")
    # and an error is opened without a note
    post("/errors/mark", fingerprint="f1", state="open")
    assert stub.performed[1:] == [("mark_errors", ("f1",), CauseState.OPEN, None)]


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "known", "reason": "why"},
        {"fingerprint": "f1", "state": "known"},
        {"fingerprint": "f1", "state": "gone", "reason": "why"},
        {"fingerprint": "f1", "reason": "why"},
    ],
    ids=["no error", "no note", "no such state", "no state"],
)
def test_an_incomplete_mark_is_refused(post: Post, stub: FakeInspector, fields: dict[str, Any]) -> None:
    assert post("/errors/mark", **fields).status_code == 400
    assert stub.performed == []


def test_an_error_without_a_fingerprint_has_no_marks(browser: TestClient, stub: FakeInspector) -> None:
    stub.groups = [views.cause(fingerprint="")]
    text = browser.get("/errors").text
    assert "/errors/mark" in text  # of the selected errors
    assert 'name="fingerprint"' not in text
