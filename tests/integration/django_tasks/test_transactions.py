"""The enqueue of a Django task in Django's transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.tasks.exceptions import TaskResultDoesNotExist

from joblane import Payload, TaskContext, task
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


def test_a_signal_counts_once_the_transaction_commits(shop: Any, django_jobs: JobTester) -> None:
    @task("shop:wait", front_door=False)
    def shop_wait(payload: Payload, ctx: TaskContext) -> Any:
        return ctx.wait("approval", timeout=timedelta(hours=1))

    id_ = django_jobs.enqueue(shop_wait, Payload()).id
    django_jobs.drain()
    for value, is_undone in ((1, True), (2, False)):
        with transaction.atomic():
            assert django_jobs.client.signal(id_, "approval", value, connection=connection)
            assert django_jobs.drain().invocations == 0
            transaction.set_rollback(is_undone)
        assert django_jobs.drain().invocations == (0 if is_undone else 1)
    assert django_jobs.task(id_).result == 2
