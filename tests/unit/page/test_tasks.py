"""The page of tasks: its columns, chips, folded filters and order."""

from __future__ import annotations

import re

import pytest
from markupsafe import Markup
from starlette.testclient import TestClient

from joblane.page.cells import short
from joblane.record.row.states import State
from tests.builders import views
from tests.inspector import FakeInspector


def test_a_row_has_the_duration_the_version_and_a_short_id_with_the_whole_one(
    browser: TestClient, stub: FakeInspector
) -> None:
    id_ = "0199a8b2-0001-7d01-9a2b-c4ca4238a0b9"
    stub.rows = [views.task_row(id=id_), views.task_row(id="two", took_ms=None, version=None, tenant="a" * 128)]
    text = browser.get("/tasks").text
    middle = '<span class="mid">-0001-7d01-9a2b-c4ca4238</span>'
    assert f'title="{id_}">0199a8b2{middle}<span class="end">a0b9</span>' in text
    assert '<td class="n" data-label="Took">8.4 s</td>' in text
    assert '<td data-label="Version">3f2a1c0</td>' in text


@pytest.mark.parametrize(
    "id_", ["", "two", "tenant:cleanup:0:2026-01-02T02:00Z", "0199A8B2-0001-7d01-9a2b-c4ca4238a0b9", "<b>" * 12]
)
def test_an_id_of_another_form_stays_whole(id_: str) -> None:
    assert short(id_) == Markup.escape(id_)


def test_each_filter_is_a_chip_that_removes_only_itself(browser: TestClient) -> None:
    given = {"state": "retry", "type": "a:b", "tenant": "acme & co", "ended_newer": "1h", "sort": "oldest"}
    text = browser.get("/tasks", params=given).text
    chips = re.findall(r'<a class="chip" href="([^"]+)" aria-label="Remove the filter ([^"]+)"', text)
    assert [words for _, words in chips] == ["Type: a:b", "Tenant: acme &amp; co", "Ended after: 1h"]
    assert chips[1][0].replace("&amp;", "&") == "/tasks?state=retry&type=a%3Ab&ended_newer=1h&sort=oldest"


@pytest.mark.parametrize(("address", "is_open"), [("?type=a:b", False), ("?tag=x", True), ("?older=yesterday", True)])
def test_rare_filters_are_folded_unless_one_is_used(browser: TestClient, address: str, is_open: bool) -> None:
    assert ('<details id="more-filters" open>' in browser.get(f"/tasks{address}").text) is is_open


def test_the_oldest_tasks_are_first_on_every_page_until_the_head_is_clicked_again(
    browser: TestClient, stub: FakeInspector
) -> None:
    stub.rows = [views.task_row(id=str(number)) for number in range(5)]
    text = browser.get("/tasks?sort=oldest&limit=2&state=archived").text
    assert '<th class="n" aria-sort="descending"><a href="/tasks?limit=2&amp;state=archived" id="sort-age">Age' in text
    assert "state=archived&amp;sort=oldest&amp;from=2" in text
    browser.get("/tasks")
    assert [named["oldest_first"] for _, named in stub.called("tasks")] == [True, False]
    assert browser.get("/tasks?sort=newest").status_code == 400


def test_by_another_column_the_tasks_of_a_page_are_sorted_and_the_page_says_so(
    browser: TestClient, stub: FakeInspector
) -> None:
    stub.rows = [
        views.task_row(id=f"it-{number}", attempts=attempts, max_retry=20, took_ms=took)
        for number, (attempts, took) in enumerate([(2, None), (11, 40), (3, 900)])
    ]

    def shown(query: str) -> tuple[list[str], str]:
        text = browser.get(f"/tasks?{query}").text
        return re.findall(r'id="select-it-(\d)"', text), text

    for query, expected in (("sort=try", "021"), ("sort=try&desc=yes", "120"), ("sort=took&desc=yes", "210")):
        assert "".join(shown(query)[0]) == expected
    assert {named["limit"] for _, named in stub.called("tasks")} == {200}
    # and a later page keeps the order
    order, text = shown("sort=took&desc=yes&limit=2")
    assert "".join(order) == "10"
    assert "Only these 2 tasks are sorted: the newest that match." in text
    assert "sort=took&amp;desc=yes&amp;from=2" in text
    assert "Only these" not in shown("sort=took")[1] + shown("limit=2")[1] + shown("limit=2&sort=oldest")[1]


def test_an_archived_task_is_red_for_an_hour(browser: TestClient, stub: FakeInspector) -> None:
    stub.rows = [
        views.task_row(id="new", finished_at=views.before(minutes=59)),
        views.task_row(id="old", finished_at=views.before(minutes=61)),
        views.task_row(id="done", state=State.COMPLETED, finished_at=views.before(hours=9)),
    ]
    found = re.findall(r'<span class="state ([a-z ]+)">', browser.get("/tasks").text)
    assert found == ["archived", "archived old", "completed"]
