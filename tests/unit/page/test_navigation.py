"""The menu of six areas, their tabs and keys."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from starlette.testclient import TestClient

from joblane.page.app import PAGES
from joblane.page.navigation import AREAS, areas, keys, place
from joblane.record.row.states import State

WITH_PARAMETERS = {path: f"{path}?type=a:b" for path in ("/runs", "/runs/why", "/runs/logs")}


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_in_one_area_and_in_one_of_its_tabs(path: str) -> None:
    path, _, given = WITH_PARAMETERS.get(path, path).partition("?")
    names = [name for name, _, _ in (pair.partition("=") for pair in given.split("&"))]
    area, tab = place(AREAS, path, names)
    assert area is not None
    assert (tab is not None) is bool(area.tabs)


def test_a_tenant_and_a_type_are_in_tabs_of_their_own_and_an_unknown_address_in_none() -> None:
    assert [place(AREAS, "/runs", [name])[1] for name in ("type", "tenant")] == list(AREAS[3].tabs[:2])
    assert place(AREAS, "/runs/why", ["type"])[1] == AREAS[3].tabs[0]
    assert place(AREAS, "/tasksx", []) == (None, None)


def test_a_generated_list_is_a_tab_of_control() -> None:
    found = areas([("/lists/dead-orders", "Dead orders")])
    area, tab = place(found, "/lists/dead-orders", [])
    assert area is not None
    assert tab is not None
    assert (area.name, tab.name) == ("Control", "Dead orders")


def test_each_key_leads_to_one_page(browser: TestClient) -> None:
    every = [one for area in AREAS for one in (area, *area.tabs)]
    by_key = Counter(one.key for one in every)
    assert {key for key, number in by_key.items() if number > 1} == {"y"}  # the area of types, and its first tab
    for key, one in keys(AREAS).items():
        answer = browser.get(one.address)
        assert answer.status_code == 200
        assert f'href="{one.address}" data-go="{key}"' in answer.text


def test_the_menu_says_where_the_page_is(browser: TestClient) -> None:
    for address, current in {
        "/": ["Now"],
        "/tasks?state=" + State.RETRY: ["Tasks"],
        "/runs?tenant=acme": ["Types", "Tenants"],
        "/limits/show?name=openai": ["Control", "Limits"],
        "/no-such-page": [],
    }.items():
        text = browser.get(address).text
        navigations = re.findall(r"<nav class=\"[a-z ]*areas\".*?</nav>", text, re.S)
        found = re.findall(r"<a [^>]*aria-current=\"[a-z]+\">([^<]+)</a>", "".join(navigations))
        assert found == current
