"""Tests of Django's tasks with the real worker, in Django's test database."""

from __future__ import annotations

import os
from unittest import mock

from django.db import connections
from django.test import TransactionTestCase

from joblane import settings
from joblane.django.backend import joblane_backends
from joblane.django.database import url_of
from joblane.record.migrate import migrate
from joblane.telemetry import METRICS_DISABLED
from joblane.testing import JobTester

KEPT = ("alembic_version", "stage")
TABLES = """
select format('%%I.%%I', schemaname, tablename) from pg_tables where schemaname = 'joblane' and tablename <> all(%s)
"""


class JobTestCase(TransactionTestCase):  # type: ignore[misc]
    """A test in which Django's tasks are enqueued and run by the kit.

    It is a ``TransactionTestCase``, because a worker sees only what is committed. Joblane's tables are created in the
    test database, and emptied after each test.
    """

    jobs: JobTester
    """The kit, which knows all queues of ``TASKS``."""

    @classmethod
    def setUpClass(cls) -> None:
        """Create Joblane's tables."""
        super().setUpClass()
        for backend in joblane_backends():
            migrate(url_of(connections[backend.database].settings_dict), prefix=settings.prefix())

    def setUp(self) -> None:
        """Start the kit, which writes no metrics."""
        super().setUp()
        self.addCleanup(_empty)
        self.enterContext(mock.patch.dict(os.environ, {METRICS_DISABLED: "true"}))
        backends = joblane_backends()
        self.jobs = self.enterContext(JobTester(url_of(connections[backends[0].database].settings_dict)))
        self.jobs.register(*(backend.declared(name) for backend in backends for name in sorted(backend.queues)))


def _empty() -> None:
    for backend in joblane_backends():
        with connections[backend.database].cursor() as cursor:
            cursor.execute(TABLES, [list(KEPT)])
            cursor.execute(f"truncate {', '.join(name for (name,) in cursor.fetchall())}")
