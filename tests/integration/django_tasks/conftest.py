"""A Django project with Joblane's backend, on a database with Joblane's tables and its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import django
import pytest

from joblane.testing import JobTester
from joblane.testing.databases import Databases
from tests import django_database
from tests.databases import SCHEMA, Clone

TASKS: Any = django_database.TASKS
collect_ignore_glob = [] if django.VERSION >= (6,) else ["*.py"]
"""Django has tasks from version 6 on, and that version needs Python 3.12."""


class Shops:
    """Databases with the tables of Joblane and of the shop."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._free: list[Clone] = []

    @contextmanager
    def lend(self) -> Iterator[str]:
        """Yield the URL of an empty one."""
        clone = self._free.pop() if self._free else self._new()
        with django_database.django_database(clone.url):
            yield clone.url
        if clone.emptied():
            self._free.append(clone)
        else:
            clone.drop()

    def _new(self) -> Clone:
        from django.db import connection

        from tests.integration.django_tasks.shop.models import Note

        clone = Clone(self._databases)
        with django_database.django_database(clone.url), connection.schema_editor() as editor:
            editor.create_model(Note)
        clone._schema = clone._run(SCHEMA)
        return clone

    def drop(self) -> None:
        while self._free:
            self._free.pop().drop()


@pytest.fixture(scope="session")
def shops(joblane_databases: Databases) -> Iterator[Shops]:
    """The databases of these tests."""
    django_database.configure()
    shops = Shops(joblane_databases)
    yield shops
    shops.drop()


@pytest.fixture
def database_url(shops: Shops) -> Iterator[str]:
    """The database of the test, for Joblane and for Django."""
    with shops.lend() as url:
        yield url


@pytest.fixture
def shop(database_url: str) -> Iterator[Any]:
    """The module with the shop's tasks."""
    from tests.integration.django_tasks.shop import tasks

    yield tasks
    tasks.hooks.clear()


def backend(**options: Any) -> dict[str, Any]:
    """An entry of `TASKS` with further options."""
    return {**TASKS, "OPTIONS": {**TASKS["OPTIONS"], **options}}


@pytest.fixture
def django_jobs(shop: Any, jobs: JobTester) -> JobTester:
    """The kit, which knows the queues of the project."""
    from joblane.tasks.discovery import load

    jobs.register(*(load(f"django:{name}", TASKS["OPTIONS"]["functions"]) for name in TASKS["QUEUES"]))
    return jobs


@pytest.fixture
def run(django_jobs: JobTester) -> Callable[..., Any]:
    """Enqueue a Django task, run all that is due, and return its result, refreshed."""

    def run(task: Any, *args: Any, **kwargs: Any) -> Any:
        result = task.enqueue(*args, **kwargs)
        django_jobs.drain()
        result.refresh()
        return result

    return run


@pytest.fixture
def finished() -> Iterator[list[Any]]:
    """The results that the signal `task_finished` was sent with."""
    from django.tasks.signals import task_finished

    sent: list[Any] = []

    def receive(*, task_result: Any, **_: Any) -> None:
        sent.append(task_result)

    task_finished.connect(receive)
    yield sent
    task_finished.disconnect(receive)


@pytest.fixture
def notes(shop: Any) -> Callable[[], list[str]]:
    """The lines that tasks have written."""
    from tests.integration.django_tasks.shop.models import Note

    return lambda: list(Note.objects.order_by("id").values_list("text", flat=True))
