"""Several days, each in a database of its own."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar

from joblane.local.postgres import Postgres
from joblane.record.driver.database import Database
from joblane.record.driver.stage import take_stage
from tests.conftest import administer
from tests.faults import server_of_its_own
from tests.faults.days import clock
from tests.faults.days.samples import PREFIX

R_co = TypeVar("R_co", covariant=True)
TEMPLATE = "days"
SETTINGS = {**server_of_its_own.SETTINGS, "autovacuum": "off"}
"""Each transaction of a background process counts as one that has not ended. A day has few rows to remove."""


class Lived(Protocol[R_co]):
    """A day, or anything else that has a database of its own while it lasts."""

    def go(self) -> R_co: ...


class Days:
    """Days on one server, which has no other sessions: an open transaction of another one would wake the sweep."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self._numbers = itertools.count(1)
        self.template = server.database_url(server_of_its_own.database(server, TEMPLATE))
        with Database(self.template, limits=None) as database:
            take_stage(database.get(), PREFIX, None)
            clock.install(database.get())

    @classmethod
    @contextmanager
    def on_own_server(cls) -> Iterator[Days]:
        with (
            TemporaryDirectory() as folder,
            Postgres(Path(folder) / "postgres", durable=True, settings=SETTINGS) as server,
        ):
            yield cls(server)

    def live(self, day: Callable[[str], Lived[R_co]]) -> R_co:
        """Live through a day. ``day``: makes it, for the address of its database."""
        name = f"day_{next(self._numbers)}"
        administer(self.server, f"create database {name} template {TEMPLATE}")
        disabled = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            return day(self.server.database_url(name)).go()
        finally:
            logging.disable(disabled)
            administer(self.server, f"drop database {name} with (force)")
