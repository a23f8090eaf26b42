"""The enqueue of a Django task in Django's transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from joblane.enqueue.producer import Producer
from joblane.testing import JobTester

Notes = Callable[[], list[str]]


def test_a_task_exists_once_the_transaction_commits(shop: Any, django_jobs: JobTester, notes: Notes) -> None:
    from django.db import transaction

    with transaction.atomic():
        result = shop.write.enqueue("committed")
        assert result.enqueued_at is not None
        assert shop.write.get_result(result.id).status == "READY"
        assert django_jobs.drain().invocations == 0
    django_jobs.drain()
    assert notes() == ["committed"]


def test_a_rollback_leaves_no_task(shop: Any, django_jobs: JobTester, notes: Notes) -> None:
    from django.db import transaction
    from django.tasks.exceptions import TaskResultDoesNotExist

    with transaction.atomic():
        result = shop.write.enqueue("undone")
        transaction.set_rollback(True)
    with pytest.raises(TaskResultDoesNotExist):
        shop.write.get_result(result.id)
    assert django_jobs.drain().invocations == 0


def test_only_what_is_outside_of_a_savepoint_that_failed_exists(
    shop: Any, django_jobs: JobTester, notes: Notes
) -> None:
    from django.db import transaction

    with transaction.atomic():
        shop.write.enqueue("before")
        with transaction.atomic():
            shop.write.enqueue("inside")
        with transaction.atomic():
            shop.write.enqueue("undone")
            transaction.set_rollback(True)
        shop.write.enqueue("after")
    django_jobs.drain()
    assert sorted(notes()) == ["after", "before", "inside"]


def test_a_process_that_ends_before_the_send_leaves_it_to_the_sweep(
    shop: Any, django_jobs: JobTester, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import transaction

    with monkeypatch.context() as patch, transaction.atomic():
        patch.setattr(Producer, "send_committed", lambda *_: None)
        shop.write.enqueue("late")
    assert django_jobs.drain().invocations == 0
    django_jobs.drain(within=timedelta(minutes=10))
    assert notes() == ["late"]
