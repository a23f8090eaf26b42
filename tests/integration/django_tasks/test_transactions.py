"""The enqueue of a Django task in Django's transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction
from django.tasks.exceptions import TaskResultDoesNotExist

from joblane.testing import JobTester

Notes = Callable[[], list[str]]


def test_a_task_exists_once_the_transaction_commits(shop: Any, django_jobs: JobTester, notes: Notes) -> None:
    with transaction.atomic():
        result = shop.write.enqueue("committed")
        assert result.enqueued_at is not None
        assert shop.write.get_result(result.id).status == "READY"
        assert django_jobs.drain().invocations == 0
    django_jobs.drain()
    assert notes() == ["committed"]


def test_a_rollback_leaves_no_task(shop: Any, django_jobs: JobTester, notes: Notes) -> None:
    with transaction.atomic():
        result = shop.write.enqueue("undone")
        transaction.set_rollback(True)
    with pytest.raises(TaskResultDoesNotExist):
        shop.write.get_result(result.id)
    assert django_jobs.drain().invocations == 0
