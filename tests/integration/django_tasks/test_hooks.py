"""Hooks around the runs of Django tasks: inside of Django's transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from joblane import TaskContext, around
from joblane.django import current_run
from joblane.errors import HookError
from joblane.testing import JobTester
from joblane.worker import hooks as module

Run = Callable[..., Any]
Notes = Callable[[], list[str]]


def declare_hook(shop: Any) -> list[str]:
    """Declare a hook that writes before and after its yield. Return what it sees."""
    seen: list[str] = []

    @around
    def writes(ctx: TaskContext) -> Iterator[None]:
        assert current_run() is ctx
        shop.Note.objects.create(text="before")
        try:
            yield
        except Exception as error:
            seen.append(type(error).__name__)
        else:
            seen.append("returned")
            shop.Note.objects.create(text="after")

    return seen


def check_transaction(shop: Any, run: Run, notes: Notes) -> None:
    seen = declare_hook(shop)
    assert run(shop.write_and_fail, "undone").status == "FAILED"
    assert (notes(), seen) == ([], ["RefusedError"] * 2)


@pytest.mark.parametrize("name", ["write", "write_async"])
def test_what_a_hook_writes_commits_with_the_task(shop: Any, run: Run, notes: Notes, name: str) -> None:
    seen = declare_hook(shop)
    assert run(getattr(shop, name), "it").status == "SUCCESSFUL"
    assert (notes(), seen) == (["before", "it", "after"], ["returned"])


def test_what_a_hook_writes_is_rolled_back_with_the_task(shop: Any, run: Run, notes: Notes) -> None:
    check_transaction(shop, run, notes)


def test_a_hook_that_fails_first_spends_no_attempt_and_ends_no_task(
    shop: Any, django_jobs: JobTester, notes: Notes, finished: list[Any]
) -> None:
    @around("django:mail")
    def fails(ctx: TaskContext) -> Iterator[None]:
        shop.Note.objects.create(text="undone")
        raise KeyError("tenant")
        yield

    result = shop.write.using(queue_name="mail").enqueue("it")  # a queue with one attempt
    django_jobs.drain()
    task = django_jobs.task(result.id)
    assert (task.state, task.attempts, task.error_type) == ("pending", 0, HookError.__name__)
    assert (notes(), finished) == ([], [])


def test_a_hook_outside_of_the_transaction_is_found(
    shop: Any, run: Run, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OWN_TRANSACTION", "nothing has it")
    with pytest.raises(AssertionError):
        check_transaction(shop, run, notes)
