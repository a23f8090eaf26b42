"""A real browser on the real page, over a database with some thousand tasks, and queues in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.page.app import build
from joblane.page.inspectors import Desk
from joblane.page.security import Keys, address_of
from joblane.page.server import listen, server
from joblane.record.driver.database import Database
from joblane.record.schedules import register
from joblane.sqs.client import Sqs
from joblane.tasks.discovery import discover
from joblane.testing.databases import Databases
from tests.browser.chromium import chromium
from tests.browser.seeding import SCHEDULES, seed
from tests.pages import ROOT
from tests.patience import PATIENCE_SECONDS, await_true
from tests.world import PREFIX, World, mocked_aws

TASKS = 5_000
SCREENSHOTS = ROOT / ".joblane" / "screenshots"
QUIET = (
    "--renderer-process-limit=1",  # one for each context; two contexts share none
    "--disable-gpu",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
)
"""The browser sends no requests of its own, and resolves no name."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = chromium()
    args = [*QUIET, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=executable, args=args)
        yield made
        made.close()


@dataclass
class Site:
    """The page, and the world behind it. ``read_only``: a second page that refuses actions."""

    world: World
    inspector: Inspector
    page: Served
    read_only: Served

    def seed_schedules(self) -> None:
        """Put the schedules that a test has deleted."""
        self.world.run(SCHEDULES)

    def work(self, type_: str) -> None:
        """Run all messages in the lane of a type."""
        task = discover(times={})[type_]
        while bodies := [message["Body"] for message in self.world.take(task)]:
            self.world.deliver(task, *bodies, seconds=600.0)


@pytest.fixture(scope="module")
def site(joblane_databases: Databases) -> Iterator[Site]:
    with (
        joblane_databases.clone() as url,
        pytest.MonkeyPatch.context() as patch,
        mocked_aws(patch),
        World.over(url) as world,
    ):
        patch.setenv("DATABASE_URL", url)
        patch.setenv("POWERTOOLS_METRICS_DISABLED", "true")
        world.deploy(discover(times={}).values())
        register(world.database.get(), discover(times={}))
        seed(world.database.get(), TASKS)
        made: list[Database] = []

        def connect() -> Inspector:
            made.append(Database(url))
            return Inspector(Scope(made[-1], Sqs(), PREFIX, discover(times={}), "ann@desk"))

        desk = Desk(connect)
        with Served(desk, read_only=False) as page, Served(desk, read_only=True) as reading:
            yield Site(world, connect(), page, reading)
        for database in made:
            database.drop()


class Served:
    """A page that a thread serves until the block ends. ``address``: signs the next browser in."""

    def __init__(self, desk: Desk, *, read_only: bool) -> None:
        self._listening = listen(0)
        port, keys = self._listening.getsockname()[1], Keys()
        self._server = server(build(desk, port=port, keys=keys, read_only=read_only, say=self._renewed))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listening]})
        self.address = address_of(port, keys.token)

    def _renewed(self, line: str) -> None:
        self.address = line.rpartition(" ")[2]

    def __enter__(self) -> Self:
        self._thread.start()
        await_true(lambda: self._server.started, lambda: "the server of the page did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the server of the page did not stop"
        self._listening.close()


@dataclass
class Visitor:
    """A browser on the page. ``base``: the beginning of all addresses; ``troubles``: errors of the console;
    ``strayed``: requests to other hosts."""

    context: BrowserContext
    page: Page
    base: str
    troubles: list[str]
    strayed: list[str]

    def go(self, path: str) -> Page:
        self.page.goto(self.base + path)
        return self.page

    def size(self, width: int) -> None:
        self.page.set_viewport_size({"width": width, "height": 900})

    def keep(self, name: str) -> None:
        """Take a screenshot if ``JOBLANE_SCREENSHOTS`` is set."""
        if not os.environ.get("JOBLANE_SCREENSHOTS"):
            return
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Callable[..., Visitor]]:
    """Open the page at its printed address; at the end there must be no troubles and no strayed requests."""
    visitors: list[Visitor] = []

    def open_it(served: Served | None = None, **options: Any) -> Visitor:
        address = (served or site.page).address
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE_SECONDS * 1000)
        origin = address.partition("/?")[0]
        visitor = Visitor(context, context.new_page(), origin, [], [])
        visitors.append(visitor)

        def listened(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                visitor.troubles.append(message.text)

        def asked(request: Request) -> None:
            if not request.url.startswith(origin + "/"):
                visitor.strayed.append(request.url)

        visitor.page.on("console", listened)
        visitor.page.on("pageerror", lambda error: visitor.troubles.append(str(error)))
        context.on("request", asked)
        visitor.page.goto(address)
        visitor.base = visitor.page.url.rstrip("/")
        return visitor

    yield open_it
    for visitor in visitors:
        visitor.context.close()
        assert visitor.troubles == []
        assert visitor.strayed == []


@pytest.fixture(scope="session")
def axe() -> str:
    """The accessibility checker axe, in the version of package-lock.json."""
    return Path(ROOT / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
