"""The orders of lists: each column, its direction, its link, and values that name no order."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from typing import Any

import pytest
from starlette.testclient import TestClient

from joblane.inspector.errors import SelectionError
from joblane.inspector.listing import LISTINGS, Column, Listing
from joblane.inspector.views import LimitStatus, ScheduleRow, Statistic, TenantRow, TypeView
from joblane.page import sorting
from joblane.page.sorting import Sorting
from joblane.record.flow.limit_status import LimitValues
from tests.builders import views
from tests.inspector import FakeInspector

ADDRESSES = {
    "/types": TypeView,
    "/tenants": TenantRow,
    "/statistics?by=tenant": Statistic,
    "/limits": LimitStatus,
    "/schedules?text=a": ScheduleRow,
}
ALL = [(address, name) for address, row in ADDRESSES.items() for name in LISTINGS[row].sortable]
HEAD = re.compile(r'<th[^>]*?(?: aria-sort="(\w+)")?><a href="([^"]+)" id="sort-[^"]+">([^<]+)</a></th>')


def heads(text: str) -> dict[str, tuple[str, str]]:
    """Title of a column → ``aria-sort``, and the address of its link."""
    return {title: (sorted_, to.replace("&amp;", "&")) for sorted_, to, title in HEAD.findall(text)}


@pytest.mark.parametrize(("address", "name"), ALL)
def test_each_order_has_a_link_that_is_marked_where_it_leads(browser: TestClient, address: str, name: str) -> None:
    # given the link of the column, on the page in its own order
    column = LISTINGS[ADDRESSES[address]].sortable[name]
    found = heads(browser.get(address).text)
    if column.title not in found:  # a column that the page shows in another one, or without a value
        return
    assert (f"sort={name}" in found[column.title][1]) is not bool(found[column.title][0])  # sorted by it already
    # when it is followed
    answer = browser.get(found[column.title][1])
    # then that column is the sorted one, in the direction that suits its values, and the other parameters are kept
    assert answer.status_code == 200
    sorted_ = {title: now for title, (now, _) in heads(answer.text).items() if now}
    orders = LISTINGS[ADDRESSES[address]].orders
    down = orders[column.title].descending if orders else column.is_largest_first
    assert sorted_ == {column.title: "descending" if down else "ascending"}
    assert address.partition("?")[2] in found[column.title][1]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("wrong", ["sort=colour", "sort=<b>", "sort=due&desc=maybe", "sort=__class__"])
def test_an_order_that_a_list_does_not_have_is_named(browser: TestClient, address: str, wrong: str) -> None:
    answer = browser.get(f"{address}{'&' if '?' in address else '?'}{wrong}")
    assert answer.status_code == 400
    assert re.search(r"(Sort|Desc): [a-z0-9%, -]+ (are|is) valid", answer.text)
    assert "<b>" not in answer.text


@pytest.mark.parametrize("row", [TypeView, Statistic, LimitStatus])
def test_a_whole_list_is_sorted_by_every_column_both_ways(row: type) -> None:
    listing = LISTINGS[row]
    examples: dict[type, list[Any]] = {
        TypeView: [views.type_view(type=f"a:{n}", max_retry=9 - n, schedules=("daily",) * (n > 1)) for n in range(3)],
        Statistic: [replace(views.statistic(), key=f"k{n}", started=n, longest_ms=n or None) for n in (11, 0, 2)],
        LimitStatus: [
            views.limit(f"l{n}", running=n, in_force=LimitValues(n or None, None), held=40 - n) for n in (11, 0, 2)
        ],
    }
    rows = examples[row]
    for name, column in listing.sortable.items():
        up, down = (listing.sorted(rows, name, descending=each) for each in (False, True))
        keys = [column.key_of(one) for one in up]
        known = [key for key in keys if key is not None]
        assert keys == [*sorted(known), *[None] * (len(keys) - len(known))]
        assert [column.key_of(one) for one in down] == [*sorted(known, reverse=True), *keys[len(known) :]]
    with pytest.raises(SelectionError, match=f"sort: {next(iter(listing.sortable))}, "):
        listing.sorted(rows, "colour", descending=True)


def test_numbers_are_sorted_as_numbers_and_a_second_click_reverses(browser: TestClient, stub: FakeInspector) -> None:
    stub.limited = [views.limit(f"l{n}", held=n, running=n, taken=n) for n in (9, 100, 10_000)]
    text = browser.get("/limits").text
    for expected in (["l10000", "l100", "l9"], ["l9", "l100", "l10000"]):
        text = browser.get(heads(text)["Held"][1]).text
        assert re.findall(r'name=(l\d+)"', text) == expected


def test_the_orders_of_tenants_are_those_of_the_inspector(browser: TestClient, stub: FakeInspector) -> None:
    for sort in ("", *LISTINGS[TenantRow].sortable):
        assert browser.get(f"/tenants?sort={sort}").status_code == 200
    asked = [named["sort"] for _, named in stub.called("tenants")]
    assert asked == ["trouble", *map(attrgetter("sort"), LISTINGS[TenantRow].orders.values())]


# --- Planted faults ---------------------------------------------------------------------------------------------------

KEY_OF, SORTED = Column.key_of, Listing.sorted
Plant = Callable[[pytest.MonkeyPatch], None]
PLANTS: dict[str, Plant] = {
    "the address does not order the rows": lambda patch: patch.setattr(Sorting, "of", lambda self, rows: tuple(rows)),
    "numbers are strings": lambda patch: patch.setattr(
        Column, "key_of", lambda self, row: None if (key := KEY_OF(self, row)) is None else str(key)
    ),
    "rows without a value are first": lambda patch: patch.setattr(
        Listing,
        "sorted",
        lambda self, rows, name, *, descending: SORTED(self, rows, name, descending=not descending)[::-1],
    ),
    "the first click has the smallest value first": lambda patch: patch.setattr(Column, "is_largest_first", False),
    "other parameters are lost": lambda patch: patch.setattr(sorting, "OWN", (*sorting.OWN, "by", "text")),
}


@pytest.mark.plants
@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_a_planted_fault_is_found(
    browser: TestClient, stub: FakeInspector, monkeypatch: pytest.MonkeyPatch, plant: Plant
) -> None:
    def check() -> None:
        for row in (TypeView, Statistic, LimitStatus):
            test_a_whole_list_is_sorted_by_every_column_both_ways(row)
        for address, name in ALL:
            test_each_order_has_a_link_that_is_marked_where_it_leads(browser, address, name)
        test_numbers_are_sorted_as_numbers_and_a_second_click_reverses(browser, stub)

    plant(monkeypatch)
    with pytest.raises((AssertionError, TypeError)):
        check()
