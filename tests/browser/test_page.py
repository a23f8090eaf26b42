"""The operator's page in a browser: with the mouse, with keys only, in dark mode, on a phone, and read-only."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast
from zoneinfo import ZoneInfo

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, Request, Route, expect

import joblane.fastapi
from joblane.client import progress
from joblane.client.client import streams_of
from joblane.inspector.durations import stamp
from joblane.inspector.filter import Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.person import Person
from joblane.inspector.views import CauseState
from joblane.page.hosted.entry import build
from joblane.page.hosted.event import respond
from joblane.page.rendering import as_json
from joblane.page.server import listen
from joblane.record.row.states import State
from joblane.settings import SIGNAL_BASE_URL
from joblane.tasks.job import MAX_TAG
from joblane.testing import JobTester
from tests.addresses import SIGNAL, VALUE, asked
from tests.browser.conftest import Site, Visitor
from tests.oidc import LocalIssuer, SigningKey, serving, serving_page, shared_configuration
from tests.pages import ROOT, blocks
from tests.patience import PATIENCE_SECONDS, await_true

Visit = Callable[..., Visitor]
Scheme = Literal["light", "dark"]

PAGES = {
    "queues": "/",
    "wall": "/?wall=1",
    "tasks": "/tasks?limit=12",
    "find": "/find",
    "dry-run": "/bulk/new?action=cancel&which=all&state=scheduled",
    "bulk": "/bulk",
    "errors": "/errors",
    "dead": "/errors/messages",
    "redrive": "/dead/redrive",
    "schedules": "/schedules",
    "schedule": "/schedules/show?name=acme-nightly",
    "limits": "/limits",
    "limit": "/limits/show?name=data:export",
    "waits": "/waits",
    "task-waiting": "/task?id=waiting",
    "batches": "/batches",
    "batch": "/batches/show?id=import-7",
    "task-child": "/task?id=child",
    "statistics": "/statistics",
    "chart": "/chart?within=2h&compare=yes",
    "runs": "/runs?type=user:invitation&within=2h",
    "types": "/types",
    "enqueue": "/enqueue?type=data:export",
    "runs-tenant": "/runs?tenant=acme",
    "why": "/runs/why?type=data:export",
    "tenants": "/tenants",
    "pauses": "/pauses",
    "audit": "/audit",
    "problem": "/task?id=unknown",
}
COLOURFUL = ("queues", "tasks", "task-archived", "redrive")
"""Pages that together show all colours."""
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
RULES: dict[Scheme, list[str]] = {
    "light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"],
    "dark": ["color-contrast"],
}
"""Colour scheme → rules of axe; the other rules give the same result in every scheme."""
SMALLEST = """
Math.min(99, ...[...document.querySelectorAll("svg text")].filter(text => text.getClientRects().length)
  .map(text => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a))
