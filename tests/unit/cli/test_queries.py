"""An operation that is added to the inspector, with the description of its rows, shows up everywhere by itself."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any, cast

import pytest
import typer

import joblane.cli.watch
from joblane.cli.main import app
from joblane.inspector import wire
from joblane.inspector.inspector import Inspector
from joblane.inspector.listing import LISTINGS, Column, Kind, Listing
from joblane.inspector.permission import Permission, needs
from joblane.inspector.queries import new, query
from tests.inspector import FakeInspector
from tests.unit.cli.conftest import Run
from tests.unit.page.conftest import COOKIE, client_of


@dataclass(frozen=True, slots=True)
class Refund:
    """The row of a new operation."""

    id: str
    tenant: str | None
    cents: int
    paid_at: datetime


@dataclass(frozen=True, slots=True)
class RefundPage:
    """A page of them."""

    refunds: tuple[Refund, ...]
    after: str | None


LISTING = Listing(
    "Refunds",
    "There are no refunds.",
    (
        Column("ID", "id", Kind.ID),
        Column("Tenant", "tenant", optional=True),
        Column("Cents", "cents", Kind.NUMBER),
        Column("Paid", "paid_at", Kind.MOMENT),
    ),
)


@needs(Permission.VIEW)
def refunds(
    self: Any,
    *,
    tenant: str | None = None,
    since: datetime | None = None,
    is_open: bool = False,
    after: str | None = None,
    limit: int = 50,
) -> RefundPage:
    """A page of refunds, newest first.

    ``tenant``: only its refunds. ``since``: an age or a time. ``limit``: 1 to 500.
    """
    raise NotImplementedError


@pytest.fixture
def stub(stub: FakeInspector, monkeypatch: pytest.MonkeyPatch) -> FakeInspector:
    """An inspector with the new operation."""
    monkeypatch.setattr(Inspector, "refunds", refunds, raising=False)
    monkeypatch.setitem(LISTINGS, Refund, LISTING)
    wire.operations.cache_clear()
    now = datetime.now(UTC)
    rows = (
        Refund("r-1", "acme", 4_200, now - timedelta(hours=3)),
        Refund("<b>", None, 7, now - timedelta(minutes=5)),
    )
    stub.answers["refunds"] = RefundPage(rows, "r 2")
    return stub


@pytest.fixture(autouse=True)
def operations_of_the_other_tests() -> Any:
    """The command line is made once for all tests, see ``tests/fast_typer.py``."""
    yield
    wire.operations.cache_clear()
    group: Any = typer.main.get_command(app)
    group.commands.pop("refunds", None)


def watched(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The lists of `joblane watch`, imported with the new operation."""
    monkeypatch.setattr(joblane.cli.watch, "lists", None, raising=False)
    monkeypatch.delitem(sys.modules, "joblane.cli.watch.lists", raising=False)
    return importlib.import_module("joblane.cli.watch.lists")


def test_a_new_operation_has_a_command_with_options_and_help(jobs: Run, stub: FakeInspector) -> None:
    assert "A page of refunds, newest first." in jobs("--help").out
    help_ = jobs("refunds", "--help").out
    for text in ("--tenant TENANT", "only its refunds.", "--is-open", "--since SINCE", "--json"):
        assert text in help_
    # when
    ran = jobs("refunds", "--tenant", "acme", "--is-open", "--limit", "7", "--since", "2026-01-02T05:04+02:00")
    # then
    at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    assert stub.called("refunds") == [((), {"tenant": "acme", "is_open": True, "limit": 7, "since": at})]
    title, first, second = ran.out.splitlines()
    assert title.split() == ["ID", "TENANT", "CENTS", "PAID"]
    assert first.split() == ["r-1", "acme", "4,200", "3h", "ago"]
    assert second.split() == ["<b>", "7", "5m", "ago"]
    assert "--after 'r 2'" in ran.err
    assert (jobs("refunds", "--limit", "x").code, jobs("refundz").code) == (2, 2)
    stub.answers["refunds"] = RefundPage((), None)
    assert jobs("refunds").err == "There are no refunds.\n"


def test_a_new_operation_is_in_json_and_on_the_wire(jobs: Run, stub: FakeInspector) -> None:
    shown = json.loads(jobs("refunds", "--json").out)
    assert [row["cents"] for row in shown["refunds"]] == [4_200, 7]
    assert wire.operations()["refunds"] is Permission.VIEW
    answer = wire.call(cast(Inspector, stub), "refunds", wire.encode_arguments("refunds", (), {"limit": 7}))
    assert wire.decode_answer("refunds", answer) == stub.answers["refunds"]
    assert stub.called("refunds")[-1] == ((), {"limit": 7})


def test_a_new_operation_has_a_list_in_the_terminal(stub: FakeInspector, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = watched(monkeypatch)
    view = lists.VIEWS[-1]
    assert "8 Refunds" in lists.tabs(view).plain
    drawn = view.draw(view.fetch(stub, lists.Asked(view)), lists.Asked(view), 80)
    assert [column.header for column in drawn.table.columns] == ["ID", "TENANT", "CENTS", "PAID"]
    assert len({target.key for target in drawn.targets}) == 2


def test_a_new_operation_has_a_page_with_a_link(stub: FakeInspector) -> None:
    browser = client_of(stub)
    browser.cookies.update(COOKIE)
    assert '<a href="/lists/refunds">Refunds</a>' in browser.get("/limits").text
    text = browser.get("/lists/refunds?tenant=acme&limit=7").text
    assert stub.called("refunds") == [((), {"tenant": "acme", "limit": 7})]
    assert '<td class="n" data-label="Cents">4,200</td>' in text
    assert "&lt;b&gt;" in text
    assert "/lists/refunds?tenant=acme&amp;limit=7&amp;after=r+2" in text
    assert browser.get("/lists/refunds?limit=x").status_code == 400
    stub.answers["refunds"] = RefundPage((), None)
    assert "There are no refunds." in browser.get("/lists/refunds").text


def test_every_query_is_described_and_none_is_shown_twice() -> None:
    assert new() == []
    names = [name for name in vars(Inspector) if name in wire.operations()]
    listed = [found.name for name in names if (found := query(name)) is not None]
    assert {"tasks", "dead", "limits", "batches", "schedules", "audit", "bulks", "tenants", "types"} <= {*listed}
