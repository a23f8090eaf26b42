"""The picture of the page in the documentation: ``python -m tests.incidents docs/images/page.png`` takes it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from joblane.testing.databases import Databases
from tests.browser.conftest import Site
from tests.browser.test_incidents import served
from tests.browser.test_page import Visit
from tests.incidents.day import day


@pytest.fixture(scope="module")
def site(joblane_databases: Databases) -> Iterator[Site]:
    yield from served(joblane_databases, day)


def test_the_start_page_is_a_picture(visit: Visit) -> None:
    visitor = visit()
    visitor.size(1200)
    visitor.go("/").screenshot(path=os.environ["JOBLANE_PICTURE"], clip={"x": 0, "y": 0, "width": 1200, "height": 516})