"""
"""The size of the smallest text in charts, in pixels of the screen."""


def any_task(site: Site, state: State, **more: Any) -> str:
    return site.inspector.tasks(Filter(states=(state,), **more), limit=1).tasks[0].id


def addresses(site: Site) -> dict[str, str]:
    """An address of every kind of page."""
    tasks = {state: f"/task?id={any_task(site, state)}" for state in (State.ARCHIVED, State.ACTIVE, State.COMPLETED)}
    return {**PAGES, **{f"task-{state}": address for state, address in tasks.items()}}


# --- Queries ----------------------------------------------------------------------------------------------------


def test_a_queue_is_chosen_with_its_charts_its_types_and_its_pauses(visit: Visit) -> None:
    page = visit().page
    chart = page.get_by_role("img", name="default: the mean wait in each of the last 60 minutes")
    expect(page.locator("#type-tenant\\:initialize")).to_be_visible()
    expect(chart).to_have_count(0)
    page.get_by_role("link", name="default", exact=True).first.click()
    expect(page.get_by_role("heading", name="Queue default")).to_be_visible()
    expect(chart).to_be_visible()
    expect(page.get_by_role("link", name="queue default paused")).to_be_visible()
    expect(page.locator("#type-data\\:export")).to_be_visible()
    expect(page.locator("#type-tenant\\:initialize")).to_have_count(0)  # of another queue


def test_the_token_is_removed_from_the_address(visit: Visit) -> None:
    visitor = visit()
    assert visitor.page.url == visitor.base + "/"
    assert visitor.page.evaluate("document.cookie") == ""  # no script can read it
    [cookie] = visitor.context.cookies()
    assert visitor.page.url.endswith(f"{cookie['path']}/")  # no other port gets it


def test_a_link_without_the_base_leads_a_browser_that_is_signed_in_to_the_task(visit: Visit, site: Site) -> None:
    # given
    visitor = visit()
    id_ = any_task(site, State.COMPLETED)
    for base in ("", "/~of-another-process"):
        # when
        visitor.page.goto(f"{visitor.base.rpartition('/')[0]}{base}/task?id={id_}")
        # then
        visitor.page.wait_for_url(f"{visitor.base}/task?id={id_}")
        expect(visitor.page.get_by_role("heading", level=1)).to_contain_text(id_)
    assert {trouble.partition("(")[2] for trouble in visitor.troubles} == {"Unauthorized)"}
    visitor.troubles.clear()


def test_tasks_are_filtered_and_paged_and_a_task_is_opened(visit: Visit, site: Site) -> None:
    # given
    page = visit().go("/tasks")
    # when
    page.get_by_role("navigation", name="States").get_by_role("link", name="archived").click()
    page.get_by_label("Type").select_option("user:invitation")
    page.get_by_label("Error contains").fill("mailbox")
    page.get_by_role("button", name="Filter").click()
    # then
    count = site.inspector.count(Filter(states=(State.ARCHIVED,), types=("user:invitation",), error="mailbox")).number
    expect(page.get_by_text(f"{count} tasks match")).to_be_visible()
    rows = page.locator("tbody tr")
    assert rows.count() == min(count, 50)
    assert all("user:invitation" in text and "archived" in text for text in rows.all_inner_texts())
    # and
    rows.first.get_by_role("link").first.click()
    expect(page.get_by_text("It was archived")).to_be_visible()
    expect(page.locator("#traceback-4 pre")).to_contain_text("SMTPRecipientsRefused: the mailbox does not exist")
    expect(page.locator("#traceback-3 pre")).to_be_hidden()
    # and a traceback that was closed stays closed
    page.locator("#traceback-4 summary").click()
    _refresh(page)
    expect(page.locator("#live")).not_to_have_attribute("data-before", "yes")
    expect(page.locator("#traceback-4 pre")).to_be_hidden()


def test_a_filter_is_saved_by_a_name_and_forgotten(visit: Visit) -> None:
    # given a browser with something else under the key
    visitor = visit()
    page = visitor.page
    page.evaluate("localStorage.setItem('joblane-filters', '[1, {\"name\": 2}')")
    visitor.go("/tasks")
    expect(page.locator("#saved")).to_be_hidden()
    # when a filter is saved
    visitor.go("/tasks?state=retry&tenant=acme")
    page.get_by_text("Save this filter").click()
    page.get_by_label("Name").fill("<b>acme</b>")
    page.get_by_role("button", name="Save").click()
    # then every page of tasks has it
    visitor.go("/tasks")
    page.get_by_role("link", name="<b>acme</b>", exact=True).click()
    page.wait_for_url("**/tasks?state=retry&tenant=acme")
    expect(page.get_by_text("Save this filter")).to_be_hidden()
    # and a chip removes its filter only
    page.get_by_role("link", name="Remove the filter Tenant: acme").click()
    page.wait_for_url("**/tasks?state=retry")
    # and it is forgotten
    page.get_by_role("button", name="Forget the filter <b>acme</b>").click()
    visitor.go("/tasks")
    expect(page.locator("#saved")).to_be_hidden()


def test_texts_are_copied_and_times_are_local_too_by_pointer_finger_and_key(visit: Visit, site: Site) -> None:
    # given
    id_ = any_task(site, State.ARCHIVED, types=("user:invitation",))
    visitor = visit(**PHONE, timezone_id="Asia/Tokyo", permissions=["clipboard-read", "clipboard-write"])
    page = visitor.go(f"/task?id={id_}")
    view = site.inspector.task(id_)
    # when texts are copied
    for what, copied in (
        ("id", id_),
        ("payload", as_json(view.payload)),
        ("traceback of run 4", view.attempts[-1].traceback),
    ):
        page.get_by_role("button", name=f"Copy the {what}", exact=True).tap()
        expect(page.locator("#announce")).to_have_text(f"Copied the {what}.")
        assert page.evaluate("navigator.clipboard.readText()") == copied
    # then a time shows UTC and the local time, by a finger and by a key
    created = page.locator(".facts time").first
    local = view.row.created_at.astimezone(ZoneInfo("Asia/Tokyo"))
    for by_key in (False, True):
        if by_key:
            created.press("Enter")
        else:
            created.tap()
        expect(page.locator("#tip")).to_be_visible()
        expect(page.locator("#tip")).to_contain_text(stamp(view.row.created_at))
        expect(page.locator("#tip")).to_contain_text(f"{local:%-I:%M:%S}")
        expect(page.locator("#tip")).to_contain_text("Asia/Tokyo")
        box = page.locator("#tip").bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= box["x"] + box["width"] <= PHONE["viewport"]["width"]
        visitor.keep("tip-phone")
        page.keyboard.press("Escape")
        expect(page.locator("#tip")).to_be_hidden()


def test_older_pages_follow_newer_ones(visit: Visit) -> None:
    page = visit().go("/tasks")
    first = page.locator("tbody a.id").all_inner_texts()
    page.get_by_role("link", name="Older").click()
    second = page.locator("tbody a.id").all_inner_texts()
    assert len(first) == len(second) == 50
    assert not set(first) & set(second)


def test_a_running_task_refreshes_itself(visit: Visit, site: Site) -> None:
    # given
    id_ = any_task(site, State.ACTIVE)
    page = visit().go(f"/task?id={id_}")
    page.get_by_text("Payload as JSON").wait_for(state="attached")
    expect(page.locator("#progress")).to_have_js_property("value", 420)
    # when
    site.world.run("update joblane.task_progress set done = 640 where task_id = $1", id_)
    # then
    expect(page.locator("#progress")).to_have_js_property("value", 640)


def test_a_part_with_selected_rows_or_a_field_in_use_is_not_refreshed(visit: Visit) -> None:
    page = visit().go("/tasks?state=retry")
    requests, box = _requests(page), page.locator("tbody input").first
    box.check()
    expect(page.locator("#selected-count")).to_have_text("(1)")
    _refresh(page)
    expect(page.locator("#life-text")).to_contain_text("waits for your form")
    box.uncheck()
    # when the answer comes after the reader has selected all
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/tasks?*", hold, times=1)
    with page.expect_request("**/tasks?*"):
        _refresh(page)
    every = page.get_by_label("Select all on this page")
    every.check()
    with page.expect_request_finished():
        held[0].continue_()
    # then the selection is kept
    expect(every).to_be_checked()
    expect(box).to_be_checked()
    every.uncheck()
    expect(page.locator("#life-text")).not_to_contain_text("waits for your form")
    # and when the reader writes in the part
    page.evaluate("document.querySelector('#live tbody td').append(document.createElement('textarea'))")
    page.locator("#live textarea").focus()
    _refresh(page)
    expect(page.locator("#life-text")).to_contain_text("waits for your form")
    page.locator("#live textarea").evaluate("field => field.blur()")
    _refresh(page)
    expect(page.locator("#live")).not_to_have_attribute("data-before", "yes")
    expect(every).to_be_visible()
    assert requests == [page.url, page.url]


def test_a_hidden_page_is_refreshed_only_when_it_is_shown(visit: Visit) -> None:
    page = visit().go("/tasks?state=retry")
    requests = _requests(page)
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    _refresh(page)
    expect(page.locator("#life-text")).to_have_text(re.compile("^[1-9]"))
    expect(page.locator("#live")).to_have_attribute("data-before", "yes")
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#live")).not_to_have_attribute("data-before", "yes")
    assert requests == [page.url]


def _requests(page: Page) -> list[str]:
    """The addresses of all further refreshes."""
    requests: list[str] = []

    def record(request: Request) -> None:
        if request.resource_type == "xhr":
            requests.append(request.url)

    page.on("request", record)
    return requests


def _refresh(page: Page) -> None:
    """Trigger a refresh; a refreshed part loses its mark."""
    page.evaluate("document.getElementById('live').dataset.before = 'yes'; htmx.trigger('#live', 'refresh')")


def test_a_stale_page_says_so_until_it_is_refreshed(visit: Visit) -> None:
    visitor = visit()
    page = visitor.go("/tasks?state=retry")
    since = r"Not up to date since \d\d:\d\d:\d\dZ: no answer from the "
    without_page = page.get_by_text(re.compile(since + "page; check .* still runs. Retrying every 10 s\\."))
    stale = page.get_by_text(re.compile(since + "database. Retrying every 10 s\\."))
    expect(without_page).to_be_hidden()
    page.route("**/tasks?*", lambda route: route.abort())
    _refresh(page)
    expect(without_page).to_be_visible()
    # and when the page answers, and its database does not
    page.unroute("**/tasks?*")
    page.route("**/tasks?*", lambda route: route.fulfill(status=503, body="unavailable"))
    _refresh(page)
    expect(stale).to_be_visible()
    # and when both answer
    page.unroute("**/tasks?*")
    _refresh(page)
    expect(stale).to_be_hidden()
    visitor.troubles.clear()  # the console reports it as well


def test_one_cursor_moves_through_all_charts_by_pointer_and_keys(visit: Visit) -> None:
    # given
    page = visit().go("/runs?type=data:export&within=2h")
    charts = page.locator(".chart[data-from]")
    number = charts.count()
    assert number == 4  # runs, failed share, waits, durations
    # when
    charts.last.scroll_into_view_if_needed()
    page.wait_for_function("new Promise(requestAnimationFrame)")  # the end of the scrolling hides the cursor
    charts.last.locator(".plot").hover(position={"x": 900, "y": 60})
    # then all have it at the same time, with the words of the column
    expect(page.locator(".chart .cursor")).to_have_count(number)
    assert len(set(page.eval_on_selector_all(".cursor", "all => all.map(one => one.getAttribute('x1'))"))) == 1
    expect(page.locator("#tip")).to_contain_text(re.compile(r"\d+ runs: \d+ completed, \d+ failed"))
    by_pointer = page.locator("#tip").inner_text()
    # and when a key moves it
    charts.first.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#announce")).to_contain_text(" runs: ")
    assert page.locator("#tip").inner_text() != by_pointer
    # then it follows a refresh, and Enter leads to the tasks of the column
    _refresh(page)
    expect(page.locator("#live")).not_to_have_attribute("data-before", "yes")
    page.evaluate("document.getElementById('announce').textContent = ''")
    charts.first.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#announce")).to_contain_text(" runs: ")
    page.evaluate("document.dispatchEvent(new Event('scroll'))")  # that of the focus can come after the keys
    expect(page.locator(".chart .cursor")).to_have_count(number)
    page.keyboard.press("Enter")
    page.wait_for_url("**/tasks?type=data*")


def test_a_page_left_open_over_a_sign_out_a_wrong_answer_and_a_deploy_is_never_blank(visit: Visit) -> None:
    # given a browser whose clock is four years fast
    visitor = visit()
    page = visitor.page
    page.clock.set_fixed_time(datetime(2031, 1, 1, tzinfo=UTC))
    page.goto(visitor.base + "/tasks?state=retry")
    rows = page.locator("tbody tr").count()
    assert rows > 1
    stale, live = page.locator("#stale"), "**/tasks?*"
    # then its times are those of the server
    assert re.search(r" (s|min|h) ago", page.locator("tbody time").first.inner_text())
    expect(page.locator("#life-text")).to_have_text(re.compile(r"^\d s ago$"))
    # and when the session ends, and when a sign-in answers in place of the page
    sign_in = "<html><body><form id='sign-in'></form></body></html>"
    for status, words, link in (
        (401, "you are not signed in any more", "Sign in"),
        (200, "this page is not there any more, or you are not signed in", "Load the page again"),
        (404, "the page answered with status 404", "Load the page again"),
    ):
        page.route(live, lambda route, _, status=status: route.fulfill(status=status, body=sign_in))
        _refresh(page)
        # then the page keeps its rows, says so by the server's clock, and has a link
        expect(stale).to_contain_text(f"Z: {words}.")
        expect(page.locator("#life")).to_have_class(re.compile("stale"))
        since = re.search(r"since (\d\d):(\d\d):(\d\d)Z", stale.inner_text())
        assert since is not None
        now = datetime.now(UTC)
        shown = now.replace(hour=int(since[1]), minute=int(since[2]), second=int(since[3]))
        assert abs((now - shown + timedelta(hours=12)) % timedelta(days=1) - timedelta(hours=12)) < timedelta(minutes=5)
        expect(stale.get_by_role("link", name=link)).to_have_attribute("href", page.url)
        assert page.locator("tbody tr").count() == rows
        page.unroute(live)
    # and when a new version answers
    body = page.request.get(page.url).text()
    page.route(live, lambda route: route.fulfill(body=re.sub(r"page\.js\?v=\w+", "page.js?v=new", body)), times=1)
    with page.expect_navigation():
        _refresh(page)
    # then the page is loaded anew, with the files of that version
    expect(stale).to_be_hidden()
    expect(page.locator("tbody tr")).to_have_count(rows)
    visitor.troubles.clear()


def test_the_refresh_is_chosen_for_every_page_of_the_browser(visit: Visit) -> None:
    visitor = visit()
    page = visitor.go("/tasks?state=retry")
    choice = page.get_by_label("Refresh")
    expect(choice).to_have_value("")
    # when it is off
    choice.select_option("off")
    page.evaluate("document.getElementById('live').dataset.before = 'yes'")
    visitor.go("/limits")
    expect(page.get_by_label("Refresh")).to_have_value("0")
    expect(page.locator(".life")).to_have_class(re.compile("off"))
    # then not even the timer of the page asks
    requests = _requests(page)
    page.evaluate(
        "const live = document.getElementById('live');"
        " live.setAttribute('hx-trigger', 'every 1s, refresh'); htmx.process(live)"
    )
    expect(page.locator("#life-text")).to_have_text(re.compile("^[2-9]"))  # more time than the timer needs
    assert requests == []
    # and with two seconds it comes by itself
    with page.expect_request("**/limits*"):
        page.get_by_label("Refresh").select_option("2 s")
    with page.expect_request("**/limits*"):
        pass
    # and a value of another version counts as none
    page.evaluate("localStorage.setItem('joblane-refresh', '7')")
    visitor.go("/limits")
    expect(page.get_by_label("Refresh")).to_have_value("")
    # and logs that were followed for ten minutes have no choice, and ask for nothing
    page.evaluate("localStorage.setItem('joblane-refresh', '2')")
    page.clock.install()
    visitor.go("/runs/logs?type=data:export&live=2020-01-01T00:00Z")
    expect(page.get_by_text("ten minutes have passed")).to_be_visible()
    expect(page.locator("#life")).to_be_hidden()
    requests = _requests(page)
    page.clock.run_for(10_000)
    assert requests == []


def test_the_tab_follows_the_trouble_and_a_wall_that_is_not_up_to_date_says_so(visit: Visit, site: Site) -> None:
    visitor = visit()
    page = visitor.go("/?wall=1")
    expect(page.get_by_role("heading", level=1)).to_contain_text("need")
    before = int(re.match(r"\((\d+)\)", page.title())[1])  # type: ignore[index]
    assert "icon" in str(page.locator("link[rel=icon]").get_attribute("href"))
    # when an operator closes a limit
    site.world.run("insert into joblane.limit_changes (name, slots, changed_by) values ('storage', 0, 'ann')")
    patience = PATIENCE_SECONDS * 1000
    expect(page).to_have_title(re.compile(rf"^\({before + 1}\) Now"), timeout=patience)
    expect(page.get_by_text("limit storage")).to_be_visible()
    # and when the page does not answer
    page.route("**/?wall=1", lambda route: route.abort())
    _refresh(page)
    expect(page.locator("#stale")).to_be_visible()
    expect(page).to_have_title(re.compile("^Not up to date"))
    page.unroute("**/?wall=1")
    site.world.run("delete from joblane.limit_changes")
    expect(page).to_have_title(re.compile(rf"^\({before}\) Now"), timeout=patience)
    # and when a deploy has changed the page, it loads itself
    with page.expect_navigation():
        page.route(
            "**/?wall=1",
            lambda route: route.fulfill(body=route.fetch().text().replace("page.css?v=", "page.css?v=new"), status=200),
            times=1,
        )
        _refresh(page)
    visitor.troubles.clear()  # the console reports the refused request as well


# --- Actions ----------------------------------------------------------------------------------------------------


def test_a_task_is_found_opened_and_retried_with_keys_only(visit: Visit, site: Site) -> None:
    # given
    id_ = any_task(site, State.ARCHIVED, types=("tenant:initialize",))
    page = visit().page
    keys = page.keyboard
    # when
    keys.press("g")
    keys.press("t")
    page.wait_for_url("**/tasks")
    keys.press("/")
    box = page.get_by_label("Find anything")
    expect(box).to_be_focused()
    keys.press("Escape")
    expect(box).not_to_be_focused()
    keys.press("/")
    keys.type("billing did not")
    keys.press("Enter")
    page.wait_for_url("**/find")
    keys.press("j")
    expect(page.get_by_role("region", name="Error contains it").locator("tbody a").first).to_be_focused()
    keys.press("Enter")
    page.wait_for_url("**/task?id=*")
    page.go_back()
    expect(page.get_by_text(re.compile("Searched the payloads of .* tasks"))).to_be_visible()
    keys.press("/")
    keys.type(id_)
    keys.press("Enter")
    page.wait_for_url(f"**/task?id={id_}")
    _tab_to(page, "Reason")
    keys.type("billing is back")
    _tab_to(page, "Retry")
    keys.press("Enter")
    # then
    expect(page.get_by_text("Retry: done.")).to_be_visible()
    expect(page.get_by_role("row", name="billing is back")).to_be_visible()
    assert site.inspector.task(id_).row.state is State.PENDING
    [entry] = site.inspector.audit(target=id_)
    assert (entry.who, entry.action, entry.reason) == ("ann@desk", "retry", "billing is back")


def _tab_to(page: Page, name: str) -> None:
    """Press Tab until the element has the focus, which must always be visible."""
    for _ in range(60):
        page.keyboard.press("Tab")
        label, outlined = page.evaluate(
            "[(document.activeElement.labels?.[0] ?? document.activeElement).innerText,"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert outlined != "none"
        if label.startswith(name):
            return
    pytest.fail(f"Tab does not reach {name!r}")


def test_the_list_of_keys_opens_and_single_keys_can_be_switched_off(visit: Visit) -> None:
    page = visit().page
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.get_by_label("Use single keys").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()


def test_the_second_of_two_operators_sees_what_the_first_did(visit: Visit, site: Site) -> None:
    id_ = any_task(site, State.RETRY)
    visitor = visit()
    page = visitor.go(f"/task?id={id_}")
    site.inspector.cancel(id_, reason="not wanted")
    page.get_by_role("button", name="Run now").click()
    expect(page.get_by_role("heading", name="Not possible in this state")).to_be_visible()
    expect(page.get_by_text(re.compile("cancelled.*ann@desk"))).to_be_visible()
    _expected(visitor, "409")


def test_an_invalid_payload_is_reported_at_its_field_and_can_be_corrected(visit: Visit, site: Site) -> None:
    # given
    id_ = any_task(site, State.ARCHIVED, types=("data:export",))
    visitor = visit()
    page = visitor.go(f"/task?id={id_}")
    page.get_by_text("Edit", exact=True).click()
    field = page.get_by_label("Payload as JSON")
    kept = field.input_value()
    # when
    field.fill(kept.replace('"full"', '"whole"'))
    page.get_by_role("button", name="Replay as a new task").click()
    # then
    expect(page.get_by_role("alert").filter(has_text="export_type")).to_be_visible()
    expect(field).to_be_focused()
    assert '"whole"' in field.input_value()
    _expected(visitor, "422")
    # and when
    field.fill(kept.replace('"full"', '"partial"'))
    page.get_by_role("button", name="Replay as a new task").click()
    # then
    expect(page.get_by_text("This is the new task")).to_be_visible()
    new = page.locator("h1").inner_text()
    assert new != id_
    assert site.inspector.task(new).payload["export_type"] == "partial"
    assert site.inspector.task(new).replay_of == id_


def test_a_task_is_enqueued_by_the_form_of_its_type(visit: Visit, site: Site, axe: str) -> None:
    # given
    visitor = visit()
    page = visitor.go("/types")
    page.get_by_role("link", name="Enqueue data:export").click()
    page.get_by_label("tenant_id").fill("no uuid")
    page.get_by_label("user_id").fill("auth0|7")
    page.get_by_label("export_type").select_option("partial")
    page.get_by_label("Reason").fill("asked for by phone")
    # when the schema refuses a value
    page.get_by_role("button", name="Enqueue").click()
    # then it is shown at its field, and the rest is kept
    tenant = page.get_by_label("tenant_id")
    expect(tenant).to_be_focused()
    expect(tenant).to_have_attribute("aria-invalid", "true")
    expect(tenant).to_have_accessible_description("Input should be a valid UUID")
    expect(page.get_by_label("user_id")).to_have_value("auth0|7")
    visitor.keep("enqueue-refused")
    page.evaluate(axe)
    assert _violations(page, "light") == []
    _expected(visitor, "422")
    # and when it is corrected, and the form is sent twice, with keys only
    tenant.fill("6f1c5d0e-6f0a-4b0b-9a59-0d1f7f5f2c11")
    sent = page.evaluate(
        "(form => [form.action, String(new URLSearchParams(new FormData(form)))])(document.querySelector('.enqueue'))"
    )
    page.keyboard.press("Enter")
    expect(page.get_by_text("Enqueued: the task is pending.")).to_be_visible()
    id_ = page.locator("h1").inner_text()
    again = page.evaluate(
        "([to, body]) => fetch(to, {method: 'POST', body: new URLSearchParams(body)}).then(got => got.url)", sent
    )
    # then there is one task
    assert f"id={id_}" in again
    assert len(site.inspector.audit(action="enqueue")) == 1
    [entry] = site.inspector.audit(target=id_)
    assert (entry.who, entry.action, entry.reason) == ("ann@desk", "enqueue", "asked for by phone")
    assert site.inspector.task(id_).payload["export_type"] == "partial"


def test_a_bulk_cancel_is_counted_confirmed_and_followed_to_its_end(visit: Visit, site: Site) -> None:
    # given
    wanted = Filter(states=(State.SCHEDULED,), tenant="acme")
    count = site.inspector.count(wanted).number
    assert count > 3
    visitor = visit()
    page = visitor.go("/tasks?state=scheduled&tenant=acme")
    # when
    page.get_by_label("Action", exact=True).select_option("cancel")
    page.get_by_role("button", name=f"All {count} matching").click()
    # then nothing is changed yet
    expect(page.get_by_role("heading", name=f"Cancel {count} tasks?")).to_be_visible()
    visitor.keep("dry-run")
    assert site.inspector.count(wanted).number == count
    # and when
    page.get_by_label("Reason").fill("the wrong day")
    page.get_by_label("Tasks a second").fill("500")
    page.get_by_role("button", name=f"Cancel {count} tasks").click()
    expect(page.get_by_text(f"0 of {count}", exact=True)).to_be_visible()
    site.work("jobs:bulk")
    # then, without a click
    expect(page.get_by_text(f"{count} of {count}", exact=True)).to_be_visible()
    expect(page.get_by_text("All tasks were processed.")).to_be_visible()
    expect(page.locator("#announce")).to_contain_text(f"{count} of {count}")
    visitor.keep("bulk-done")
    assert site.inspector.count(wanted).number == 0


def test_a_bulk_action_is_stopped(visit: Visit, site: Site) -> None:
    # given a second click before the stage has answered, which starts no second action
    page, sent = visit().go("/bulk/new?action=retry&which=all&state=cancelled"), list[str]()
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    stage = site.world.database.another()
    stage.get().execute_simple("begin; lock table joblane.bulks in share mode")
    button = page.get_by_role("button", name=re.compile("Retry .* task"))
    with page.expect_request("**/bulk/start"):
        button.click(no_wait_after=True)
    page.mouse.down()
    page.mouse.up()
    stage.close()
    expect(page.get_by_text("Started: retry of")).to_be_visible()
    assert len(sent) == 1
    # then it can be stopped
    page.get_by_role("button", name="Abort").click()
    expect(page.get_by_text("aborted by ann@desk")).to_be_visible()
    expect(page.locator(".state.stopped")).to_be_visible()
    expect(page.get_by_role("button", name="Abort")).to_have_count(0)


def test_a_redrive_of_one_group_leaves_the_other_groups(visit: Visit, site: Site) -> None:
    # given
    groups = {group.type: group.archived for group in site.inspector.dead().groups}
    assert set(groups) == {"data:export", "user:invitation", "tenant:initialize"}
    page = visit().go("/dead")  # the former address
    expect(page.get_by_text("3 errors")).to_be_visible()
    # when
    page.get_by_label(re.compile("Actions on .* of user:invitation")).click()
    page.get_by_role("link", name=re.compile("Redrive .* of user:invitation")).click()
    expect(page.get_by_role("heading", name=f"Redrive {groups['user:invitation']}?")).to_be_visible()
    page.get_by_label("Canary").fill("0")
    page.get_by_label("A second").fill("500")
    page.get_by_role("button", name=re.compile("^Redrive")).click()
    site.work("jobs:bulk")
    # then
    expect(page.get_by_text("All tasks were processed.")).to_be_visible()
    now = {group.type: group.archived for group in site.inspector.dead().groups}
    assert now == {type_: count for type_, count in groups.items() if type_ != "user:invitation"}


def test_errors_are_marked_together_and_opened_again(visit: Visit, site: Site) -> None:
    page = visit().go("/errors")
    page.get_by_label("Select all on this page").check()
    expect(page.locator("#selected-count")).to_have_text("(3)")
    page.get_by_label(re.compile("Select .* of user:invitation")).uncheck()
    requests = _requests(page)
    _refresh(page)
    page.get_by_label("Note").fill("the provider is down")
    page.locator("#mark").get_by_role("button", name="Known").click()
    expect(page.get_by_text("2 errors are now known: listed below the others")).to_be_visible()
    assert not requests  # a refresh would have lost the selection
    assert [one.type for one in site.inspector.errors().causes if not one.note] == ["user:invitation"]
    # and one of them in its menu, after which the list is the chosen one
    page.goto(page.url.partition("/errors")[0] + "/errors?state=known")
    page.get_by_label(re.compile("Actions on .* of data:export")).click()
    page.locator(".menu[open]").get_by_role("button", name="Open").click()
    expect(page.get_by_text("1 error is now open.")).to_be_visible()
    expect(page.get_by_text("1 error", exact=True)).to_be_visible()
    site.inspector.mark_errors(
        tuple(one.fingerprint for one in site.inspector.errors().causes if one.note), CauseState.OPEN
    )


def test_a_queue_and_a_limit_are_paused_and_resumed(visit: Visit, site: Site) -> None:
    visitor = visit()
    page = visitor.page
    page.get_by_label("Pause queue low").click()
    form = page.locator("#pause-low form")
    form.get_by_label("For", exact=True).select_option("1 hour")
    form.get_by_label("Reason").fill("a bad deploy")
    form.get_by_role("button", name="Pause low").click()
    expect(page.get_by_text("Paused queue low until")).to_be_visible()
    assert [pause.reason for pause in site.inspector.pauses()] == ["a bad deploy"]
    page.get_by_label("Resume queue low").first.click()
    expect(page.get_by_text("Resumed queue low; it was paused by")).to_be_visible()
    assert site.inspector.pauses() == ()
    # and when a key's limit is paused, from one of its tasks
    visitor.go(f"/task?id={any_task(site, State.HELD, tenant='acme')}")
    page.get_by_role("link", name="data:export/acme").first.click()
    page.locator("#pause summary").click()
    form = page.locator("#pause form")
    form.get_by_role("button").click()
    expect(form.get_by_label("Reason")).to_be_focused()  # it is required
    form.get_by_label("Reason").fill("<i>a bad deploy</i>")
    form.get_by_role("button").click()
    # then
    expect(page.get_by_text("Set. In force now: data:export, key acme: 0 at a time.")).to_be_visible()
    expect(page.get_by_role("row", name="0 at a time by ann@desk, now: <i>a bad deploy</i>.")).to_be_visible()
    # and when a value is refused
    page.locator("#set summary").click()
    form = page.locator("#set form")
    form.get_by_label("Rate: starts in a time").fill("100 an hour")
    form.get_by_label("Reason").fill("more quota")
    form.get_by_role("button").click()
    # then
    expect(form.get_by_label("Rate: starts in a time")).to_have_value("100 an hour")
    visitor.keep("limit-refused")
    expect(form.get_by_label("Rate: starts in a time")).to_have_attribute("aria-invalid", "true")
    _expected(visitor, "400")
    # and when
    page.locator("#reset summary").click()
    form = page.locator("#reset form")
    form.get_by_label("Reason").fill("it is fixed")
    form.get_by_role("button").click()
    # then
    expect(page.get_by_text("Reset. In force now: data:export, key acme: 2 at a time.")).to_be_visible()
    assert [entry.action for entry in site.inspector.audit(target="limit:data:export/acme")] == [
        "reset_limit",
        "set_limit",
    ]


def test_a_batch_is_opened_retried_and_sealed(visit: Visit, site: Site) -> None:
    # given a child that waits for an archived task, and a callback that waits for archived members
    page = visit().go("/task?id=child")
    expect(page.get_by_text(re.compile("It waits for task .*, which is archived, and for 1 more"))).to_be_visible()
    expect(page.get_by_role("heading", name="Parents")).to_be_visible()
    # and the picture of its workflow, which keeps its place when the page is refreshed
    picture = page.get_by_role("region", name="Picture of the workflow")
    expect(picture.get_by_role("link", name="data:export, held, waits for tasks")).to_be_visible()
    page.evaluate("document.styleSheets[0].insertRule('.workflow { width: 200px }')")
    picture.evaluate("box => box.scrollTo(37, 0)")
    _refresh(page)
    expect(page.locator("#live")).not_to_have_attribute("data-before", "yes")
    assert picture.evaluate("box => box.scrollLeft") == 37
    page.get_by_role("link", name="Control", exact=True).click()
    page.get_by_role("link", name="Batches", exact=True).click()
    page.get_by_role("link", name="import-7:on_success").click()
    expect(
        page.get_by_text(re.compile("It waits for .* members of batch import-7, .* of them archived"))
    ).to_be_visible()
    # when the members are retried
    page.get_by_role("link", name="import-7", exact=True).click()
    archived = site.inspector.batch("import-7").members[State.ARCHIVED]
    page.locator("#retry summary").click()
    form = page.locator("#retry form")
    expect(form.get_by_text(f"Each of the {archived} archived members")).to_be_visible()
    form.get_by_label("Tasks a second").fill("500")
    form.get_by_label("Reason").fill("it is fixed")
    form.get_by_role("button").click()
    site.work("jobs:bulk")
    # then
    expect(page.get_by_text("All tasks were processed.")).to_be_visible()
    assert State.ARCHIVED not in site.inspector.batch("import-7").members
    # and when another batch is sealed
    page.get_by_role("link", name="Batches", exact=True).click()
    page.get_by_role("link", name="import-8", exact=True).click()
    page.locator("#seal summary").click()
    page.locator("#seal form").get_by_label("Reason").fill("the importer died")
    page.locator("#seal form").get_by_role("button").click()
    # then
    expect(page.get_by_text("Sealed. Its callbacks run once its members have ended.")).to_be_visible()
    expect(page.locator("#seal")).to_have_count(0)
    assert [entry.reason for entry in site.inspector.audit(target="batch:import-8")] == ["the importer died"]


def test_a_schedule_of_the_code_runs_now(visit: Visit, site: Site) -> None:
    page = visit().go("/schedules")
    expect(page.get_by_text("every day at 02:00")).to_be_visible()
    page.get_by_role("link", name="tenant:cleanup:0", exact=True).click()
    expect(page.get_by_role("img", name="Durations of the last ticks of tenant:cleanup:0")).to_be_visible()
    page.get_by_text("History", exact=True).last.click()
    expect(page.get_by_role("button", name="Delete the schedule")).to_have_count(0)
    page.get_by_label("Reason").fill("it was missed")
    page.get_by_role("button", name="Run now").click()
    expect(page.get_by_text("Enqueued: ")).to_be_visible()
    [entry] = site.inspector.audit(limit=1)
    assert (entry.action, entry.target, entry.reason) == ("run_schedule", "schedule:tenant:cleanup:0", "it was missed")


def test_a_schedule_of_a_tenant_is_found_paused_and_resumed(visit: Visit, site: Site) -> None:
    # given
    page = visit().go("/schedules")
    expect(page.get_by_role("link", name="tenant:cleanup:0", exact=True)).to_be_visible()
    # when it is searched
    page.get_by_role("textbox", name="Tenant").fill("acme")
    page.get_by_label("Name contains").fill("NIGHT")
    page.get_by_role("button", name="Filter").click()
    # then
    expect(page.get_by_role("link", name="tenant:cleanup:0", exact=True)).to_have_count(0)
    expect(page.get_by_text("every day at 06:00 Europe/Berlin")).to_be_visible()
    page.get_by_role("link", name="acme-nightly", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("acme-nightly")
    # when it is paused for a day
    page.get_by_label("Reason").fill("a holiday")
    page.locator("#pause summary").click()
    page.get_by_label("For", exact=True).select_option("1 day")
    page.get_by_role("button", name="Pause the schedule").click()
    expect(page.get_by_text(": it has no ticks until 2")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("Resumed acme-nightly: its next tick is at")).to_be_visible()
    # then
    entries = site.inspector.audit(target="schedule:acme-nightly")
    assert [(entry.action, entry.reason) for entry in entries] == [
        ("resume_schedule", None),
        ("pause_schedule", "a holiday"),
    ]


def test_a_schedule_is_run_and_deleted_without_scripts(visit: Visit, site: Site) -> None:
    visitor = visit(java_script_enabled=False)
    page = visitor.go("/schedules/show?name=globex-monthly")
    page.get_by_role("button", name="Run now").click()
    expect(page.get_by_text("Enqueued: ")).to_be_visible()
    page.locator("#delete summary").click()
    page.get_by_role("button", name="Delete the schedule").click()
    expect(page.get_by_text("Deleted globex-monthly: it has no ticks any more.")).to_be_visible()
    assert visitor.go("/schedules/show?name=globex-monthly").get_by_text("There is no such schedule").count() == 1
    site.seed_schedules()
    _expected(visitor, "404")


# --- Every page -------------------------------------------------------------------------------------------------


def test_the_read_only_page_offers_no_action(visit: Visit, site: Site) -> None:
    visitor = visit(site.read_only)
    for name, address in addresses(site).items():
        page = visitor.go(address)
        acts = page.locator("form[method=post]:not([role=search]), table input[type=checkbox]:visible")
        assert acts.count() == 0, name
        if name != "wall":  # it never has actions, and no header
            expect(page.get_by_text("read-only", exact=True)).to_be_visible()
    _expected(visitor, "404")


def test_actions_work_without_scripts(visit: Visit, site: Site) -> None:
    id_ = any_task(site, State.PENDING)
    page = visit(java_script_enabled=False).go(f"/task?id={id_}")
    expect(page.locator("[data-keys]")).to_be_hidden()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Cancel: done.")).to_be_visible()
    assert site.inspector.task(id_).row.state is State.CANCELLED


@pytest.mark.parametrize(
    ("name", "how", "widths", "schemes"),
    [("desk", {}, (1440, 390), ("light", "dark")), ("phone", PHONE, (360,), ())],
    ids=["desk", "phone"],
)
def test_every_page_is_readable_in_light_and_dark_mode_and_on_a_phone(
    visit: Visit,
    site: Site,
    axe: str,
    name: str,
    how: dict[str, Any],
    widths: tuple[int, ...],
    schemes: tuple[Scheme, ...],
) -> None:
    visitor = visit(**how)
    visitor.page.get_by_label("Find anything").fill("in")  # the page of the search then has results
    visitor.page.keyboard.press("Enter")
    expect(visitor.page.get_by_role("heading", name="Error contains it")).to_be_visible()
    for kind, address in addresses(site).items():
        visitor.size(widths[0])
        page = visitor.go(address)
        page.evaluate("Object.defineProperty(document, 'hidden', {value: true})")  # no refresh in the middle of a check
        page.evaluate("document.querySelectorAll('details:not(.menu)').forEach(one => one.open = true)")
        if schemes:
            page.evaluate(axe)
        for width in widths:
            visitor.size(width)
            for scheme in schemes or (None,):
                page.emulate_media(color_scheme=scheme)
                visitor.keep(f"{kind}-{scheme or name}-{width}")
                taken, seen = page.evaluate(
                    "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
                )
                assert taken <= seen, f"{kind} scrolls sideways at {width} ({scheme})"
                assert page.evaluate(SMALLEST) >= 11, f"{kind} has too small labels at {width}"
                if scheme == "light" or (scheme == "dark" and kind in COLOURFUL):
                    assert _violations(page, scheme) == [], (kind, scheme, width)
        if schemes:
            page.emulate_media(color_scheme=schemes[0])
    _expected(visitor, "404")


@pytest.mark.parametrize("width", [320, 360])
def test_on_a_phone_the_links_to_all_areas_are_visible(visit: Visit, width: int) -> None:
    visitor = visit(**PHONE | {"viewport": {"width": width, "height": 740}})
    page = visitor.page
    for path in ("/", "/bulk"):
        visitor.go(path)
        for link in page.get_by_role("navigation", name="Areas").get_by_role("link").all():
            expect(link).to_be_in_viewport(ratio=1)


def test_the_longest_names_fit_on_a_phone(visit: Visit, site: Site) -> None:
    # given
    tenant, tag, id_ = "t" * 128, "g" * MAX_TAG, any_task(site, State.COMPLETED)
    site.world.run("update joblane.tasks set tenant = $2, tags = array[$3] where id = $1", id_, tenant, tag)
    visitor = visit(**PHONE)
    for path in (f"/task?id={id_}", f"/runs?tenant={tenant}", "/tenants"):
        # when
        page = visitor.go(path)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        # then
        width, seen = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert width <= seen, path


def test_a_team_signs_in_and_a_deep_link_ends_at_the_task(browser: Browser, site: Site, axe: str) -> None:
    # given the shared page, an issuer, and a phone that is not signed in
    id_ = any_task(site, State.ARCHIVED)
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    page, troubles = context.new_page(), list[str]()
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    with serving(LocalIssuer(SigningKey.ec("one"))) as issuer, serving_page(partial(_shared, site, issuer)) as address:
        # when a link of a mail is opened
        page.goto(f"{address}/task?id={id_}")
        assert page.url.startswith(f"{issuer.url}/authorize?")
        page.get_by_role("button", name="Sign in").click()
        # then
        page.wait_for_url(f"{address}/task?id={id_}")
        expect(page.get_by_role("heading", level=1)).to_contain_text(id_)
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Retry").click()
        expect(page.get_by_text("Retry: done.")).to_be_visible()
        expect(page.get_by_text("oidc:ann@example.com (u-1)").first).to_be_visible()
        _is_readable(page, axe)
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="You are signed out")).to_be_visible()
        _is_readable(page, axe)
        page.get_by_role("link", name="Sign in again").click()
        assert page.url.startswith(f"{issuer.url}/authorize?")
        context.close()
    assert troubles == []


# --- Pages of an application ---------------------------------------------------------------------------------------


def test_a_person_answers_by_the_button(
    browser: Browser, axe: str, jobs: JobTester, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = FastAPI(lifespan=joblane.fastapi.lifespan)
    app.include_router(joblane.fastapi.signals)
    with _visited(browser, app) as (page, address, troubles):
        with monkeypatch.context() as patched:
            patched.setenv(SIGNAL_BASE_URL, address)
            button, open_ = asked(jobs, "t")
        page.goto(open_)
        expect(page.get_by_role("button")).to_have_count(0)
        _is_readable(page, axe)
        page.goto(button)
        expect(page.get_by_role("heading", name=SIGNAL)).to_be_visible()
        assert page.evaluate("getComputedStyle(document.body).maxWidth") == "640px"  # the policy allows the style
        _is_readable(page, axe)
        for _ in range(2):
            page.get_by_role("button", name="Send the answer").click()
            expect(page.get_by_role("heading", name="The answer was received.")).to_be_visible()
            _is_readable(page, axe)
            page.goto(button)
    jobs.drain()
    assert (jobs.task("t").result, troubles) == (VALUE, [])


def test_the_bar_of_the_documentation_survives_a_refusal_a_reload_and_a_reconnect(
    browser: Browser, axe: str, jobs: JobTester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # given the files of the page
    documentation = ROOT / "docs" / "how-to" / "cancel.md"
    files = [block for block in blocks("python", documentation) if block.text.startswith("# ")]
    for name, block in zip(("functions.report_build.handler", "report_app"), files, strict=True):
        monkeypatch.setitem(sys.modules, name, module := ModuleType(name))
        exec(compile(block.text, name, "exec", dont_inherit=True), module.__dict__)
    [html] = blocks("html", documentation)
    (tmp_path / "report.html").write_text(html.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(progress, "RETRY", b"retry: 1\n\n")
    last_ids: list[str | None] = []
    open_stream = progress.Streams.open

    def noted(streams: progress.Streams, task_id: str, last_id: str | None) -> progress.Stream:
        last_ids.append(last_id)
        return open_stream(streams, task_id, last_id)

    monkeypatch.setattr(progress.Streams, "open", noted)
    with _visited(browser, module.app) as (page, address, troubles):
        bar, words = page.get_by_role("progressbar"), page.get_by_role("status")
        page.clock.install()
        path = page.request.post(f"{address}/reports?pages=4").json()["page"]
        [_, _, id_] = path.split("/")
        report = partial(jobs._database.get().run, PROGRESS_OF, id_)
        # when the process has too many streams, and then a place
        with monkeypatch.context() as patched:
            patched.setattr(progress, "MAX_STREAMS", 0)
            with page.expect_response(lambda response: response.status == 503):
                page.goto(address + path)
        page.clock.run_for(10_000)
        # then
        expect(words).to_have_text("pending")
        _is_readable(page, axe)
        for done in (1, 2):
            report(done)
            expect(bar).to_have_js_property("value", done)
            page.reload()
            expect(bar).to_have_js_property("value", done)
            expect(words).to_have_text(f"page {done}")
        # and after 15 minutes the browser connects again, with the last id
        streams = streams_of(module.app.state.joblane)
        streams.clock = lambda: time.monotonic() + progress.LONGEST_SECONDS
        report(3)
        await_true(lambda: bool(last_ids[-1]), lambda: "the browser did not connect again")
        expect(bar).to_have_js_property("value", 3)
        # and at the end it does not
        jobs.drain()
        expect(words).to_have_text("completed")
        expect(bar).to_have_js_property("value", 4)
        await_true(lambda: not streams._open, lambda: "a stream is open")
    assert [trouble for trouble in troubles if "503" not in trouble] == []


PROGRESS_OF = """
insert into joblane.task_progress (task_id, done, total, note) values ($1, $2::int, 4, 'page ' || $2)
on conflict (task_id) do update set done = excluded.done, note = excluded.note
"""


@contextmanager
def _visited(browser: Browser, app: FastAPI) -> Iterator[tuple[Page, str, list[str]]]:
    """Serve an application. Yield a page on a phone, the address, and the errors of the console."""
    listening = listen(0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    page, troubles = context.new_page(), list[str]()
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    try:
        yield page, f"http://127.0.0.1:{listening.getsockname()[1]}", troubles
    finally:
        context.close()
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
        listening.close()


def _is_readable(page: Page, axe: str) -> None:
    width, seen = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width <= seen
    page.evaluate(axe)
    assert _violations(page, "light") == []


def _violations(page: Page, scheme: Scheme) -> list[str]:
    """The findings of axe, which the page has loaded."""
    found = page.evaluate("rules => axe.run(document, {runOnly: rules, resultTypes: []})", RULES[scheme])
    return [_text(violation) for violation in found["violations"]]


def _shared(site: Site, issuer: LocalIssuer, address: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function of the shared page, over the database of the site."""

    class Remote:
        def on_behalf_of(self, person: Person) -> Inspector:
            return Inspector(replace(site.inspector._scope, who=f"oidc:{person.name}"))

    page = build(shared_configuration(issuer, address), key=b"k" * 32, secret=None, remote=cast(Any, Remote()))
    return partial(respond, page)


def _text(violation: dict[str, Any]) -> str:
    places = [node["target"][0] for node in violation["nodes"]][:3]
    return f"{violation['id']}: {violation['help']} at {places}"


def _expected(visitor: Visitor, status: str) -> None:
    """Remove the expected console message about a page with this status."""
    visitor.troubles[:] = [text for text in visitor.troubles if f"status of {status}" not in text]
