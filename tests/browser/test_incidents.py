"""The page with all incidents at once: no overflow, no small text, and no finding of axe, on each route.

``python -m tests.incidents`` sets ``JOBLANE_SCREENSHOTS``: it takes pictures at four widths, light and dark.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import expect

from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.page.inspectors import Desk
from joblane.record.driver.database import Database
from joblane.sqs.client import Sqs
from joblane.sweep.run_statistics import add_up
from joblane.testing.databases import Databases
from tests.browser.conftest import Served, Site
from tests.browser.test_page import RULES, SMALLEST, Scheme, Visit, _violations
from tests.incidents import platform
from tests.incidents.happens import HAPPENS
from tests.integration.inspector.scene import Scene
from tests.world import PREFIX, World, mocked_aws

ROUTES = {
    "now": "/",
    "wall": "/?wall=1",
    "tasks": "/tasks?limit=20",
    "errors": "/errors",
    "types": "/types",
    "tenants": "/tenants",
    "statistics": "/statistics",
    "schedules": "/schedules",
    "limits": "/limits",
    "limit": "/limits/show?name=stripe",
    "waits": "/waits",
    "batches": "/batches",
    "batch": "/batches/show?id=import-7",
    "bulk": "/bulk",
    "audit": "/audit",
    "runs": "/runs?type=invoice:charge",
    "tenant": "/runs?tenant=megacorp",
    "why": "/runs/why?type=webhook:deliver",
    "task": "/task?id=sync-3",
    "task-retry": "/task?id=invoice-3",
    "task-held": "/task?id=held-1",
    "schedule": "/schedules/show?name=report:daily:0",
    "redrive": "/dead/redrive",
    "chart": "/chart",
    "find": "/find",
}
BOXES = """
[...document.querySelectorAll(".scroll, .workflow")].filter(box => box.scrollWidth > box.clientWidth + 1)
  .map(box => [box.className, box.firstElementChild.getAttribute("class"), box.scrollWidth, box.clientWidth])
"""
"""The boxes that scroll sideways."""
PICTURES = bool(os.environ.get("JOBLANE_SCREENSHOTS"))
WIDTHS = (1440, 768, 390, 360) if PICTURES else (1440, 768, 360)
SCHEMES: tuple[Scheme, ...] = ("light", "dark") if PICTURES else ("light",)


def served(joblane_databases: Databases, happens: Callable[[Scene], None]) -> Iterator[Site]:
    """The page over a stage of the platform, in which something has happened."""
    with (
        joblane_databases.clone() as url,
        pytest.MonkeyPatch.context() as patch,
        mocked_aws(patch),
        World.over(url) as world,
    ):
        patch.setenv("DATABASE_URL", url)
        patch.setenv("POWERTOOLS_METRICS_DISABLED", "true")
        scope = Scope(Database(url), world.sqs, PREFIX, platform.TASKS, "ann@desk")
        happens(Scene(world, scope))
        add_up(world.database.get(), may_continue=lambda: True)
        made: list[Database] = [scope.database]

        def connect() -> Inspector:
            made.append(Database(url))
            return Inspector(replace(scope, database=made[-1], sqs=Sqs()))

        desk = Desk(connect)
        with Served(desk, read_only=False) as page, Served(desk, read_only=True) as reading:
            yield Site(world, connect(), page, reading)
        for database in made:
            database.drop()


def all_incidents(scene: Scene) -> None:
    on = platform.healthy(scene)
    for name, happens in HAPPENS.items():
        if name != "mail_provider_is_down":  # the redrive has its tasks
            happens(on)


@pytest.fixture(scope="module")
def site(joblane_databases: Databases) -> Iterator[Site]:
    yield from served(joblane_databases, all_incidents)


def test_each_route_is_readable_with_all_incidents(visit: Visit, site: Site, axe: str) -> None:
    visitor, found = visit(), list[Any]()
    visitor.page.get_by_label("Find anything").fill("receipts")  # the page of the search then has results
    visitor.page.keyboard.press("Enter")
    expect(visitor.page.get_by_role("heading", name="Error contains it")).to_be_visible()
    for name, address in ROUTES.items():
        visitor.size(WIDTHS[0])
        page = visitor.go(address)
        page.evaluate("Object.defineProperty(document, 'hidden', {value: true})")  # no refresh in the middle of a check
        page.evaluate(axe)
        for width in WIDTHS:
            visitor.size(width)
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                visitor.keep(f"incidents-{name}-{width}-{scheme}")
                taken, seen = page.evaluate(
                    "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
                )
                found += [(name, width, "scrolls sideways", taken)] if taken > seen else []
                found += [(name, width, *each) for each in page.evaluate(BOXES)]
                found += [(name, width, "small text")] if page.evaluate(SMALLEST) < 11 else []
                if scheme in RULES and (PICTURES or width == WIDTHS[0]):
                    found += [(name, width, scheme, each) for each in _violations(page, scheme)]
        page.emulate_media(color_scheme="light")
    visitor.troubles[:] = [text for text in visitor.troubles if "status of 404" not in text]
    assert found == []
